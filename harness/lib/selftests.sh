# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# The selftests, and a kernel to run them on. Sourced after lib.sh.
#
#   KERNEL=unpatched      that kernel
#   FLAVOR=debug          one built for that
#   KERNEL_BUILD=/path    the one in that build folder

KERNEL=${KERNEL:-patched}
case $KERNEL in patched | unpatched) ;; *) die "KERNEL=$KERNEL: leave it out, or say unpatched" ;; esac
SELFTESTS=$B/linux/tools/testing/selftests
KSELFTEST=$B/kselftest${MACHINE:+-$MACHINE}
KNOWN=$ROOT/bases/$BASE/known${CROSS:+-$ARCH_NAME}.txt

# Leaves the kernel's build folder in KERNEL_BUILD
build_kernel() {
	[ -z "${KERNEL_BUILD:-}" ] || return 0
	sub "$ROOT/harness/build" "$KERNEL"
	# The selftests, and a module of theirs, are built against it
	[ "$KERNEL" = patched ] || sub env FLAVOR="$MACHINE" "$ROOT/harness/build" patched
	KERNEL_BUILD=$B/$KERNEL${FLAVOR:+-$FLAVOR}
}

# FORCE_TARGETS: a test that does not build must not just be missing. A module of theirs
# fits only the kernel that it is built against
make_selftests() {
	local flavor=$FLAVOR out
	[ "$KERNEL" = patched ] || flavor=$MACHINE
	out=out${flavor:+-$flavor}
	make -C "$B/linux" -s O="$out" "${CROSS_MAKE[@]}" headers &&
		make -C "$SELFTESTS" -j"$(nproc)" O="$B/linux/$out" "${CROSS_MAKE[@]}" \
			${GUEST_ROOT:+USERCFLAGS="--sysroot=$GUEST_ROOT"} \
			TARGETS=mm FORCE_TARGETS=1 INSTALL_PATH="$KSELFTEST" install
}

build_selftests() { run 'building the selftests' "$LOGS/selftests.log" make_selftests; }

# The programs with the tests of rmap, as the Makefile names them
rmap_programs() { sed -n 's/^KSM_RMAP_TESTS [:+]= //p' "$SELFTESTS/mm/Makefile"; }

# What is run, on what
on_kernel() {
	echo "on the ${KERNEL_BUILD##*/} kernel $(cat "$KERNEL_BUILD/include/config/kernel.release"), $(
		"$ROOT/harness/lib/boot" --accel "$KERNEL_BUILD")"
}

# Shows a line a test
show() { python3 "$ROOT/harness/report" judge --live --log "$1"; }

# Judges what a guest that ended with STATUS has left in OUT: its tests' output in
# log, the kernel log in console. Leaves what the judge says in OUT/verdict, and its
# status in RC.
# shellcheck disable=SC2034 # RC is for the caller
judge() { # OUT STATUS
	RC=0
	python3 "$ROOT/harness/report" judge --log "$1/log" --kernel-log "$1/console" --known "$KNOWN" \
		--expect-plan "${PLANS:-1}" --status "$2" >"$1/verdict" || RC=$?
}

# Runs SCRIPT in the guest, with the selftests and ARGs, and SHOW OUT/log on what it
# prints; judges it.  QEMU_OPTIONS are further ones of QEMU.
test_in_guest() { # OUT SHOW SCRIPT ARG...
	local out=$1 show=$2 script=$3
	shift 3
	mkdir -p "$out"
	# The kernel log comes by the console: a guest that dies leaves no other
	# shellcheck disable=SC2317 # it is called by in_group
	in_guest() {
		"$ROOT/harness/lib/boot" --limit "$LIMIT" --memory 4G --console "$out/console" --qemu "${QEMU_OPTIONS:-}" \
			"$KERNEL_BUILD" env KSM_O="$KERNEL_BUILD/mm/ksm.o" KSM_RMAP_ARGS="${KSM_RMAP_ARGS:-}" \
			"$ROOT/harness/guest/$script" "$KSELFTEST/mm" "$@" |
			"$show" "$out/log"
	}
	in_group in_guest "$@"
	judge "$out" "$RC"
}
