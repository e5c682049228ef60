# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# Debian's own kernels, as packaged. Sourced after lib.sh and apt.sh.

# Where Debian has a kernel, besides the machine's own sources
suites_of() { # VERSION
	case $1 in
	6.1) echo bookworm-security bookworm ;;
	*) BASE=$1 base_get suites ;;
	esac
}

names_in() { # SUITE REGEX
	if [ "$1" = machine ]; then
		apt-cache pkgnames linux-image-
	else
		suite_apt "$1" apt-cache pkgnames linux-image-
	fi | grep -E "$2" || :
}

# "PACKAGE VERSION SUITE" of the newest, in the first suite that has one. Suites that are not
# open yet take a while
newest() { # VERSION
	local suite package
	for suite in machine $(suites_of "$1"); do
		if [ "$suite" != machine ] && ! suite_open "$suite" >&2; then continue; fi
		package=$(names_in "$suite" "^linux-image-${1/./[.]}[.][0-9]+[-+][a-z0-9]+-amd64\$" | sort -V | tail -n 1)
		[ -n "$package" ] || continue
		echo "$package $(versions_in "$suite" "$package" | sort -V | tail -n 1) $suite"
		return
	done
	not_offered "no linux-image for Linux $1 in the machine's apt sources nor in $(suites_of "$1")"
}

# Leaves the folder of the unpacked package in DEBIAN_KERNEL: boot/ has the kernel and its
# configuration, lib/ the modules
debian_kernel() { # VERSION
	local d=$ROOT/build/debian/$1 offer package version suite
	if [ ! -d "$d/boot" ]; then
		# shellcheck disable=SC2034
		offer=$(newest "$1") || { SAID=1; exit 1; }	# it has said why
		read -r package version suite <<<"$offer"
		mkdir -p "$ROOT/build/deb/$1"
		download_from "$suite" "$package" "$version" "$ROOT/build/deb/$1"
		rm -rf "$d" "$d.tmp"
		mkdir -p "$d.tmp"
		TEMPS+=("$d.tmp")
		run "unpacking $package" "$LOGS/unpack.log" dpkg-deb -x "$ROOT/build/deb/$1/${package}"_*.deb "$d.tmp"
		mv "$d.tmp" "$d"
	fi
	# shellcheck disable=SC2034 # for the caller
	DEBIAN_KERNEL=$d
}
