# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# The selftests, and a kernel to run them on. Sourced after lib.sh.
#
#   KERNEL=unpatched      that kernel
#   FLAVOR=debug          one built for that
#   KERNEL_BUILD=/path    the one in that build folder

KERNEL=${KERNEL:-patched}
SELFTESTS=$B/linux/tools/testing/selftests

# Leaves the kernel's build folder in KERNEL_BUILD
build_kernel() {
	[ -z "${KERNEL_BUILD:-}" ] || return 0
	sub "$ROOT/scripts/build" "$KERNEL"
	[ "$KERNEL" = patched ] || sub "$ROOT/scripts/tree"
	KERNEL_BUILD=$B/$KERNEL${FLAVOR:+-$FLAVOR}
}

# FORCE_TARGETS: a test that does not build must not just be missing
make_selftests() {
	make -C "$B/linux" -s O=out headers &&
		make -C "$SELFTESTS" -j"$(nproc)" O="$B/linux/out" TARGETS=mm \
			FORCE_TARGETS=1 INSTALL_PATH="$B/kselftest" install
}

build_selftests() { run 'building the selftests' "$LOGS/selftests.log" make_selftests; }

# What is run, on what
on_kernel() {
	echo "on the ${KERNEL_BUILD##*/} kernel $(cat "$KERNEL_BUILD/include/config/kernel.release"), $(
		"$ROOT/scripts/guest" --accel "$KERNEL_BUILD")"
}
