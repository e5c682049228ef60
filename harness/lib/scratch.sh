# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# A kernel tree to try things in: a copy of one of the two, objects included, in
# build/BASE/scratch. Sourced after lib.sh.

[ -z "$PURPOSE" ] || die "FLAVOR=$PURPOSE is for make kselftest; leave it out"
S=$B/scratch
TEMPS+=("$S")

# Hard links to the source: only what is changed takes space. Change a file by
# replacing it (mv), never in place.
scratch_from() { # TREE: linux or base
	rm -rf "$S" &&
		rsync -a --link-dest="$B/$1" --exclude='/out*' --exclude=/.git "$B/$1/" "$S/" &&
		cp -a "$B/$1/$OUT" "$S/out"
}

# Without a target: the kernel
scratch_make() {
	local targets
	read -ra targets <<<"$BUILDS"
	[ $# = 0 ] || targets=("$@")
	make -C "$S" O=out "${CROSS_MAKE[@]}" LOCALVERSION= KBUILD_BUILD_TIMESTAMP='2000-01-01' \
		KBUILD_BUILD_VERSION=1 KBUILD_BUILD_USER=ksm KBUILD_BUILD_HOST=rmap \
		-j"$(nproc)" "${targets[@]}"
}

# Boots the kernel there, runs the ksm_rmap selftest as it is at the end of the
# series, and lists in LOG.fails what failed, a kernel message included. Dies if the tests
# did not run, or not all of them: that says nothing about the kernel
scratch_test() { # NAME LOG
	step "$1, booting and testing" "$2" env KERNEL_BUILD="$S/out" KSFT=ksm_rmap \
		"$ROOT/harness/kselftest"
	sed -nE 's/^FAIL: ksm_rmap\.sh :: //p; s/^FAIL: (kernel log|run|ksm_rmap\.sh): .*/\1/p' "$2" |
		sed 's/: .*//' | sort -u >"$2.fails"
	# A run of which all was skipped, as is known of some tests, does not count as one
	if grep -qE '^FAIL: run: no test (was run|passed)|: not judged: ' "$2" ||
		! grep -qE '^[0-9]+ passed, [0-9]+ failed' "$2"; then
		die_log "$2" "$1: the tests were not run"
	fi
	! grep -q ': skipped, and not in the known list: ' "$2" ||
		die_log "$2" "$1: tests were skipped, for want of what the guest should have"
	[ "$RC" = 0 ] || [ -s "$2.fails" ] || die_log "$2" "$1: failed for no known reason"
}
