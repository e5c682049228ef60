#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Runs in the guest: cost.sh COST KSM_TESTS [RUNS]. Prints a line of comma-separated
# values a case: those of cost, and the times that the kernel's own ksm_tests prints,
# with KSM's mebibytes as the check.

set -eu
# shellcheck source=harness/guest/bench.sh
. "$(dirname "$0")/bench.sh"

cost=$1
ksm_tests=$2
runs=${3:-9}

rc=0
# From memory: what exec reads from the host takes as long as the host
mkdir /run/cost
mount -t tmpfs tmpfs /run/cost
cp "$cost" /run/cost/cost
/run/cost/cost || rc=$?

# ksm_tests waits for scans as if no page were ever skipped
echo 0 >/sys/kernel/mm/ksm/smart_scan
# Merging, the same with huge pages, COW (of which the second time is that of KSM
# pages, and the first of ordinary ones), unmerging
for option in P H C D; do
	i=0
	while [ $i -lt "$runs" ]; do
		"$ksm_tests" -$option -s 32 -l 120 || echo "FAIL: ksm_tests -$option"
		i=$((i + 1))
	done | awk -v name="ksm_tests_$option" -v runs="$runs" '
		/^FAIL/ { print; bad = 1 }
		/Not merged/ { sub_name = "_ordinary" }
		/Merged pages/ { sub_name = "" }
		/Total size/ { size = $(NF - 1) }
		/Total time/ {
			n = name sub_name
			ns[n, ++count[n]] = $(NF - 1) * 1e9
		}
		END {
			for (n in count) {
				for (i = 2; i <= runs; i++)
					for (j = i; j > 1 && ns[n, j] < ns[n, j - 1]; j--) {
						t = ns[n, j]
						ns[n, j] = ns[n, j - 1]
						ns[n, j - 1] = t
					}
				printf "%s,ns,%d,%.0f,%.0f,%.0f,%d\n", n, count[n], ns[n, 1],
					ns[n, int((runs + 1) / 2)], ns[n, runs], size
			}
			exit bad
		}' || rc=$?
done
exit $rc
