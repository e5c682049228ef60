# shellcheck shell=sh
# SPDX-License-Identifier: GPL-2.0
#
# What the guests that measure have in common. Sourced by walk.sh and cost.sh.

# Kernel messages about poisoned pages cost what the console does; the last one, of
# harness/lib/boot, has to come through
quiet() { # N|Y LOGLEVEL
	[ ! -f /sys/module/printk/parameters/ignore_loglevel ] ||
		echo "$1" >/sys/module/printk/parameters/ignore_loglevel
	echo "$2" >/proc/sys/kernel/printk
}
quiet N 1
trap 'quiet Y 7' EXIT

# Memory for tens of thousands of VMAs, or processes, is not committed memory
echo 1 >/proc/sys/vm/overcommit_memory

# Swap, for what has to do with that, and a way to put poisoned pages back
modprobe zram 2>/dev/null || :
if [ -e /sys/block/zram0 ]; then
	echo 512M >/sys/block/zram0/disksize
	mkswap /dev/zram0 >/dev/null
	swapon /dev/zram0
fi
modprobe hwpoison_inject 2>/dev/null || :
