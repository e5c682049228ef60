# shellcheck shell=bash disable=SC2034,SC2154
# SPDX-License-Identifier: GPL-2.0
#
# x86 of 32 bits, which cannot run what is on this machine's disk: COMMAND is an initramfs, whose
# /init writes on the first serial port.

IMAGE=arch/x86/boot/bzImage
BUILDS='bzImage modules'
CONFIGS='x86 i386'
KVM=y
QEMU=qemu-system-i386
STEPS=2000	# of a first build, about

# A processor that has 32 bits, and NX with PAE
guest_command() { # INITRAMFS
	# shellcheck disable=SC2206 # words
	GUEST=("$QEMU" -accel "$accel" -cpu coreduo -smp "$cpus" -m "$memory" -display none
		-nic none -no-reboot -kernel "$build/$IMAGE" -initrd "$1" -serial stdio
		-serial "file:$console" $qemu
		-append "console=ttyS1 ignore_loglevel panic=-1 rdinit=/init $kernel_args")
}
