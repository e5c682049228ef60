#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Runs the tests of KSM's reverse mapping with what they ask for: swap, memory cgroups,
# huge pages, and a way to put poisoned pages back.  Provides what is missing, if this
# machine can have it, and takes it away in the end.  Arguments, such as -t TEST, go to
# each of the programs, which have different tests.

set -u
cgroups=/sys/fs/cgroup
hwpoison=/sys/kernel/debug/hwpoison
sizes=/sys/kernel/mm/transparent_hugepage/hugepages-
swap=
zram=
zram_module=
file=
mounted=
controller=
hwpoison_module=
huge=

# Somebody may be looking at a device that is new
remove_zram() {
	for _ in 1 2 3 4 5; do
		echo "$zram" 2>/dev/null >/sys/class/zram-control/hot_remove && return
		sleep 1
	done
	echo "# $swap cannot be removed"
}

restore() {
	[ -z "$swap" ] || swapoff "$swap" 2>/dev/null
	[ -z "$zram" ] || remove_zram
	[ -z "$zram_module" ] || modprobe -r zram
	[ -z "$file" ] || { losetup -d "$swap"; rm -f "$file"; }
	# Of a test that was killed
	rmdir $cgroups/ksm_rmap.* 2>/dev/null
	[ -z "$controller" ] || echo -memory >$cgroups/cgroup.subtree_control
	[ -z "$mounted" ] || umount $cgroups
	[ -z "$hwpoison_module" ] || modprobe -r hwpoison_inject
	for size in $huge; do echo never >"$sizes$size/enabled"; done
}
trap restore EXIT
trap 'exit 1' INT TERM HUP

provide_swap() {
	if [ ! -d /sys/class/zram-control ] && modprobe -q zram; then
		zram_module=1
	fi
	if zram=$(cat /sys/class/zram-control/hot_add 2>/dev/null); then
		swap=/dev/zram$zram
		echo 512M >"/sys/block/zram$zram/disksize" || return
	else
		file=$(mktemp /var/tmp/ksm_rmap.XXXXXX) || return
		dd if=/dev/zero of="$file" bs=1M count=256 2>/dev/null || return
		swap=$(losetup -f --show "$file") || return
	fi
	mkswap "$swap" >/dev/null && swapon "$swap" || return
	# Tests may turn it off, as nobody else needs it
	export KSM_RMAP_SWAP="$swap"
}

[ "$(wc -l </proc/swaps)" -gt 1 ] || provide_swap ||
	echo "# cannot provide swap"

if ! mountpoint -q $cgroups; then
	mount -t cgroup2 none $cgroups && mounted=1
fi
if ! grep -qsw memory $cgroups/cgroup.subtree_control; then
	echo +memory >$cgroups/cgroup.subtree_control && controller=1
fi
if [ ! -d $hwpoison ]; then
	modprobe -q hwpoison_inject && hwpoison_module=1
fi

# Sizes other than the CPU's own are off by default; that is 512 MiB with pages of 64 KiB
for size in 64kB 2048kB; do
	if grep -qs '\[never\]' "$sizes$size/enabled"; then
		echo madvise >"$sizes$size/enabled" && huge="$huge $size"
	fi
done

failed=0
stopped=
tests=
# Whoever stops this waits until all is as it was
trap 'stopped=1; [ -z "$tests" ] || kill "$tests"' INT TERM HUP
for program in ksm_rmap ksm_rmap_vma ksm_rmap_fork ksm_rmap_keys ksm_rmap_migrate \
	ksm_rmap_swap ksm_rmap_failure; do
	"$(dirname "$0")/$program" "$@" &
	tests=$!
	[ -z "$stopped" ] || kill "$tests"
	wait "$tests"
	rc=$?
	wait "$tests" 2>/dev/null
	tests=
	[ $rc -le $failed ] || failed=$rc
	[ -z "$stopped" ] || break
done
[ $failed = 0 ] || exit $failed
[ -z "$stopped" ] || exit 1
