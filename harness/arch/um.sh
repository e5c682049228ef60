# shellcheck shell=bash disable=SC2034,SC2154
# SPDX-License-Identifier: GPL-2.0
#
# User Mode Linux: mm/ksm.c as a process of this machine, with its caches and without emulation, so
# that time is time. There is no NUMA, and a system call takes some 50 us there.

IMAGE=linux
BUILDS=linux
CONFIGS=um
STEPS=900	# of a first build, about

# Its memory is a file that is mapped. With seccomp it may have several CPUs, each a thread of this
# machine's. The second console is the guest's output. Arguments have no spaces.
guest_command() {
	# shellcheck disable=SC2016,SC2206 # for the shell that boot starts; words
	GUEST=(bash -c 'console=$1; shift; exec "$@" 3>&1 >"$console" 2>&1' boot "$console"
		"$build/linux" "mem=$memory" root=/dev/root rootfstype=hostfs ro seccomp=on
		"ncpus=$cpus" con=null "con0=null,fd:1" "con1=null,fd:3"
		init="$ROOT/harness/guest/init.sh" output=/dev/tty1 $kernel_args -- "$@")
}
