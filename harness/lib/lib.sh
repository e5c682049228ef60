# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# What the driver scripts share. Source it right after `set -eu`:
#
#   say, warn, die     one line of progress, warning, error (die exits with 1)
#   die_log LOG MSG    die, with the path and the end of a log; die_build: of a build
#   need GROUP...      the Debian packages of these groups (see harness/deps)
#   run NAME LOG CMD.. a long step: shows that it is alive, output goes to LOG;
#                      dies with the end of LOG when CMD fails
#   step NAME LOG CMD  the same, but leaves the status in RC for the caller
#   in_group CMD...    so that it dies with us; leaves the status in RC
#   sub SCRIPT ARG...  another script of this directory, so that it dies with us
#   lock               one run at a time in this checkout
#   TEMPS+=(PATH)      removed on the way out, whichever way that is

set -o pipefail
export LC_ALL=C
umask 022

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
version_of() { # TREE
	awk '$1 ~ /^(VERSION|PATCHLEVEL|SUBLEVEL)$/ && $2 == "=" { v = v sep $3; sep = "." }
		$1 == "EXTRAVERSION" { v = v $3; print v; exit }' "$1/Makefile"
}

# Nothing of the caller's make, git or kernel build environment may leak into
# the make and git that we run.
unset MAKEFLAGS MFLAGS GNUMAKEFLAGS MAKELEVEL MAKEOVERRIDES CDPATH
unset ARCH CROSS_COMPILE LLVM O V W C M KCONFIG_CONFIG KCFLAGS LOCALVERSION
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_PREFIX
ME=$(basename "$0")

say() { printf '%s\n' "$*"; }
warn() { printf '%s: warning: %s\n' "$ME" "$*" >&2; }
die() { printf '%s: %s\n' "$ME" "$*" >&2; SAID=1; exit 1; }

# die with the end of the log that explains it
die_log() { # LOG MESSAGE
	printf '%s: %s; log: %s\n' "$ME" "$2" "$1" >&2
	tail -n 15 "$1" | sed 's/^/    /' >&2
	SAID=1
	exit 1
}

# die with what the compiler or the linker said in the log, and its end
die_build() { # LOG MESSAGE
	grep -m5 -E 'error:|undefined reference|No space left' "$1" >&2 || :
	die_log "$@"
}

# A tree of the user's takes the series for its version
check_linux() {
	local f version series all
	[ -d "$LINUX" ] || die "LINUX=$LINUX is not a directory; give the top of a kernel tree"
	for f in Makefile Kconfig mm/ksm.c scripts/kconfig/merge_config.sh; do
		[ -f "$LINUX/$f" ] ||
			die "LINUX=$LINUX is no kernel tree (no $f); give the top of one"
	done
	version=$(version_of "$LINUX")
	[ -n "$version" ] ||
		die "LINUX=$LINUX is no kernel tree (its Makefile has no VERSION); give the top of one"
	LINUX=$(cd "$LINUX" && pwd)
	case $LINUX/ in "$ROOT/build/"*)
		die "LINUX=$LINUX is this project's own; give another tree, or leave LINUX out" ;;
	esac
	series=$(cut -d . -f 1,2 <<<"$version")
	all=$(cd "$ROOT/bases" && echo *)
	if [ -d "$ROOT/bases/$series" ]; then
		[ "${BASE:=$series}" = "$series" ] ||
			die "LINUX=$LINUX is $version: leave BASE out, or say BASE=$series"
	elif [ -z "${BASE:-}" ]; then
		die "LINUX=$LINUX is $version, and there are series for $all; BASE= one of them tries that"
	fi
}
LINUX=${LINUX:-}
[ -z "$LINUX" ] || check_linux
BASE=${BASE:-6.12}
if [ -n "$LINUX" ]; then B=$ROOT/build/user; else B=$ROOT/build/$BASE; fi
FLAVOR=${FLAVOR:-}
# shellcheck disable=SC2034 # for the caller
OUT=out${FLAVOR:+-$FLAVOR}
LOGS=$B/logs
PATCHES=$ROOT/patches/$BASE
export ROOT BASE LINUX FLAVOR B LOGS PATCHES

