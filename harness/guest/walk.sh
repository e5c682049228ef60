#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Runs in the guest: walk.sh BENCH CASE...; each CASE is VMAs,sharers,forks,runs and,
# after one more comma each, the mode of ksm_rmap_bench, walk by default, and further
# options, if any. Prints lines of comma-separated values, after one that names them.

set -eu
# shellcheck source=harness/guest/bench.sh
. "$(dirname "$0")/bench.sh"

bench=$1
shift
# For what is swapped out
if mountpoint -q /sys/fs/cgroup || mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null; then
	echo +memory >/sys/fs/cgroup/cgroup.subtree_control
fi
rc=0
named=
for case; do
	IFS=, read -r vmas sharers forks runs mode options <<-END
		$case
	END
	# shellcheck disable=SC2046 # as many as there are
	set -- $(echo "$options" | tr , ' ')
	mode=${mode:-walk}
	[ -n "$named" ] || "$bench" "$mode" "$@" -cc
	named=1
	case $mode in walk | sweep) set -- -r "$runs" "$@" ;; esac
	"$bench" "$mode" -v "$vmas" -s "$sharers" -f "$forks" "$@" -c || rc=$?
done
exit $rc
