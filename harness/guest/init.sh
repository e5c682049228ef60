#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Init of a guest that virtme-ng does not boot: init.sh SCRIPT ARG...; runs that, passes what it
# prints to the device $output, says how it ended in the kernel log, and ends. $checkout is where
# to have the checkout, if it is not on the root file system.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
: "${output:?}"
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /run
if [ -n "${checkout:-}" ]; then
	mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose checkout "$checkout"
	mount -t debugfs debugfs /sys/kernel/debug
	mkdir -p /dev/pts /dev/shm
	mount -t devpts devpts /dev/pts
	mount -t tmpfs tmpfs /dev/shm
	mount -t tmpfs tmpfs /var/tmp
	ln -s /proc/self/fd /dev/fd
	ln -s /proc/self/fd/1 /dev/stdout
	ln -s /proc/self/fd/2 /dev/stderr
fi
# Linux 7.3 adds that to what it passes on
for arg; do
	shift
	case $arg in console=*) ;; *) set -- "$@" "$arg" ;; esac
done
until [ -e "$output" ]; do sleep 0.1; done
case $output in /dev/tty*) stty -F "$output" -opost ;; esac
# A port can be opened once only
{
	rc=0
	"$@" 2>&1 || rc=$?
	echo $rc >/run/exit
} | cat >"$output"
echo "ksm-rmap: exit $(cat /run/exit)" >/dev/kmsg
# reboot(2): power off
number=142
[ "$(uname -m)" != x86_64 ] || number=169
perl -e "syscall($number, 0xfee1dead, 0x28121969, 0x4321fedc)"
