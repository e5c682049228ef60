# shellcheck shell=bash disable=SC2034,SC2054,SC2100,SC2154,SC2206,SC2207
# SPDX-License-Identifier: GPL-2.0
#
# arm64, emulated: on a root file system that harness/cross has made, with this checkout where it is
# on this machine. Nothing of either can be written to.

IMAGE=arch/arm64/boot/Image
BUILDS='Image modules'
CONFIGS=arm64
QEMU=qemu-system-aarch64
STEPS=2100	# of a first build, about
CROSS=$ROOT/build/cross-arm64/usr/bin/aarch64-linux-gnu-
GUEST_ROOT=$ROOT/build/root-arm64

# Nobody writes to what is shared, so the guest may keep what it has read
MOUNT=trans=virtio,version=9p2000.L,cache=loose
share() { # NAME FOLDER
	echo "-fsdev local,id=$1,path=$2,security_model=none,readonly=on,multidevs=remap"
	echo "-device virtio-9p-pci,fsdev=$1,mount_tag=$1"
}

guest_command() {
	local half node machine more='' args
	# A node a CPU, if there are two; the clock's ticks are nanoseconds, to count each instruction.
	# With tags of memory. The host's own algorithm signs pointers faster than the one that is real
	half=$(($(numfmt --from=iec --to-unit=1048576 "$memory") / 2))
	machine=(-machine virt,gic-version=3,mte=on -cpu max,pauth-impdef=on,cntfrq=1000000000 -smp "$cpus")
	for node in 0 1; do
		machine+=(-object "memory-backend-ram,id=node$node,size=${half}M"
			-numa "node,nodeid=$node,memdev=node$node$([ "$node" -ge "$cpus" ] || echo ",cpus=$node")")
	done
	# What is there at boot cannot be taken offline. What can has no tags, which KASAN would miss;
	# and is added at any time, which instructions are counted without
	if [ "$PURPOSE" != debug ] && [ -z "$icount" ]; then
		more=,maxmem=$((2 * half + 1024))M,slots=1
		machine+=(-object memory-backend-ram,id=more,size=1G
			-device virtio-mem-pci,memdev=more,requested-size=1G)
	fi
	machine+=(-m "$((2 * half))M$more")
	[ -z "$icount" ] || machine+=(-icount shift=0,sleep=off)

	# With pages of 64 KiB, a huge page has 512 MiB by default
	args="console=ttyAMA0 ignore_loglevel panic=-1 default_hugepagesz=2M memhp_default_state=online_movable"
	args+=" root=root rootfstype=9p rootflags=$MOUNT ro init=/init output=/dev/vport0p1 checkout=$ROOT"
	mkdir -p "$GUEST_ROOT$ROOT"
	cmp -s "$ROOT/harness/guest/init.sh" "$GUEST_ROOT/init" ||
		cp "$ROOT/harness/guest/init.sh" "$GUEST_ROOT/init"
	# The output's device comes first, which gives it its number in the guest
	GUEST=("$QEMU" -accel tcg -chardev file,id=output,append=on,path=/proc/self/fd/1
		-device virtio-serial-pci -device virtserialport,chardev=output
		"${machine[@]}" -display none -nic none -no-reboot -serial "file:$console"
		-kernel "$build/$IMAGE" -append "$args $kernel_args --$(printf ' "%s"' "$@")"
		$(share root "$GUEST_ROOT") $(share checkout "$ROOT") $qemu)
}
