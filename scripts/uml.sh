# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# The same in User Mode Linux: mm/ksm.c as a process of this machine, with its caches and
# without emulation, so that time is time. There is no NUMA, and a system call takes some
# 50 us there. Sourced after lib.sh and measure.sh.

um_make() { # TREE ARG...
	local tree=$1
	shift
	make -C "$tree" O=out-um ARCH=um LOCALVERSION= KBUILD_BUILD_TIMESTAMP='2000-01-01' \
		KBUILD_BUILD_VERSION=1 KBUILD_BUILD_USER=ksm KBUILD_BUILD_HOST=rmap "$@"
}

um_kernel() { # TREE
	mkdir -p "$1/out-um" && um_make "$1" KCONFIG_CONFIG=.config.new allnoconfig &&
		(cd "$1/out-um" && KCONFIG_CONFIG=.config.new \
			../scripts/kconfig/merge_config.sh -m -Q .config.new "$ROOT/scripts/uml.config") &&
		um_make "$1" KCONFIG_CONFIG=.config.new olddefconfig || return
	cmp -s "$1/out-um/.config.new" "$1/out-um/.config" ||
		mv "$1/out-um/.config.new" "$1/out-um/.config"
	um_make "$1" -j$(($(nproc) + 1)) linux
}

build_um() { # NAME TREE
	run "$1 kernel, User Mode Linux" "$LOGS/build-$1-um.log" um_kernel "$2"
}

# Its memory is a file that is mapped; what it prints is the guest's console. With seccomp
# it may have several CPUs, each a thread of this machine's. Arguments have no spaces.
# Status: SCRIPT's; 125 if it did not come to its end
measure_um() { # CSV TREE CPUS SCRIPT ARG...
	local csv=$1 tree=$2 cpus=$3 told
	shift 3
	timeout --foreground -k 10 "$LIMIT" "$tree/out-um/linux" mem=2G root=/dev/root rootfstype=hostfs ro \
		seccomp=on ncpus="$cpus" con=null con0=fd:0,fd:1 init="$ROOT/guest/uml.sh" -- "$@" \
		</dev/null >"${csv%.csv}.console" 2>&1 || :
	tr -d '\r' <"${csv%.csv}.console" |
		grep -aE '^([a-z0-9_]+,|FAIL|not ok|Bail out|SKIP)' >"$csv"
	told=$(sed -n 's/.*ksm-rmap: exit \([0-9]*\).*/\1/p' "${csv%.csv}.console")
	return "${told:-125}"
}
