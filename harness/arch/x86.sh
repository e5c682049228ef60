# shellcheck shell=bash disable=SC2034,SC2100,SC2154
# SPDX-License-Identifier: GPL-2.0
#
# x86-64, as virtme-ng boots it: on this machine's own root file system, copy-on-write; or on a disk
# with a system of its own.

IMAGE=arch/x86/boot/bzImage
BUILDS='bzImage modules'
CONFIGS=x86
KVM=y
QEMU=qemu-system-x86_64
STEPS=2200	# of a first build, about

guest_command() {
	local a args=(--verbose --user root --cpus "$cpus" --memory "$memory" --force-9p)
	if [ -n "$icount" ]; then
		qemu="$qemu -accel tcg -icount shift=0,sleep=off"
	elif [ "$accel" = tcg ]; then
		# With memory protection keys and 5-level page tables, which tests ask for. Without
		# erms: with it, the kernel clears and copies pages by byte, and a page fault takes up
		# to three times as long
		qemu="$qemu -accel tcg -cpu max,-erms"
	fi
	if [ "$accel" != kvm ]; then
		# On a busy machine, an emulated timer may be late when the kernel checks at boot that
		# it works
		args+=(--disable-kvm)
		kernel_args+=' no_timer_check'
	fi
	if [ -n "$disk" ]; then
		[ "$accel" != kvm ] || qemu="$qemu -accel kvm -cpu host"
		# shellcheck disable=SC2206 # words
		GUEST=("$QEMU" -smp "$cpus" -m "$memory" -display none -nic none -no-reboot -kernel "$image"
			-initrd "$initrd" -drive "file=$disk,if=virtio,format=raw" -serial stdio -serial "file:$console"
			$qemu -append "console=ttyS1 root=/dev/vda numa=fake=2 ignore_loglevel panic=-1 init=$1 $kernel_args")
		return
	fi
	# Nobody writes to the host's files meanwhile, and the guest cannot: so it may keep what it
	# has read, which is half the boot. The kernel takes the last rootflags that it is given
	for a in rootflags=version=9p2000.L,trans=virtio,access=any,cache=loose numa=fake=2 \
		ignore_loglevel $kernel_args; do
		args+=(--append "$a")
	done
	# vng's status does not tell a command that failed from a guest that panicked, so the
	# command's goes where the kernel's own last words would.
	# --verbose has the kernel log come as standard error. Both through pipes: a file would be
	# written by several of QEMU's devices, each from its beginning.
	# shellcheck disable=SC2016 # for the shell that boot starts
	GUEST=(bash -o pipefail -c 'console=$1; shift
		{ "$@" 2>&1 >&3 3>&- | cat >"$console" 3>&-; } 3>&1 | cat' boot "$console"
		vng --run "$build" "${args[@]}" --qemu-opts="$qemu" -- "cd $(printf %q "$PWD"); $(printf '%q ' "$@") 2>&1; rc=\$?
	echo ksm-rmap: exit \$rc >/dev/kmsg; exit \$rc")
}
