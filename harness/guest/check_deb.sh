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

# Each case is a function: one result; what it says is shown if it fails
cases() { # CASE...
	local n=0 failed=0 said
	echo 'TAP version 13'
	for c; do
		n=$((n + 1))
		if said=$("$c" 2>&1); then
			echo "ok $n $c"
		else
			failed=1
			# shellcheck disable=SC2001 # each line
			sed 's/^/# /' <<<"$said"
			echo "not ok $n $c"
		fi
	done
	echo "1..$n"
	return $failed
}

# Each program is one result, with its cases in it
programs=0 status=0
program() { # NAME COMMAND...
	local name=$1 rc
	shift
	programs=$((programs + 1))
	echo "# running ./$name"
	"$@" 2>&1 | sed -u 's/^/# /'
	rc=${PIPESTATUS[0]}
	if [ "$rc" = 0 ]; then
		echo "ok $programs $name"
	else
		status=1
		echo "not ok $programs $name # exit=$rc"
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
walk_is_bounded() {
	ksm_rmap_check --json >/tmp/report && grep '"walk": "bounded"' /tmp/report && return
	cat /tmp/report
	return 1
}
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
program check_deb cases kernel_is_the_package root_is_the_disk modules_load module_builds ksm_merges walk_is_bounded
program ksm_rmap.sh "$tests/ksm_rmap.sh"
program remove_deb cases packages_are_removed nothing_is_left
echo "1..$programs"
end $status