[ -f "$ROOT/bases/$BASE/base" ] ||
	die "no base $BASE here; BASE is one of: $(cd "$ROOT/bases" && echo *)"
if ! mkdir -p "$ROOT/build" 2>/dev/null || [ ! -w "$ROOT/build" ]; then
	die "$(id -un) cannot write to $ROOT/build: make a clone of your own, or make build a link to a folder of yours"
fi

# A flavor is a machine, if it is another than this one, and a purpose, if it is another than
# to be tested: arm64-64k-debug
PURPOSE=$(grep -oxE 'debug|kcsan|coverage|traced' <<<"${FLAVOR##*-}" || :)
MACHINE=${FLAVOR%"$PURPOSE"}
MACHINE=${MACHINE%-}
case $MACHINE in
'') ;;
arm64 | arm64-64k)
	case $PURPOSE in
	'' | debug) ;;
	*) die "FLAVOR=$PURPOSE is for x86-64 only; leave ARCH out" ;;
	esac
	;;
i386 | i386-pae | um) # for scripts that build these, with another script
	[ -n "${KSM_RMAP_SUB:-}" ] ||
		die "FLAVOR=$FLAVOR is for other targets to use: say ARCH=i386, or make bench" ;;
*) die "no flavor $FLAVOR here; leave FLAVOR out, or say debug, kcsan or coverage" ;;
esac

# The values of one key in bases/$BASE/base
base_get() { sed -n "s/^$1:[[:space:]]*//p" "$ROOT/bases/$BASE/base"; }

# What there is to know of an architecture, by the kernel's ARCH, or of that which a kernel was
# built for. Without another root, the guest has this machine's
# shellcheck disable=SC2034 # for the caller
use_arch() { # NAME
	ARCH_NAME=$1 KVM='' CROSS='' GUEST_ROOT=''
	# shellcheck source=harness/arch/x86.sh
	. "$ROOT/harness/arch/$1.sh"
	# For the kernel's make, where it is not of this machine
	CROSS_MAKE=()
	[ -z "$CROSS" ] || CROSS_MAKE=(ARCH="$1" CROSS_COMPILE="$CROSS")
}
arch_of() { # BUILD
	local name
	name=$(sed -n 's|^# Linux/\([a-z0-9_]*\) .*|\1|p' "$1/.config" 2>/dev/null || :)
	use_arch "${name:-x86}"
}
case $MACHINE in '') use_arch x86 ;; *) use_arch "${MACHINE%%-*}" ;; esac

# ---- the way out -----------------------------------------------------------

# For what is said when this is interrupted, wherever a command's messages go then
exec 8>&2
TEMPS=()
FAILED_AT=
SAID=			# an error has been printed
CHILD=			# process group of the running step, or pid of a sub
TICKER=

# A step that runs under sudo is not ours to signal: sudo does that
kill_child() {
	local sig tries=50
	[ -n "$CHILD" ] || return 0
	# A sub needs time to end its own step
	[ "${CHILD#-}" != "$CHILD" ] || tries=200
	for sig in TERM KILL; do
		kill -s "$sig" -- "$CHILD" 2>/dev/null ||
			sudo -n kill -s "$sig" -- "$CHILD" 2>/dev/null || break
		for ((; tries > 0; tries--)); do
			kill -0 -- "$CHILD" 2>/dev/null || break 2
			sleep 0.1
		done
	done
	CHILD=
}

