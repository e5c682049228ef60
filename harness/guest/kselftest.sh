#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs in the guest: kselftest.sh TESTS [CATEGORY...]; KSM_O is the kernel's mm/ksm.o,
# KSM_RMAP_ARGS what ksm_rmap.sh gets to run some of its tests only
#
# Gives the mm selftests (installed in the folder TESTS) what they ask for, runs
# all or just these categories of them, and prints their TAP.

set -eu

tests=$1
shift
# shellcheck source=harness/guest/debug.sh
. "$(dirname "$0")/debug.sh"
watch_races "$KSM_O"

# Not the host's root: 9p does not do all that a file system does, and tests want
# one that has large folios and handles memory failure
work=/run/mm
mkdir $work
mount -t tmpfs -o size=1500M tmpfs $work
truncate -s 600M $work/xfs.img
mkfs.xfs -q $work/xfs.img
mkdir $work/xfs
mount -o loop $work/xfs.img $work/xfs
export SPLIT_HUGE_PAGE_TEST_XFS_PATH=$work/xfs
cp -a "$tests" $work/xfs/mm
cd $work/xfs/mm
# With the checkout, which has the modules, where it was, if that is below
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir $work/here
mount --bind "$here" $work/here
mount -t tmpfs tmpfs /tmp
case $here/ in /tmp/*)
	mkdir -p "$here"
	mount --bind $work/here "$here"
	;;
esac
# Where the hugetlb tests mount; on the host's root it cannot be written to
mount -t tmpfs tmpfs /mnt

echo 1 >/proc/sys/vm/overcommit_memory
echo 256 >/proc/sys/vm/nr_hugepages
# Soft limits that vary from host to host
ulimit -n 4096 -l 65536 2>/dev/null || :

# ksm_tests waits for as many scans as a merge takes when no page is skipped, and
# does not know that smart scan skips some
echo 0 >/sys/kernel/mm/ksm/smart_scan

# On one CPU: UFFDIO_UNREGISTER wakes the range, then write-locks the VMA, and a fault
# on another CPU may come in between; the test does not expect that and ends
# (UFFDIO_COPY: ENOENT), on the unpatched kernel too
mv uffd-unit-tests uffd-unit-tests.real
# shellcheck disable=SC2016
printf '#!/bin/sh\nexec taskset -c 0 ./uffd-unit-tests.real "$@"\n' >uffd-unit-tests
chmod +x uffd-unit-tests

if [ -n "${KSM_RMAP_ARGS:-}" ]; then
	mv ksm_rmap.sh ksm_rmap_some.sh
	printf '#!/bin/sh\nexec ./ksm_rmap_some.sh %s\n' "$KSM_RMAP_ARGS" >ksm_rmap.sh
	chmod +x ksm_rmap.sh
fi

# ksm_rmap.sh provides these by itself: show that it does when it runs alone
if [ "$*" != ksm_rmap ]; then
	# Swap that is as fast as memory, and enough of it
	modprobe zram 2>/dev/null || :
	echo 512M >/sys/block/zram0/disksize
	mkswap /dev/zram0 >/dev/null
	swapon /dev/zram0
	export KSM_RMAP_SWAP=/dev/zram0

	# For tests that charge, or reclaim from, a cgroup of their own
	mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup
	for c in memory hugetlb; do
		echo +$c >/sys/fs/cgroup/cgroup.subtree_control
	done

	# To put poisoned pages back
	[ -e /sys/kernel/debug/hwpoison ] || modprobe hwpoison_inject
fi

rc=0
if [ $# -gt 0 ]; then
	./run_vmtests.sh -t "$*" </dev/null || rc=$?
else
	./run_vmtests.sh -a </dev/null || rc=$?
fi
look_back
exit $rc
