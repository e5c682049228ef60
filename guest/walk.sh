#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Runs in the guest: walk.sh BENCH CASE...; each CASE is VMAs,sharers,forks,runs, or
# VMAs,sharers,processes-p,runs. Prints a line of comma-separated values a case.

set -eu

bench=$1
shift
# Memory for tens of thousands of VMAs a process is not committed memory
echo 1 >/proc/sys/vm/overcommit_memory
rc=0
"$bench" -cc
for case; do
	echo "$case" | {
		IFS=, read -r vmas sharers forks runs
		own=
		[ "$forks" = "${forks%-p}" ] || own=-p
		# shellcheck disable=SC2086 # an option, or none
		"$bench" -v "$vmas" -s "$sharers" -f "${forks%-p}" $own -r "$runs" -c
	} || rc=$?
done
exit $rc