on_signal() {
	trap '' INT TERM HUP
	[ -n "${KSM_RMAP_SUB:-}" ] || printf '\n%s: interrupted; cleaning up ...\n' "$ME" >&8
	[ -z "$TICKER" ] || kill "$TICKER" 2>/dev/null || :
	kill_child
	# The outermost script speaks for all
	[ -n "${KSM_RMAP_SUB:-}" ] ||
		printf '%s: interrupted; nothing is left half done, run it again to go on\n' "$ME" >&8
	exit "$1"
}

on_exit() {
	local rc=$?
	trap '' INT TERM HUP
	# A command that `set -e` ended us for would otherwise say nothing
	[ $rc = 0 ] || [ -z "$FAILED_AT" ] || [ -n "$SAID" ] ||
		printf '%s: a command failed unexpectedly (%s, status %s)\n' "$ME" "$FAILED_AT" $rc >&2
	[ ${#TEMPS[@]} -eq 0 ] || rm -rf -- "${TEMPS[@]}"
	exit $rc
}

trap 'on_signal 130' INT
trap 'on_signal 143' TERM
trap 'on_signal 129' HUP
trap on_exit EXIT
set -E
trap 'FAILED_AT=$(basename "${BASH_SOURCE[0]:-$0}"):$LINENO' ERR

# ---- long steps ------------------------------------------------------------

clock() { printf '%d:%02d' $(($1 / 60)) $(($1 % 60)); }

# Runs in the background beside a step. PROGRESS is a command that is given the
# log and prints how far the step is.
ticker() {
	local name=$1 log=$2 parent=$$ every=30 start=$SECONDS t
	[ ! -t 1 ] || every=1
	while sleep $every 9>&- && kill -0 $parent 2>/dev/null; do
		t="$name: $(clock $((SECONDS - start)))"
		[ -z "${PROGRESS:-}" ] || t="$t  $($PROGRESS "$log" 2>/dev/null || :)"
		if [ -t 1 ]; then printf '\r\033[K%s' "$t"; else say "$t"; fi
	done
}

# Runs CMD in the background, as a process group of its own, so that all of it can be killed, and
# leaves its status in RC
in_group() { # CMD...
	set -m
	"$@" &
	CHILD=-$!
	set +m
	RC=0
	wait "${CHILD#-}" 2>/dev/null || RC=$?
	CHILD=
}

step() {
	local name=$1 log=$2 start=$SECONDS
	shift 2
	mkdir -p "$(dirname "$log")"
	if [ -t 1 ]; then printf '%s: 0:00' "$name"; else say "$name ..."; fi
	ticker "$name" "$log" 9>&- &
	TICKER=$!
	disown $TICKER
	in_group "$@" >"$log" 2>&1 </dev/null
	kill $TICKER 2>/dev/null || :
	TICKER=
	[ ! -t 1 ] || printf '\r\033[K'
	[ "$RC" != 0 ] || say "$name: $(clock $((SECONDS - start)))"
}

run() {
	step "$@"
	[ "$RC" = 0 ] && return
	die_log "$2" "$1 failed (status $RC)"
}

# In the background, because a trap waits for a command in the foreground
sub() {
	local rc=0
	KSM_RMAP_SUB=1 "$@" <&0 &
	CHILD=$!
	wait "$CHILD" || rc=$?
	CHILD=
	[ $rc = 0 ] || { SAID=1; exit $rc; }	# it has said why
}

need() {
	sub "$ROOT/harness/deps" "$@" ${CROSS:+"$ARCH_NAME"}
	[ -z "$CROSS" ] || sub "$ROOT/harness/cross"
}

# ---- one run at a time -----------------------------------------------------

# Descriptor 9 is inherited, so that what outlives a killed run still holds it
lock() {
	[ -z "${KSM_RMAP_LOCKED:-}" ] || return 0
	exec 9>>"$ROOT/build/.lock"
	flock -n 9 ||
		die "another run (process $(cat "$ROOT/build/.lock")) is at work in $ROOT; wait for it or end it"
	echo $$ >"$ROOT/build/.lock"
	export KSM_RMAP_LOCKED=$$
}
