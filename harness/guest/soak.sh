#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs in the guest: soak.sh TESTS [OPTION...]; KSM_O is the kernel's mm/ksm.o
#
# Gives ksm_rmap_soak (installed in the folder TESTS) swap that takes its time, so
# that pages are seen in the swap cache, and runs it. Prints what run_vmtests.sh
# would.

set -eu -o pipefail

tests=$1
shift
# shellcheck source=harness/guest/debug.sh
. "$(dirname "$0")/debug.sh"
watch_races "$KSM_O"

mkdir /run/soak
# noswap: the swap file must not be swapped out to itself
mount -t tmpfs -o size=1G,noswap tmpfs /run/soak
truncate -s 768M /run/soak/swap
swap=$(losetup -f --show /run/soak/swap)
mkswap "$swap" >/dev/null
swapon "$swap"

# To put soft-offlined pages back
[ -e /sys/kernel/debug/hwpoison ] || modprobe hwpoison_inject
# Huge pages of sizes that are off by default, too
for size in /sys/kernel/mm/transparent_hugepage/hugepages-{64,2048}kB/enabled; do
	! grep -qs '\[never\]' "$size" || echo madvise >"$size"
done
# For memory.reclaim
mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup

rc=0
echo 'TAP version 13'
echo '# running ./ksm_rmap_soak'
"$tests/ksm_rmap_soak" "$@" 2>&1 | sed -u 's/^/# /' || rc=$?
if [ "$rc" = 0 ]; then echo 'ok 1 ksm_rmap_soak'; else echo "not ok 1 ksm_rmap_soak # exit=$rc"; fi
look_back
echo 1..1
exit "$rc"
