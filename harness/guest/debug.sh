# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0
#
# Sourced in the guest: what kernels for debugging are to look for beside the tests.
# The kernel log has what they find. Does nothing on other kernels.

# Data races (KCSAN) in the functions of mm/ksm.c, and not in all of the kernel. OBJECT
# is the kernel's ksm.o.
watch_races() { # OBJECT
	kcsan=/sys/kernel/debug/kcsan
	[ -w $kcsan ] || return 0
	watched=0
	for f in $(nm "$1" | sed -n 's/.* [tT] //p'); do
		# One by one, and without those that have gone after the boot
		! echo "!$f" >$kcsan || watched=$((watched + 1))
	done 2>/dev/null
	echo whitelist >$kcsan
	echo on >$kcsan
	echo "# KCSAN watches $watched functions of mm/ksm.c"
	[ $watched -gt 50 ]
}

# How many races were seen, of others too, and how many reported; and memory that
# nothing points to any more (kmemleak)
look_back() {
	[ ! -r /sys/kernel/debug/kcsan ] ||
		sed -n 's/^\(setup_watchpoints\|data_races\|report_.*\):/# KCSAN \1:/p' /sys/kernel/debug/kcsan
	leaks=/sys/kernel/debug/kmemleak
	[ -w $leaks ] || return 0
	# Anything younger than five seconds does not count
	sleep 6
	echo scan >$leaks
	echo scan >$leaks
	sed 's/^/# /' $leaks
}
