# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# What a walk costs, by ksm_rmap_bench in guests of several kernels. Sourced after
# lib.sh; accel_of comes first.
# shellcheck disable=SC2034 # some is for those who source it

BENCH=$B/bench${MACHINE:+-$MACHINE}/ksm_rmap_bench

# VMAs, sharers, forks, walks measured, mode and options. One sharer is an anonymous page, whose
# walk is the limit; -p: other processes with pages of their own, not forks
CASES='1,2,0,9 1,256,0,9 100,2,0,9 100,256,0,9 1000,2,0,9 1000,256,0,5
20000,2,0,9 20000,256,0,3 60000,2,0,3 1,1,255,9,walk,-p 1,2,100,9 1,64,100,3 1,256,100,3
100,2,100,9 100,256,100,1 1000,2,100,5 1000,256,100,1 2000,2,100,5 20000,2,100,3
1,1,0,9 1,1,1,9 1,1,201,9 1,1,255,9'

# The mm Makefile builds all, or what is named in full. ksm_tests is for make bench
make_bench() {
	local linux=$B/linux bench=${BENCH%/*}
	mkdir -p "$bench" && make -C "$linux" -s O="$OUT" "${CROSS_MAKE[@]}" headers &&
		make -C "$linux/tools/testing/selftests/mm" "${CROSS_MAKE[@]}" \
			${GUEST_ROOT:+USERCFLAGS="--sysroot=$GUEST_ROOT"} \
			OUTPUT="$bench" KHDR_INCLUDES="-isystem $linux/$OUT/usr/include" \
			"$BENCH" "$bench/ksm_tests"
}
build_bench() { run 'building the benchmark' "$LOGS/bench.log" make_bench; }

# Leaves in UNIT what a nanosecond of the guest is, and in OPTIONS the options of boot for that
accel_of() { # BUILD
	local accel
	accel=$("$ROOT/harness/lib/boot" --accel "$1")
	UNIT=nanoseconds OPTIONS=()
	[ "$accel" = kvm ] || UNIT=instructions OPTIONS=(--icount)
}

# What SCRIPT prints in the guest goes to CSV; its logs stand beside. Status 1: a mapping was missed;
# 3: the kernel reported something, which is in the log
measure() { # CSV BUILD SCRIPT ARG...
	local csv=$1 build=$2 script=$3 rc=0
	shift 3
	"$ROOT/harness/lib/boot" "${OPTIONS[@]}" --limit "$LIMIT" --console "${csv%.csv}.console" \
		"$build" "$ROOT/harness/guest/$script" "$@" >"$csv" 2>"${csv%.csv}.log" || rc=$?
	python3 "$ROOT/harness/report" klog "${csv%.csv}.console" >>"${csv%.csv}.log" || rc=3
	return $rc
}

# Two at a time, where instructions are counted: they do not depend on how busy it is.
# Status: the greatest
two_at_once() { # COMMAND..., each with its words
	local command n=2 running=0 rc=0
	[ "$UNIT" = instructions ] || n=1
	one_less() {
		local status=0
		wait -n || status=$?
		[ $status -le $rc ] || rc=$status
		running=$((running - 1))
	}
	for command; do
		[ $running -lt $n ] || one_less
		$command &
		running=$((running + 1))
	done
	while [ $running != 0 ]; do one_less; done
	return $rc
}
