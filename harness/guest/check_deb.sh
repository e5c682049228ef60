#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# The first program of a guest that runs the packages of `make deb`, installed on its disk. Prints on
# the first serial port what run_vmtests.sh would: one program has this script's cases, the next the tests
# of rmap, and the last removes the packages. Then it switches the machine off.
#
# check_deb --list: the files of the system, but for those that come and go with any package

set -u
export PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin

list() {
	find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /root \
		-o -path /var/cache -o -path /var/log -o -path /var/lib/apt -o -name '*-old' -o -path /lost+found \) \
		-prune -o -print | sort
}
[ "${1:-}" != --list ] || { list; exit; }

# The status is what harness/lib/boot looks for in the kernel log
end() { # STATUS
	# Or what the serial port has not sent yet is lost
	sync
	sleep 1
	echo "ksm-rmap: exit $1" >/dev/kmsg
	echo o >/proc/sysrq-trigger
	sleep 60
}

mount -t proc proc /proc 2>/dev/null
mount -t sysfs sysfs /sys 2>/dev/null
mount -t debugfs debugfs /sys/kernel/debug
mount -t tmpfs tmpfs /tmp
mount -o remount,rw / || end 1
exec >/dev/ttyS0 2>&1

# CASE COMMAND...: one result; what the command says is shown if it fails
n=0 failed=0
check() {
	local name=$1 said
	shift
	n=$((n + 1))
	if said=$("$@" 2>&1); then
		echo "# ok $n $name"
	else
		failed=1
		# shellcheck disable=SC2001 # each line
		sed 's/^/# # /' <<<"$said"
		echo "# not ok $n $name"
	fi
}

release=$(sed -n 's/.*\brelease=\([^ ]*\).*/\1/p' /proc/cmdline)
kernel_is_the_package() { uname -r && [ "$(uname -r)" = "$release" ]; }
root_is_the_disk() { findmnt / && [ "$(findmnt -no SOURCE /)" = /dev/vda ] && grep -w '^ext4' /proc/modules; }
modules_load() { modprobe -v hwpoison_inject && modprobe -v -r hwpoison_inject; }
# A module that does nothing, by the installed headers
module_builds() {
	mkdir /tmp/module &&
		echo 'obj-m := nothing.o' >/tmp/module/Makefile &&
		printf '#include <linux/module.h>\nMODULE_LICENSE("GPL");\n' >/tmp/module/nothing.c &&
		make -C "/lib/modules/$release/build" M=/tmp/module modules &&
		insmod /tmp/module/nothing.ko && rmmod nothing
}
ksm_merges() {
	echo 1 >/sys/kernel/mm/ksm/run && "$tests/ksm_rmap_bench" walk -v 100 -s 64 -r 3
}
walk_is_bounded() { ksm_rmap_check --json && ksm_rmap_check --json | grep '"walk": "bounded"'; }
packages_are_removed() {
	local p
	mapfile -t p < <(dpkg-query -W -f '${Package}\n' 'linux-image-*' 'linux-headers-*' ksm-rmap-tests)
	[ ${#p[@]} = 3 ] && DEBIAN_FRONTEND=noninteractive apt-get -y purge "${p[@]}"
}
nothing_is_left() {
	list >/tmp/after && [ -s /var/cache/before ] && comm -13 /var/cache/before /tmp/after >/tmp/left &&
		cat /tmp/left && [ ! -s /tmp/left ]
}

tests=/usr/libexec/ksm-rmap-tests
echo 'TAP version 13'
echo '# running ./check_deb'
echo '# TAP version 13'
check kernel_is_the_package kernel_is_the_package
check root_is_the_disk root_is_the_disk
check modules_load modules_load
check module_builds module_builds
check ksm_merges ksm_merges
check walk_is_bounded walk_is_bounded
echo "# 1..$n"
if [ $failed = 0 ]; then echo 'ok 1 check_deb'; else echo 'not ok 1 check_deb # exit=1'; fi

echo '# running ./ksm_rmap.sh'
rc=0
"$tests/ksm_rmap.sh" 2>&1 | sed -u 's/^/# /'
rc=${PIPESTATUS[0]}
if [ "$rc" = 0 ]; then echo 'ok 2 ksm_rmap.sh'; else echo "not ok 2 ksm_rmap.sh # exit=$rc"; fi

echo '# running ./remove_deb'
echo '# TAP version 13'
n=0 failed_before=$failed failed=0
check packages_are_removed packages_are_removed
check nothing_is_left nothing_is_left
echo "# 1..$n"
if [ $failed = 0 ]; then echo 'ok 3 remove_deb'; else echo 'not ok 3 remove_deb # exit=1'; fi
echo 1..3
[ "$rc" = 0 ] && [ $failed = 0 ] && [ $failed_before = 0 ] && end 0
end 1
