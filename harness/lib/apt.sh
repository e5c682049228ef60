# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# Packages from a suite that the machine's apt sources do not name, off the
# mirror that they do name. Sourced after lib.sh. Everything is kept below
# build/apt; the machine's own lists and sources are not touched.

APT=$ROOT/build/apt
# The architecture, as Debian calls it, whose packages are looked for
DEB_ARCH=$(dpkg --print-architecture 2>/dev/null || :)

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# apt-get and apt-cache that see one suite only
suite_apt() { # SUITE COMMAND ARG...
	local d=$APT/$1 cmd=$2
	shift 2
	"$cmd" -o Dir::Etc::SourceList="$d/sources.list" \
		-o Dir::Etc::SourceParts=/dev/null \
		-o Dir::Etc::Preferences=/dev/null \
		-o Dir::Etc::PreferencesParts=/dev/null \
		-o Dir::State::Lists="$d/lists" \
		-o Dir::Cache="$d/cache" \
		-o APT::Sandbox::User="$(id -un)" \
		-o APT::Default-Release= \
		-o Acquire::Languages=none \
		-o APT::Update::Error-Mode=any "$@"
}

machine_suite() {
	local suite
	suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
	echo "${suite:-stable}"
}

# Where the machine gets Debian from; security updates live elsewhere
mirror_of() { # SUITE
	local label=Debian
	case $1 in *-security) label=Debian-Security ;; esac
	# shellcheck disable=SC2016 # apt expands these
	apt-get indextargets --format '$(LABEL)|$(COMPONENT)|$(REPO_URI)' |
		awk -F '|' -v l="$label" '$1 == l && $2 == "main" { if (!n++) print $3 }'
}

# Fetches the list of one suite. Status 1: the mirror has no such suite.
suite_open() { # SUITE
	local d=$APT/$1 uri key log=$LOGS/apt-$1.log
	uri=$(mirror_of "$1")
	if [ -z "$uri" ]; then
		# The machine's own lists may never have been fetched
		apt_update
		uri=$(mirror_of "$1")
	fi
	[ -n "$uri" ] ||
		not_offered "apt knows no Debian mirror; add one to the machine's apt sources, or use LINUX=/path/to/tree"
	for key in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
		[ ! -f "$key" ] || break
	done
	mkdir -p "$d/lists/partial" "$d/cache/archives/partial"
	printf 'deb [signed-by=%s arch=%s] %s %s main\n' "$key" \
		"$DEB_ARCH" "$uri" "$1" >"$d/sources.list"
	step "package list of $1" "$log" suite_apt "$1" apt-get update
	[ "$RC" != 0 ] || return 0
	! grep -q ' 404 ' "$log" || ! grep -q 'have a Release file' "$log" || return 1
	apt_die "$log" "cannot fetch the package list of $1"
}

# The machine's own lists. One broken source among many need not matter, so a
# failure only counts (UPDATE_FAILED) when what we look for is not found.
UPDATE_FAILED=
apt_update() {
	[ "$(id -u)" = 0 ] || sudo -v ||
		die "root is needed once; run as root: apt-get update"
	step 'package lists' "$LOGS/apt-update.log" \
		as_root apt-get -o APT::Update::Error-Mode=any update
	[ "$RC" = 0 ] || UPDATE_FAILED=1
}

not_offered() { # MESSAGE
	[ -z "$UPDATE_FAILED" ] || apt_die "$LOGS/apt-update.log" "$1"
	die "$1"
}

apt_die() { # LOG MESSAGE
	grep -qE 'Could not (resolve|connect)|Temporary failure|Unable to connect|Cannot initiate|unreachable|[Tt]imed out' "$1" &&
		die "no network, or the Debian mirror does not answer: $2; fix that and run again; log: $1"
	die_log "$1" "$2"
}

# The versions of a package that a suite offers; "machine" means its own sources
versions_in() { # SUITE PACKAGE
	if [ "$1" = machine ]; then
		apt-cache madison "$2"
	else
		suite_apt "$1" apt-cache madison "$2"
	fi 2>/dev/null | awk -F ' *[|] *' '/Packages *$/ { print $2 }'
}

# Into an existing directory, whole or not at all
download_from() { # SUITE PACKAGE VERSION DIRECTORY
	local tmp=$4/.download log=$LOGS/download.log
	rm -rf "$tmp"
	mkdir -p "$tmp"
	TEMPS+=("$tmp")
	step "download of $2 $3" "$log" download_step "$1" "$2=$3" "$tmp"
	[ "$RC" = 0 ] || apt_die "$log" "cannot download $2 $3 from $1"
	mv "$tmp"/*.deb "$4"/
}

download_step() { # SUITE PACKAGE=VERSION DIRECTORY
	cd "$3" || return
	if [ "$1" = machine ]; then
		apt-get -o APT::Sandbox::User="$(id -un)" download "$2"
	else
		suite_apt "$1" apt-get download "$2"
	fi
}
