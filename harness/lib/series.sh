# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# The series as it is in this repository (patches/BASE and the new files) and
# as it is in the kernel tree (commits). Sourced after lib.sh.

# git without the user's or the machine's settings, apart from who it is
if [ -z "${KSM_RMAP_GIT:-}" ]; then
	GIT_COMMITTER_NAME=${GIT_COMMITTER_NAME:-$(git config user.name 2>/dev/null || echo ksm-rmap)}
	GIT_COMMITTER_EMAIL=${GIT_COMMITTER_EMAIL:-$(git config user.email 2>/dev/null || echo ksm-rmap@localhost)}
	export GIT_COMMITTER_NAME GIT_COMMITTER_EMAIL KSM_RMAP_GIT=1
fi
hgit() {
	# No housekeeping in the background: it would keep the lock
	GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 \
		git -c gc.auto=0 -c maintenance.auto=false "$@"
}
tgit() { hgit -C "$B/linux" "$@"; }

# What somebody has changed there. A module of 7.3's selftests leaves a source that git does not ignore
tree_changes() { tgit status --porcelain -- . ':!*.mod.c'; }

# Where a kernel's source is
src_of() { if [ "$1" = patched ]; then echo "$B/linux"; else echo "$B/base"; fi; } # KERNEL

# Which verb wrote a result, of what, and where. The tree's hash is that of the code: messages
# of patches do not change it
written_by() { # VERB
	local verb=$1
	case $MACHINE in *-64k) verb="PAGES=64k $verb" ;; esac
	[ -z "$CROSS" ] || verb="ARCH=$ARCH_NAME $verb"
	printf "Written by \`make %s\`: %s with %d patches (tree %.12s), gcc %s, %s, %d CPUs, %s." "$verb" "$(cat "$B/version")" \
		"$(series_patches | wc -l)" "$(tgit rev-parse 'HEAD^{tree}')" "$("${CROSS}gcc" -dumpfullversion)" \
		"$("$QEMU" --version | sed -n 's/^\(QEMU\) emulator version \([0-9.]*\).*/\1 \2/p')" \
		"$(nproc)" "$(date +%F)"
}

# Copies a FILE that a verb has written to results/BASE, or a machine's folder there. Those are of
# this project's bases, not of a tree of the user's
keep_result() { # FILE
	local results=results/$BASE${MACHINE:+/$MACHINE}
	[ -z "$LINUX" ] || return 0
	mkdir -p "$ROOT/$results"
	cp "$1" "$ROOT/$results/"
	say "saved in $results/${1##*/}"
}

# Puts a FILE between two lines of the README, <!-- NAME --> and the next <!-- end -->
into_readme() { # NAME FILE
	sed -i -e "/<!-- $1 -->/,/<!-- end -->/{//!d}" -e "/<!-- $1 -->/r $2" "$ROOT/README.md"
	say "README.md shows it"
}

# What the series changes, of what is built into the kernel
changed_sources() {
	tgit diff --name-only --diff-filter=M base HEAD -- 'mm/*.c' 'kernel/*.c' 'fs/*.c'
}

# The compiler's, in a log of it. Line numbers move. sparse does not know that page_vma_mapped_walk() takes
# the lock that page_vma_mapped_walk_done() gives back: on 6.12 it says so of each caller
warnings() { # LOG
	sed -nE '/: (warning|error):/{s/:[0-9]+:[0-9]+:/:/; /include\/linux\/rmap\.h: warning: context imbalance/!p}' "$1" |
		sort -u
}

# The patches in order
series_patches() { sed -n 's/^\([^#[:space:]][^[:space:]]*\).*/\1/p' "$PATCHES/series"; }

