#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Runs in the guest: coverage.sh TESTS GCDA
#
# Runs the KSM tests, and the soak, both installed in the folder TESTS. Then prints
# the counters that gcov keeps in GCDA, a path below /sys/kernel/debug/gcov, in base64.

set -eu
here=$(dirname "$0")

rc=0
"$here/kselftest.sh" "$1" ksm ksm_rmap rmap || rc=$?
"$here/soak.sh" "$1" -t 240 || rc=$?
base64 "/sys/kernel/debug/gcov$2" | sed 's/^/# gcda /'
exit $rc
