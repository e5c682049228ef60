#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""ksm_load.py VMAS SHARERS PAGES: mergeable memory for a check to look at, until standard input ends.

PAGES KSM pages, each with SHARERS mappings, evenly in an area of so many VMAs in one anon_vma. For each line of
standard input, it moves the first page to the other memory node, which walks its mappings, and prints "moved".
Meanwhile, another thread changes the protection of a page of the area, for which it needs the anon_vma lock.
ksm_rmap_bench can do this only where there is page_idle, which Debian's kernels do not have.
"""
import ctypes
import mmap
import sys
import threading

MADV_MERGEABLE, MADV_NOHUGEPAGE = 12, 15
MPOL_MF_MOVE_ALL = 4
SYS_MOVE_PAGES = 279
PAGE = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p


def must(result):
    """Exits if a system call has failed."""
    if result < 0:
        sys.exit(f"ksm_load: error {ctypes.get_errno()}")


def protect(at, length, prot):
    """Set the protection of some pages."""
    must(libc.mprotect(ctypes.c_void_p(at), ctypes.c_size_t(length), prot))


def build(vmas, sharers, pages):
    """The address of the area."""
    each = -(-sharers * pages // vmas)
    size = vmas * each * PAGE
    # Inaccessible pages on both sides keep the VMA from others
    area = libc.mmap(None, ctypes.c_size_t(size + 2 * PAGE), 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0) + PAGE

    protect(area, size, mmap.PROT_READ | mmap.PROT_WRITE)
    libc.madvise(ctypes.c_void_p(area), ctypes.c_size_t(size), MADV_NOHUGEPAGE)
    must(libc.madvise(ctypes.c_void_p(area), ctypes.c_size_t(size), MADV_MERGEABLE))
    for i in range(sharers * pages):
        ctypes.memset(area + i * vmas * each // (sharers * pages) * PAGE, 1 + i % pages, PAGE)
    for i in range(1, vmas, 2):
        protect(area + i * each * PAGE, each * PAGE, mmap.PROT_READ)
    return area


def move(area, node):
    """Move the page there to a node. Returns: whether it is there."""
    status = ctypes.c_int(-1)
    must(libc.syscall(SYS_MOVE_PAGES, 0, ctypes.c_ulong(1), ctypes.byref(ctypes.c_void_p(area)),
                      ctypes.byref(ctypes.c_int(node)), ctypes.byref(status), MPOL_MF_MOVE_ALL))
    return status.value == node


def wait_for_lock(area, stop):
    """Change VMAs until stop is set."""
    while not stop.is_set():
        protect(area, PAGE, mmap.PROT_READ)
        protect(area, PAGE, mmap.PROT_READ | mmap.PROT_WRITE)


def main():
    """Build, say so, and do what standard input says."""
    area, node = build(*map(int, sys.argv[1:])), 0
    print("ready", flush=True)
    for _ in sys.stdin:
        node, stop = 1 - node, threading.Event()
        waiter = threading.Thread(target=wait_for_lock, args=(area, stop))
        waiter.start()
        moved = move(area, node)
        stop.set()
        waiter.join()
        print("moved" if moved else "not moved", flush=True)


main()