# The new files that one patch adds, or those of all
series_files() { # PATCH|all
	awk -v want="$1" '
		/^[^#[:space:]]/ { patch = $1 }
		/^[[:space:]]+\+[[:space:]]/ && (want == "all" || want == patch) { print $2 }
	' "$PATCHES/series"
}

# Where a new file stands: at its path in the kernel, or in patches/BASE/files if this base
# needs it to differ
new_file() { # FILE
	if [ -f "$PATCHES/files/$1" ]; then echo "$PATCHES/files/$1"; else echo "$ROOT/$1"; fi
}

# What there is here to apply, one line `MODE BLOB PATH` a file, as git ls-tree
# would say it. The comments in the series file do not count.
manifest_patches() {
	[ -f "$PATCHES/series" ] || return 0
	printf '100644 %s patches/series\n' "$(sed 's/#.*//' "$PATCHES/series" | hgit hash-object --stdin)"
	local f
	for f in $(series_patches); do manifest_of "$PATCHES/$f" "patches/$f"; done
}
manifest_files() {
	local f
	[ -f "$PATCHES/series" ] || return 0
	for f in $(series_files all); do manifest_of "$(new_file "$f")" "$f"; done
}

manifest_of() { # FILE NAME
	local mode=100644
	[ ! -x "$1" ] || mode=100755
	printf '%s %s %s\n' $mode "$(hgit hash-object --no-filters "$1")" "$2"
}

# The kernel tree may hold work that is not in patches/ yet
tree_is_saved() {
	[ -f "$B/applied" ] && [ "$(tgit rev-parse HEAD)" = "$(applied_head)" ] &&
		[ -z "$(tree_changes)" ]
}

# build/BASE/applied: the head that the tree was left at, and its manifest
applied_head() { sed -n 's/^head //p' "$B/applied" 2>/dev/null || :; }
applied_manifest() { sed 1d "$B/applied" 2>/dev/null || :; }
record_applied() { # HEAD MANIFEST
	printf 'head %s\n%s\n' "$1" "$2" >"$B/applied.new"
	mv "$B/applied.new" "$B/applied"
}

# ---- applying it -----------------------------------------------------------

# Leaves the commit of the applied series in APPLIED. Done beside the tree, in a
# worktree whose files are not checked out (git am fetches those that it needs),
# so that a failure changes nothing and unaffected files keep their times.
apply_series() {
	local tmp=$B/apply.tmp log=$LOGS/apply.log
	drop_worktree "$tmp"
	TEMPS+=("$tmp")
	mkdir -p "$LOGS"
	{
		tgit worktree add -f --no-checkout --detach "$tmp" base &&
			hgit -C "$tmp" read-tree HEAD
	} >"$log" 2>&1 || die "cannot make a worktree of the kernel tree: $(tail -n 1 "$log")"
	step "applying $(series_patches | wc -l) patches" "$log" apply_all "$tmp"
	[ "$RC" = 0 ] || apply_failed "$(sed -n 's/^applying //p' "$log" | tail -n 1)" "$log"
	# shellcheck disable=SC2034 # for the caller
	APPLIED=$(hgit -C "$tmp" rev-parse HEAD)
	drop_worktree "$tmp"
}

drop_worktree() {
	rm -rf "$1"
	tgit worktree prune
}

apply_all() { # WORKTREE
	local patch
	for patch in $(series_patches); do
		echo "applying $patch"
		apply_one "$1" "$patch" || return
	done
}

apply_one() { # WORKTREE PATCH
	local files f
	hgit -C "$1" am -q --no-3way --keep-non-patch --no-scissors --empty=keep \
		--committer-date-is-author-date "$PATCHES/$2" || return
	files=$(series_files "$2")
	[ -n "$files" ] || return 0
	for f in $files; do
		if hgit -C "$1" cat-file -e "HEAD:$f" 2>/dev/null; then
			echo "error: $f: exists already"
			return 1
		fi
		mkdir -p "$(dirname "$1/$f")" && cp -p "$(new_file "$f")" "$1/$f" &&
			hgit -C "$1" add -f "$f" || return
	done
	GIT_COMMITTER_DATE=$(hgit -C "$1" log -1 --format=%ad --date=raw) \
		hgit -C "$1" commit -q --amend --no-edit --allow-empty --no-verify
}

# Says in one line which patch, file and hunk
apply_failed() { # PATCH LOG
	local what file line hunk
	what=$(sed -n '/^error: patch failed: /{s///p;q}' "$2")
	if [ -n "$what" ]; then
		file=${what%:*}
		line=${what##*:}
		# git names the hunk by the old line that it starts at
		hunk=$(awk -v file="a/$file" -v line="$line" '
			/^--- / { in_file = ($2 == file); n = 0 }
			in_file && /^@@ / { n++; split($2, at, /[-,]/); if (at[2] == line) { print n; exit } }
		' "$PATCHES/$1")
		die "$1: hunk ${hunk:-?} (line $line) of $file does not apply to $(cat "$B/version") without fuzz; port the series to it, or use a base it was tested on; log: $2"
	fi
	what=$(sed -n '/^error: /{s///p;q}' "$2")
	die "$1 does not apply to $(cat "$B/version"): ${what:-see the log}; log: $2"
}

# The ways to break the series: mutants/NAME.patch, or what BASE has of that name
mutants_of_base() {
	local n f
	printf '%s\n' "$ROOT"/mutants/*.patch "$ROOT/mutants/$BASE"/*.patch | sed 's|.*/||' |
		grep -vF '*' | sort -u | while read -r n; do
		f=$ROOT/mutants/$BASE/$n
		[ -e "$f" ] || f=$ROOT/mutants/$n
		grep -q '^Left out: ' "$f" || echo "$f"
	done
}
