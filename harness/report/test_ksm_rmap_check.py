# SPDX-License-Identifier: GPL-2.0
"""Tests of tools/mm/ksm_rmap_check: what it reads, estimates, says, and removes."""
import argparse
import contextlib
import functools
import importlib.machinery
import importlib.util
import io
import json
import mmap
import os
import pathlib
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
import tracemalloc
import unittest
from unittest import mock

PATH = pathlib.Path(__file__).resolve().parents[2] / "tools/mm/ksm_rmap_check"


def load():
    """The tool as a module, without leaving bytecode in tools/."""
    loader = importlib.machinery.SourceFileLoader("ksm_rmap_check", str(PATH))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("ksm_rmap_check", loader))
    sys.modules["ksm_rmap_check"] = module
    with mock.patch.object(sys, "dont_write_bytecode", True):
        loader.exec_module(module)
    return module


k = load()
PAGE = k.PAGE
UNBOUNDED, BOUNDED = k.Walk(False), k.Walk(True)


def maps(*words):
    """Lines of maps: start and end in pages, protection, and what else there is."""
    return [f"{int(w[0]) * PAGE:x}-{int(w[1]) * PAGE:x} {w[2]} {w[3] if len(w) > 3 else '00000000'} "
            f"{w[4] if len(w) > 4 else '00:00 0'}{' ' * 20 + w[5] if len(w) > 5 else ''}\n"
            for w in (line.split("|") for line in words)]


def runs(*words):
    return [(r.start // PAGE, r.end // PAGE, r.vmas) for r in layout(maps(*words)).runs]


def layout(lines):
    return k.Layout(k.parse_vmas(lines))


def cost(walk, vmas, most, sharers):
    return walk.ns(k.Page(1, 7, vmas, most, sharers, 1))


def process(pid=7, vmas=1, merging=10, parent=1, at=100, command="java"):
    """One whose VMAs are a page each, and next to each other."""
    p = k.Process(pid, command, parent, merging, mergeable=True)
    p.layout = layout(maps(*(f"{at + i}|{at + i + 1}|{'rw' if i % 2 else 'r-'}-p" for i in range(vmas))))
    return p


def sample(p, pfn=1, sharers=2, at=100, weight=1):
    p.sampled += weight
    return k.Sample(p, at * PAGE, pfn, sharers, weight)


class Vmas(unittest.TestCase):
    def test_protection_may_differ(self):
        self.assertEqual(runs("1|2|rw-p", "2|3|r--p", "3|4|---p", "4|5|rwxp"), [(1, 5, 4)])

    def test_hole(self):
        self.assertEqual(runs("1|2|rw-p", "3|4|rw-p"), [(1, 2, 1), (3, 4, 1)])

    def test_shared_mapping_is_left_out(self):
        self.assertEqual(runs("1|2|rw-p", "2|3|rw-s|00000000|00:01 5|/dev/zero"), [(1, 2, 1)])

    def test_kernel_mappings_are_left_out(self):
        self.assertEqual(runs("1|2|r--p|00000000|00:00 0|[vvar]", "2|3|r-xp|00000000|00:00 0|[vdso]",
                              "3|4|rw-p|00000000|00:00 0|[heap]"), [(3, 4, 1)])

    def test_file_needs_consecutive_offset(self):
        first = "1|3|rw-p|00001000|08:01 9|/a b"
        self.assertEqual(runs(first, f"3|4|r--p|{0x1000 + 2 * PAGE:08x}|08:01 9|/a b"), [(1, 4, 2)])
        self.assertEqual(runs(first, "3|4|r--p|00009000|08:01 9|/a b"), [(1, 3, 1), (3, 4, 1)])
        self.assertEqual(runs(first, f"3|4|r--p|{0x1000 + 2 * PAGE:08x}|08:01 8|/b"), [(1, 3, 1), (3, 4, 1)])
        self.assertEqual(runs(first, "3|4|rw-p"), [(1, 3, 1), (3, 4, 1)])

    def test_flags_of_smaps(self):
        def smaps(flags):
            return maps("1|2|rw-p") + ["Size: 4 kB\n", "VmFlags: rd wr mr mw me ac sd mg \n"] + \
                maps("2|3|r--p") + ["Rss: 0 kB\n", f"VmFlags: {flags}\n"]
        self.assertEqual(len(layout(smaps("rd mr mw me ac mg")).runs), 1)
        self.assertEqual(len(layout(smaps("rd mr mw me ac gu mg")).runs), 1)
        self.assertEqual(len(layout(smaps("rd mr mw me ac")).runs), 2)

    def test_run_at(self):
        found = layout(maps("1|2|rw-p", "4|6|rw-p"))
        a, b = found.runs
        self.assertEqual([found.run_at(n * PAGE) for n in (0, 1, 2, 4, 5, 6)], [None, a, None, b, b, None])

    def test_addresses_above_two_gib_on_32_bit(self):
        found = layout(maps(f"{0xb0000000 // PAGE}|{0xb0000000 // PAGE + 1}|rw-p"))
        with mock.patch.object(sys, "maxsize", 2**31 - 1):
            self.assertEqual(found.run_at(0xb0000000), found.runs[0])

    def test_memory_for_many(self):
        """A million VMAs must not take a gigabyte."""
        def smaps():
            for i in range(1, 20001):
                yield from maps(f"{i}|{i + 1}|{'rw' if i % 2 else 'r-'}-p")
                yield "VmFlags: rd wr mr mw me ac sd mg nh dd\n"
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        found = layout(smaps())
        self.assertEqual(len(found.starts), 20000)
        self.assertLess(tracemalloc.get_traced_memory()[0] / 20000, 100)

    def test_accessible(self):
        found = layout(maps("1|2|---p", "2|3|r--p", "3|4|rw-p", "5|6|r--p"))
        self.assertEqual([[n // PAGE for n in a] for a in found.areas], [[2, 4], [5, 6]])

    def test_a_hundred_thousand(self):
        lines = maps(*(f"{i}|{i + 1}|rw-p" for i in range(1, 100001)))
        begun = time.process_time()
        self.assertEqual(len(layout(lines).runs), 1)
        self.assertLess(time.process_time() - begun, 5)


class Texts(unittest.TestCase):
    def test_ksm_stat(self):
        text = "ksm_rmap_items 3\nksm_process_profit -64\nksm_merge_any: no\nksm_mergeable: yes\n"
        self.assertEqual(k.parse_ksm_stat("ksm_rmap_items 0\n"), {"ksm_rmap_items": 0})
        self.assertEqual(k.parse_ksm_stat(text),
                         {"ksm_rmap_items": 3, "ksm_process_profit": -64, "ksm_merge_any": False,
                          "ksm_mergeable": True})

    def test_knob(self):
        self.assertEqual([k.parse_knob(t) for t in ("256\n", "-1\n", "[none] scan-time\n", "none [scan-time]\n")],
                         [256, -1, "none", "scan-time"])

    def test_control_characters(self):
        self.assertEqual(k.printable("a\033[2J\nb \u00e9\n"), "a?[2J?b \u00e9")

    def test_show(self):
        self.assertEqual([k.show_ns(n) for n in (7, 1500, 2500000, 707000000, 3 * 10**9)],
                         ["7 ns", "1.5 us", "2.5 ms", "707 ms", "3.0 s"])


def btf(*types):
    """A BTF with types (kind, bytes that follow, vlen), each a struct.pack() less the name."""
    strings = b"\0age\0linear_page_index\0ksm_rmap_item\0"
    body = b"".join(struct.pack("=III", name, kind << 24 | vlen, 0) + rest for name, kind, vlen, rest in types)
    return struct.pack("=HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(strings)) + body + strings


INDEX = 5               # of the string linear_page_index
MEMBER = struct.pack("=III", INDEX, 1, 64)


class Kernels(unittest.TestCase):
    def walk(self, release, data=b"", symbols=""):
        return k.judge_kernel(release, data, symbols)["walk"]

    def test_version(self):
        self.assertEqual([self.walk(r) for r in ("7.3.4+deb13", "7.10.0", "8.0-rc1", "6.1.0-57-amd64", "7.2.13")],
                         ["bounded"] * 3 + ["unbounded"] * 2)

    def test_member_of_a_union(self):
        data = btf((1, 1, 0, bytes(4)), (0, 5, 2, struct.pack("=III", 1, 1, 0) + MEMBER))
        self.assertEqual(self.walk("6.12.1", data), "bounded")

    def test_function_of_that_name(self):
        """linear_page_index() is one that all kernels have."""
        data = btf((INDEX, 12, 0, b""), (0, 13, 1, struct.pack("=II", INDEX, 1)),
                   (0, 4, 1, struct.pack("=III", 1, INDEX, 0)))
        self.assertEqual(self.walk("6.12.1", data), "unbounded")

    def test_no_such_string(self):
        self.assertIs(k.btf_has_member(btf((1, 4, 0, b"")), "rmap_list"), False)

    def test_btf_that_cannot_be_read(self):
        for data in (b"", b"\0" * 64, btf((0, 31, 0, b"")), btf((0, 4, 1, MEMBER))[:20]):
            self.assertIsNone(k.btf_has_member(data, "linear_page_index"))
            self.assertEqual(self.walk("6.12.1", data), "unbounded")

    def test_symbols(self):
        walk = "ffffffff81464d50 T rmap_walk_ksm\n"
        self.assertEqual(self.walk("7.2.13", b"", walk), "unbounded")
        self.assertEqual(self.walk("7.2.13", b"", walk + "ffffffff81464000 t rmap_walk_keys.isra.0\n"), "bounded")
        self.assertIn("no BTF", k.judge_kernel("7.2.13", b"", walk)["because"])


class Estimates(unittest.TestCase):
    def test_unbounded(self):
        self.assertEqual(cost(UNBOUNDED, 20000, 30000, 256),
                         {"low": 256 * (k.SHARER_NS[0] + 20000 * k.VISIT_NS[0]),
                          "mid": 256 * (k.SHARER_NS[1] + 20000 * 2 * k.VISIT_NS[1]),
                          "high": 256 * (k.SHARER_NS[2] + 30000 * 2 * k.VISIT_NS[2])})

    def test_near_what_was_measured(self):
        """Nanoseconds per mapping, of README.md, and 705 ms published."""
        for walk, vmas, measured in ((UNBOUNDED, 1, 155), (UNBOUNDED, 1000, 33824), (UNBOUNDED, 20000, 1184282),
                                     (UNBOUNDED, 20000, 705e6 / 256), (BOUNDED, 1, 111), (BOUNDED, 1000, 203),
                                     (BOUNDED, 20000, 439), (BOUNDED, 20000, 649)):
            ns = cost(walk, vmas, vmas, 1)
            self.assertLess(max(ns["mid"] / measured, measured / ns["mid"]), 3)
            self.assertLess(ns["low"], measured)
            self.assertGreater(ns["high"], measured)

    def test_scale(self):
        self.assertEqual(cost(k.Walk(False, 10), 100, 100, 2)["mid"], 10 * cost(UNBOUNDED, 100, 100, 2)["mid"])

    def test_vmas_are_of_the_run(self):
        p = process(vmas=50)
        pages = k.pages_of([sample(p, at=120), sample(p, pfn=2, at=900)])
        self.assertEqual([(x.vmas, x.most) for x in pages], [(50, 50), (1, 50)])

    def test_upper_bound_is_all_vmas(self):
        """A hole splits a run, but not an anon_vma."""
        p = process()
        p.layout = layout(maps("100|101|rw-p", "102|103|rw-p", "104|105|rw-p"))
        page, = k.pages_of([sample(p)])
        self.assertEqual((page.vmas, page.most), (1, 3))

    def test_samples_of_a_dense_block_stand_for_more(self):
        """One page of 8 was looked at there, of the other block each."""
        p = process(vmas=10)
        samples = [sample(p, 1, 100, weight=8)] + [sample(p, pfn, 1) for pfn in range(2, 6)]
        dense, *sparse = k.pages_of(samples)
        self.assertAlmostEqual(dense.weight * 100 / 8, sparse[0].weight)
        samples = [sample(p, 1, 2, weight=16)] + [sample(p, pfn, 1) for pfn in range(2, 6)]
        self.assertEqual(k.estimate(UNBOUNDED, k.pages_of(samples))["median_ns"], cost(UNBOUNDED, 10, 10, 2))

    def test_mean_of_the_sharers(self):
        """Of a page that a process with many VMAs shares with one that has few."""
        a, b = process(1, 99), process(2, 1)
        page, = k.pages_of([sample(a, sharers=1), sample(b)])
        self.assertEqual((page.vmas, page.pid, page.sharers), (50, 1, 2))

    def test_median_is_of_pages(self):
        """One page with 100 mappings is found 100 times, and is still one page."""
        p = process(vmas=10)
        samples = [sample(p, 1, 100) for _ in range(100)] + [sample(p, pfn, 2) for pfn in (2, 3, 4) for _ in range(2)]
        e = k.estimate(UNBOUNDED, k.pages_of(samples))
        self.assertEqual(e, {"median_ns": cost(UNBOUNDED, 10, 10, 2), "worst_ns": cost(UNBOUNDED, 10, 10, 100),
                             "pid": 7, "vmas": 10, "sharers": 100})

    def test_pages_of_processes_count_by_their_number(self):
        """Each has two samples, but one of them has most of the pages."""
        few, many = process(1, 1, merging=2), process(2, 100, merging=1000)
        samples = [sample(few, 1), sample(few, 2), sample(many, 3), sample(many, 4)]
        self.assertEqual(k.estimate(UNBOUNDED, k.pages_of(samples))["median_ns"], cost(UNBOUNDED, 100, 100, 2))

    def test_forked(self):
        parent, child, grandchild = process(1, 10, parent=0), process(2, 10, parent=1), process(3, 4, parent=2)
        other = process(4, 10, parent=99)
        k.add_descendants([parent, child, grandchild, other])
        self.assertEqual([p.forked_vmas(p.layout.longest()) for p in (parent, child, grandchild, other)], [14, 4, 0, 0])
        page, = k.pages_of([sample(parent)])
        self.assertEqual((page.vmas, page.most), (24, 24))

    def test_forked_and_exec(self):
        parent, child = process(1, 10), process(2, 10, parent=1, at=5000)
        k.add_descendants([parent, child])
        self.assertEqual(parent.forked_vmas(parent.layout.longest()), 0)

    def test_many_descendants(self):
        """They are looked at once for each run, not for each sample."""
        looked_at = []

        class Descendants(list):
            def __iter__(self):
                looked_at.append(1)
                return super().__iter__()
        parent = process(1, 10)
        parent.descendants = Descendants(process(pid, 10, parent=1) for pid in range(2, 5))
        self.assertEqual(k.pages_of([sample(parent, i) for i in range(100)])[0].most, 40)
        self.assertLess(len(looked_at), 3)

    def test_loop_of_parents(self):
        k.add_descendants([process(1, parent=2), process(2, parent=1)])

    def test_nothing_sampled(self):
        self.assertIsNone(k.estimate(UNBOUNDED, k.pages_of([])))
        page, = k.assumed_pages([process(vmas=30), process(2, merging=0)], {"pages_shared": 10, "pages_sharing": 90})
        self.assertEqual((page.vmas, page.sharers), (30, 10))
        self.assertEqual(k.assumed_pages([process()], {"pages_shared": 0}), [])

    def test_full_scan(self):
        ksm = {"run": 1, "pages_to_scan": 100, "sleep_millisecs": 20}
        self.assertEqual(k.full_scan_seconds(ksm, 26214401), 5242.9)
        self.assertIsNone(k.full_scan_seconds({**ksm, "run": 0}, 1))


def report(estimate=None, trace=None, measured=None, left_out=0, processes=("one",)):
    return {"trace": trace, "measure": measured, "sample": {"processes_left_out": left_out}, "processes": processes,
            "estimate": estimate, "verdict": None, "limit_ns": 10**7,
            "ksm": {"max_page_sharing": 256, "pages_shared": 10, "pages_sharing": 2550}}


def worst(ns, high=10**4):
    """An estimate whose worst walk takes so long, in ns."""
    return {"worst_ns": {"low": 0, "mid": ns, "high": high}}


class Verdicts(unittest.TestCase):
    LIMIT = 10**7
    PAGE = k.Page(1, 7, 20000, 20000, 256, 1.0)

    def test_what_decides(self):
        for ns, of in ((0, {}), (9, {"estimate": worst(9)}), (5, {"estimate": worst(9), "measured": {"worst_ns": 5}}),
                       (9, {"estimate": worst(5), "measured": {"worst_ns": 9}}),
                       (9, {"estimate": worst(5), "trace": {"slowest": {"ns": 9}}}),
                       # That other pages were walked says nothing of this one
                       (9, {"estimate": worst(9), "trace": {"slowest": {"ns": 5}}}),
                       (9, {"estimate": worst(9), "trace": {"slowest": None}})):
            self.assertEqual(k.worst_ns(report(**of)), ns)

    def advice(self, verdict, walk=UNBOUNDED, pages=(), **of):
        if pages:
            of = {"estimate": k.estimate(walk, pages), **of}
        return " ".join(k.advise({**report(**of), "verdict": verdict}, walk, list(pages)))

    def test_no_problem(self):
        self.assertIn("Nothing to check", self.advice("ok", processes=()))
        self.assertIn("256 sharers in the longest run, 20,000 VMAs, a walk would take 358 ms",
                      self.advice("ok", processes=[{"longest_run_vmas": n} for n in (5, 20000, 7)]))
        few = self.PAGE._replace(vmas=1, most=2)
        self.assertIn("less than 10.0 ms", self.advice("ok", pages=[few]))
        self.assertNotIn("--trace", self.advice("ok", pages=[few]))

    def test_upper_bound_is_above_the_limit(self):
        """Many VMAs, none next to each other: they may still share an anon_vma."""
        page = self.PAGE._replace(vmas=1)
        self.assertIn("--trace 30", self.advice("ok", pages=[page]))
        self.assertNotIn("--trace", self.advice("ok", pages=[page], measured={"worst_ns": 5}))

    def test_problem(self):
        told = self.advice("problem", pages=[self.PAGE])
        self.assertIn("7.3 or later", told)
        self.assertIn("echo 7 > max_page_sharing", told)
        self.assertIn("costs 1.4 MiB in copies, and keeps", told)   # 36 for each of 10 pages
        told = self.advice("problem", pages=[self.PAGE, k.Page(2, 7, 1, 1, 4, 3.0)])
        self.assertIn("costs 0.4 MiB in copies", told)              # 37 pages instead of one of four
        self.assertIn("not enough", self.advice("problem", pages=[self.PAGE._replace(vmas=10**6)]))
        self.assertNotIn("7.3", self.advice("problem", BOUNDED, [self.PAGE._replace(sharers=10**6)]))
        self.assertIn("--seconds", self.advice("unknown", pages=[self.PAGE], left_out=1))

    def test_timed_walk_is_slower_than_estimated(self):
        """What to do follows from the slow walk, not from the estimate."""
        page, timed = self.PAGE._replace(vmas=100), {"slowest": {"ns": 10**8}}
        self.assertIn("echo 25 > max_page_sharing", self.advice("problem", pages=[page], trace=timed))
        self.assertIn("echo 25 > max_page_sharing", self.advice("problem", BOUNDED, [page], trace=timed))
        # Whatever the case, something is said
        self.assertIn("linux-mm", self.advice("problem", BOUNDED, trace=timed))


FTRACE = """\
CPU:1 [LOST 3 EVENTS]
       kcompactd0-45      [001] .....   100.000100: walk: (rmap_walk_ksm+0x0/0x2a0)
   a (b) c-2-77      [000] .....   100.000200: contention_begin: 00000000abcd (flags=WRITE)
   a (b) c-2-77      [000] .....   100.000201: <stack trace>
 => trace_contention_begin
 => rwsem_down_write_slowpath
 => down_write
 => __split_vma
 => mprotect_fixup
       java-78      [000] .....   100.000210: contention_begin: 00000000ffff (flags=WRITE)
       java-78      [000] .....   100.000211: <stack trace>
 => down_write_killable
 => vm_mmap_pgoff
   a (b) c-2-77      [000] .....   100.000220: contention_end: 00000000eeee (ret=0)
   a (b) c-2-77      [000] .....   100.000250: contention_end: 00000000abcd (ret=0)
       java-78      [000] .....   100.000299: contention_end: 00000000ffff (ret=0)
       kcompactd0-45      [001] .....   101.000100: walked: (rmap_walk+0x20/0x40 <- rmap_walk_ksm)
       kswapd0-46      [001] .....   101.000110: walked: (rmap_walk+0x20/0x40 <- rmap_walk_ksm)
       kswapd0-46      [001] .....   102.000000: walk: (rmap_walk_ksm+0x0/0x2a0)
       kswapd1-47      [000] .....   102.000001: walk: (rmap_walk_ksm+0x0/0x2a0)
       kswapd0-46      [001] .....   102.000005: walked: (rmap_walk+0x20/0x40 <- rmap_walk_ksm)
"""

BPFTRACE = """\
Attaching 7 probes...
ready
walk 1000000000 45 kcompactd0
walk 5000 46 kswapd0

        __traceiter_contention_end+5
        rwsem_down_write_slowpath+1234
        down_write+91
        __split_vma+112
        mprotect_fixup+1

wait 50000 77 a (b) c-2

        down_write_killable+5
        vm_mmap_pgoff+1

wait 89000 78 java
"""
SEEN = [("walk", 10**9, 45, "kcompactd0", ""), ("walk", 5000, 46, "kswapd0", ""),
        ("wait", 50000, 77, "a (b) c-2", "__split_vma"),
        ("wait", 89000, 78, "java", "vm_mmap_pgoff")]


def events(parser, text):
    return [e for e in map(parser.feed, text.splitlines()) if e]


class Traces(unittest.TestCase):
    def seen(self, parser, text):
        return sorted((e.what, e.ns, e.pid, e.command, e.caller) for e in events(parser, text))

    def test_ftrace(self):
        self.assertEqual(self.seen(k.FtraceParser(), FTRACE), sorted(SEEN))

    def test_bpftrace(self):
        self.assertEqual(self.seen(k.BpftraceParser(), BPFTRACE), sorted(SEEN))

    def test_lost_by_bpftrace(self):
        parser = k.BpftraceParser()
        text = BPFTRACE.replace("        down_write_k", "Lost 12 events\n        down_write_k")
        self.assertEqual(self.seen(parser, text), sorted(SEEN))
        self.assertEqual(parser.lost, 12)

    def summary(self, parser, text, waits_seen=True):
        totals = k.Totals()
        for event in events(parser, text):
            totals.add(event)
        return totals.summary("x", 30, 2, waits_seen)

    def test_summary(self):
        t = self.summary(k.FtraceParser(), FTRACE)
        self.assertEqual((t["walks"], t["slowest"], t["lost_events"]),
                         (2, {"ns": 10**9, "pid": 45, "command": "kcompactd0"}, 2))
        self.assertEqual(t["anon_vma_waits"], {"count": 1, "total_ns": 50000, "longest_ns": 50000})
        self.assertEqual(self.summary(k.BpftraceParser(), BPFTRACE), t)
        self.assertIsNone(self.summary(k.FtraceParser(), "", False)["anon_vma_waits"])
        self.assertIsNone(self.summary(k.FtraceParser(), "")["slowest"])

    def test_wait_for_the_lock_of_a_vma(self):
        """vm_lock of 6.4 to 6.14 is no lock of an anon_vma."""
        text = BPFTRACE.replace("__split_vma", "__vma_start_write")
        self.assertEqual(self.summary(k.BpftraceParser(), text)["anon_vma_waits"]["count"], 0)

    def test_histogram(self):
        self.assertEqual([(h["from_ns"], h["walks"]) for h in k.histogram([0, 1, 9, 100, 999, 1000])],
                         [(1, 3), (10, 0), (100, 2), (1000, 1)])
        self.assertEqual(k.histogram([]), [])

    def test_bpftrace_is_missing(self):
        notes = []
        with mock.patch.object(k.shutil, "which", return_value=None), \
                mock.patch.object(k, "find_tracefs", side_effect=k.Failure("ftrace is tried")):
            with self.assertRaisesRegex(k.Failure, "ftrace is tried"):
                k.trace(1, "auto", notes)
            with self.assertRaisesRegex(k.Failure, "not installed"):
                k.trace(1, "bpftrace", [])
        self.assertEqual(len(notes), 1)

    def test_which_tracer_is_used(self):
        for installed, btf, wanted, used in ((1, 1, "auto", "Bpftrace"), (1, 0, "auto", "Ftrace"), (0, 1, "auto", "Ftrace"),
                                             (1, 1, "ftrace", "Ftrace"), (1, 0, "bpftrace", "Bpftrace")):
            notes = []
            with self.subTest(installed=installed, btf=btf, wanted=wanted), \
                    mock.patch.object(k.shutil, "which", return_value="bpftrace" if installed else None), \
                    mock.patch.object(k, "BTF", "/" if btf else "/nonexistent"), \
                    mock.patch.object(k, "find_tracefs", return_value="/nonexistent"), \
                    mock.patch.object(k, "Bpftrace", side_effect=k.Failure("Bpftrace")), \
                    mock.patch.object(k, "Ftrace", side_effect=k.Failure("Ftrace")):
                with self.assertRaisesRegex(k.Failure, used):
                    k.trace(1, wanted, notes)
                self.assertEqual(bool(notes), wanted == "auto" and used == "Ftrace")

    def bpftrace(self, script, seconds=0.3):
        """The trace of a program that stands for bpftrace."""
        with tempfile.TemporaryDirectory() as d:
            path = pathlib.Path(d) / "bpftrace"
            path.write_text("#!/bin/sh\n" + script)
            path.chmod(0o755)
            with mock.patch.dict(os.environ, PATH=f"{d}:{os.environ['PATH']}"), \
                    mock.patch.object(k, "find_tracefs", return_value=d):
                return k.trace(seconds, "bpftrace", [])

    def test_bpftrace_runs(self):
        t = self.bpftrace("echo ready; echo walk 5000 46 kswapd0; exec sleep 60")
        self.assertEqual((t["walks"], t["tracer"], t["anon_vma_waits"]), (1, "bpftrace", None))

    def test_bpftrace_that_warns_a_lot(self):
        """It must not wait for somebody to read its errors."""
        t = self.bpftrace("head -c 300000 /dev/zero | tr '\\0' '\\n' >&2; "
                          "echo ready; echo walk 5 46 a; exec sleep 60", 1)
        self.assertEqual(t["walks"], 1)

    def test_bpftrace_that_cannot(self):
        for btf, remedy in ("/", "update it"), ("/nonexistent", "without BTF, .* headers: install them"):
            with mock.patch.object(k, "BTF", btf), \
                    self.assertRaisesRegex(k.Failure, f"ended: ERROR: broken; {remedy}, .*--tracer ftrace"):
                self.bpftrace("echo ERROR: broken >&2; exit 1")

    def test_bpftrace_that_does_not_start(self):
        with mock.patch.object(k, "BPFTRACE_START", 0.2), self.assertRaisesRegex(k.Failure, "not started within"):
            self.bpftrace("exec sleep 60")


class Tracefs(unittest.TestCase):
    """Ordinary files in its place: they do not act, but show what is written where."""

    def setUp(self):
        self.root = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (self.root / "instances").mkdir()
        self.probes = self.root / "kprobe_events"
        self.probes.write_text("")
        self.name = f"ksm_rmap_check_{os.getpid()}"

    def enterContext(self, cm):         # Python 3.11 has it
        self.addCleanup(cm.__exit__, None, None, None)
        return cm.__enter__()

    def probe(self, name):
        with self.probes.open("a") as f:
            f.write(f"p:{name}/walk rmap_walk_ksm\nr4:{name}/walked rmap_walk_ksm\n")

    def test_not_mounted(self):
        (self.root / "empty").mkdir()
        with self.assertRaisesRegex(k.Failure, "mount -t tracefs.* CONFIG_KPROBE_EVENTS"):
            k.find_tracefs([str(self.root / "empty")])
        self.assertEqual(k.find_tracefs([str(self.root / "empty"), str(self.root)]), str(self.root))

    def test_only_ours_is_removed(self):
        for name in ("ksm_rmap_check_11", "my_ksm_rmap_check_11", "ksm_rmap_check_112"):
            (self.root / "instances" / name).mkdir()
            self.probe(name)
        k.remove_trace(str(self.root), "ksm_rmap_check_11")
        self.assertEqual(sorted(p.name for p in (self.root / "instances").iterdir()),
                         ["ksm_rmap_check_112", "my_ksm_rmap_check_11"])
        self.assertEqual([x for x in self.probes.read_text().splitlines() if x.startswith("-")],
                         ["-:ksm_rmap_check_11/walk", "-:ksm_rmap_check_11/walked"])

    def test_killed(self):
        """SIGKILL leaves nothing, even of the process group: another process removes it."""
        script = (f"import sys, time; sys.path.insert(0, {str(pathlib.Path(__file__).parents[1])!r}); "
                  f"from report.test_ksm_rmap_check import k; import os; "
                  f"k.Ftrace.set_up = lambda self: os.mkdir(self.instance)\n"
                  f"with k.Ftrace({str(self.root)!r}):\n print('ready', flush=True)\n time.sleep(60)")
        with subprocess.Popen([sys.executable, "-B", "-c", script], stdout=subprocess.PIPE,
                              start_new_session=True) as p:
            p.stdout.readline()
            self.assertEqual(os.listdir(self.root / "instances"), [f"ksm_rmap_check_{p.pid}"])
            os.killpg(p.pid, signal.SIGKILL)
        end = time.monotonic() + 10
        while os.listdir(self.root / "instances") and time.monotonic() < end:
            time.sleep(0.01)
        self.assertEqual(os.listdir(self.root / "instances"), [])

    def tracer(self):
        """One that reads a pipe, whose other end is returned, too."""
        t = k.Ftrace(str(self.root))
        (pathlib.Path(t.instance) / "events").mkdir(parents=True)
        (pathlib.Path(t.instance) / "events/enable").write_text("")
        t.pipe, writing = os.pipe()
        os.set_blocking(t.pipe, False)
        self.addCleanup(os.close, t.pipe)
        return t, writing

    def test_what_is_in_the_buffer_at_the_end(self):
        t, writing = self.tracer()
        os.write(writing, b"a\nb\nc")
        with mock.patch.object(k.os, "read", side_effect=[b"a\n", b"b\nc", b""]):
            self.assertEqual(list(t.lines(0)), ["a", "b"])
        os.close(writing)

    def test_end_of_file(self):
        """Where all tracing was switched off: it must not spin until the time is up."""
        t, writing = self.tracer()
        os.close(writing)
        begun = time.process_time()
        self.assertEqual(list(t.lines(0.5)), [])
        self.assertLess(time.process_time() - begun, 0.25)

    def test_failure_half_way(self):
        """The instance is made, the probes are, and then there is no events folder: all is removed."""
        with self.assertRaises(k.Failure), mock.patch.object(k.time, "sleep"), \
                contextlib.redirect_stderr(io.StringIO()), k.Ftrace(str(self.root)):
            pass
        self.assertEqual(list((self.root / "instances").iterdir()), [])
        self.assertIn(f"-:{self.name}/walk\n", self.probes.read_text())

    def test_refused(self):
        for error, words in ((PermissionError(1, "no"), "lockdown"), (OSError(16, "busy"), "somebody else")):
            with mock.patch.object(k, "write", side_effect=error), contextlib.redirect_stderr(io.StringIO()), \
                    self.assertRaisesRegex(k.Failure, words), k.Ftrace(str(self.root)):
                pass
            self.assertEqual(list((self.root / "instances").iterdir()), [])

    def test_signal_while_it_is_set_up(self):
        with mock.patch.object(k.Ftrace, "set_up", side_effect=k.Stopped(15)), self.assertRaises(k.Stopped), \
                k.Ftrace(str(self.root)):
            (self.root / "instances" / self.name).mkdir()
        self.assertEqual(list((self.root / "instances").iterdir()), [])

    def test_lost(self):
        t = k.Ftrace(str(self.root))
        stats = pathlib.Path(t.instance) / "per_cpu/cpu0/stats"
        stats.parent.mkdir(parents=True)
        stats.write_text("entries: 3\noverrun: 4\ncommit overrun: 0\n")
        (self.root / "kprobe_profile").write_text("  walk      12      1\n  walked    12      2\n  other  9  50\n")
        self.assertEqual(t.lost(), 7)


class Proc(unittest.TestCase):
    """A /proc made of files."""

    def setUp(self):
        d = tempfile.TemporaryDirectory()
        self.addCleanup(d.cleanup)
        self.root = pathlib.Path(d.name)
        for name, value in (("PROC", d.name), ("all_anonymous_are_ksm", lambda _: False)):
            patch = mock.patch.object(k, name, value)
            patch.start()
            self.addCleanup(patch.stop)
        for name in ("kpageflags", "kpagecount"):
            (self.root / name).write_bytes(b"")

    def put(self, name, index, *values):
        """Numbers into a file, from an index on."""
        with open(self.root / name, "r+b" if (self.root / name).exists() else "wb") as f:
            f.seek(index * 8)
            f.write(struct.pack(f"={len(values)}Q", *values))

    def process(self, pid, lines, merging=10, pfns=()):
        d = self.root / str(pid)
        d.mkdir()
        (d / "comm").write_text("java\n")
        (d / "status").write_text("Name:\tjava\nPPid:\t1\n")
        (d / "ksm_stat").write_text(f"ksm_rmap_items {merging}\n")
        (d / "ksm_merging_pages").write_text(f"{merging}\n")
        (d / "maps").write_text("".join(lines))
        (d / "smaps").write_text("".join(f"{line}VmFlags: rd wr mg\n" for line in lines))
        self.put(f"{pid}/pagemap", int(lines[0].split("-")[0], 16) // PAGE, *(k.PM_PRESENT | pfn for pfn in pfns))

    def machine(self):
        machine = k.Machine(5)
        machine.find_processes({"run": 1, "full_scans": 2})
        machine.sample()
        return machine

    def ksm_page(self, pfn, sharers):
        self.put("kpageflags", pfn, k.KPF_ANON | k.KPF_KSM)
        self.put("kpagecount", pfn, sharers)

    def test_all_is_read(self):
        self.ksm_page(7, 3)
        self.process(40, maps("1|1000|rw-p"), pfns=[7] * 128)
        machine = self.machine()
        p, = machine.processes
        self.assertEqual((p.command, p.parent, p.merging_pages, p.sharers, p.sampled), ("java", 1, 10, 3, 128))
        # Each of those that were looked at in a block stands for two
        self.assertEqual((len(machine.samples), machine.samples[0].weight), (64, 2))

    def test_no_smaps(self):
        """Without CONFIG_PROC_PAGE_MONITOR: the process with the many VMAs must not get lost."""
        self.process(40, maps(*(f"{i}|{i + 1}|{'rw' if i % 2 else 'r-'}-p" for i in range(1, 20001))))
        for name in ("40/smaps", "40/pagemap", "kpageflags", "kpagecount"):
            (self.root / name).unlink()
        machine = self.machine()
        self.assertEqual([p.layout.longest().vmas for p in machine.processes], [20000])
        self.assertEqual(len(machine.notes), 2)

    def test_more_processes_than_files_may_be_open(self):
        self.ksm_page(7, 3)
        for pid in range(100, 200):
            self.process(pid, maps("1|3|rw-p"), pfns=[7])
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        resource.setrlimit(resource.RLIMIT_NOFILE, (50, before[1]))
        self.assertEqual(len(self.machine().samples), 100)

    def test_processes_that_have_gone(self):
        (self.root / "41").mkdir()
        self.process(40, maps("1|3|rw-p"), pfns=[7])
        (self.root / "40/pagemap").unlink()
        machine = self.machine()
        self.assertEqual((len(machine.processes), machine.samples, machine.left_out), (1, [], 0))

    def test_page_frame_numbers_are_hidden(self):
        self.process(40, maps("1|3|rw-p"), pfns=[0, 0])
        with self.assertRaisesRegex(k.Failure, "CAP_SYS_ADMIN"):
            self.machine()

    def test_time_is_up(self):
        self.process(40, maps(*(f"{i}|{i + 1}|rw-p" for i in range(1, 1001))))
        for seconds, vmas in ((-1, 256), (60, 1000)):
            found = k.read_layout(40, "maps", time.monotonic() + seconds)
            self.assertEqual((len(found.starts), found.complete), (vmas, vmas == 1000))

    def test_measure_only_what_page_idle_walks(self):
        """A page that is on no LRU list takes no time, which is no good news."""
        page = k.Page(7, 40, 20000, 20000, 256, 1)
        self.put("kpageflags", 7, k.KPF_KSM)
        with mock.patch.object(k, "IDLE_BITMAP", str(self.root / "kpagecount")):
            self.assertIsNone(k.measure([page], UNBOUNDED, time.monotonic() + 5))
            self.put("kpageflags", 7, k.KPF_KSM | k.KPF_LRU)
            self.assertEqual(k.measure([page], UNBOUNDED, time.monotonic() + 5)["pages"], 1)


class Pages(unittest.TestCase):
    """Of this process, with what kpageflags and kpagecount would say in files."""

    def setUp(self):
        self.advice = []

        class Mapping(mmap.mmap):
            """Whose kernel may be without KSM."""
            madvise = self.advice.append
        patch = mock.patch.object(k.mmap, "mmap", Mapping)
        patch.start()
        self.addCleanup(patch.stop)

    def test_all_anonymous_are_ksm(self):
        """Linux 6.12 says so; that it is asked of an anonymous page that is there, its pagemap entry tells."""
        entries, opened = [], []

        def u64(fd, index, flags):
            if fd == "flags":
                # The page must still be there, and so what it was found by
                self.assertEqual(len(os.pread(opened[-1], 8, 0)), 8)
                return flags
            opened.append(fd)
            entries.append(int.from_bytes(os.pread(fd, 8, index * 8), sys.byteorder))
            return entries[-1]
        for flags in (k.KPF_ANON | k.KPF_KSM, k.KPF_ANON):
            with mock.patch.object(k, "u64", functools.partial(u64, flags=flags)):
                self.assertEqual(k.all_anonymous_are_ksm("flags"), bool(flags & k.KPF_KSM))
        # Or it might be merged, if PR_SET_MEMORY_MERGE is inherited
        self.assertEqual(self.advice, [mmap.MADV_UNMERGEABLE] * 2)
        # Bit 61: a page of a file, or shared
        self.assertEqual([e & (k.PM_PRESENT | 1 << 61) for e in entries], [k.PM_PRESENT] * 2)

    def test_u64(self):
        with tempfile.TemporaryFile() as f:
            f.write(struct.pack("=QQ", 5, 6))
            f.flush()
            self.assertEqual([k.u64(f.fileno(), i) for i in range(3)], [5, 6, 0])


class Program(unittest.TestCase):
    def run_tool(self, *args):
        return subprocess.run([sys.executable, "-B", str(PATH), *args], capture_output=True, text=True, check=False)

    def test_usage(self):
        for args in (["--seconds", "0"], ["--trace"], ["--limit", "x"], ["nonsense"]):
            self.assertEqual(self.run_tool(*args).returncode, 2)

    def test_positive(self):
        self.assertEqual(k.positive("0.5"), 0.5)
        for text in ("0", "-1", "1e9", "nan"):
            with self.assertRaises(ValueError):
                k.positive(text)

    def test_help(self):
        p = self.run_tool("--help")
        self.assertEqual(p.returncode, 0)
        for words in ("exit status", "SIGKILL", "idle bits", '"problem"'):
            self.assertIn(words, p.stdout)

    def fails(self, words, **replaced):
        err = io.StringIO()
        with mock.patch.multiple(k, **{"PID_NS": "/nowhere", **replaced}), contextlib.redirect_stderr(err), \
                contextlib.redirect_stdout(io.StringIO()):
            status = k.main(["--measure"])
        self.assertEqual((status, len(err.getvalue().splitlines())), (2, 1))
        self.assertIn(words, err.getvalue())

    def test_no_ksm(self):
        self.fails("CONFIG_KSM", SYSFS="/nowhere")

    def test_not_root(self):
        with mock.patch.object(os, "geteuid", return_value=1000):
            self.fails("as root", read_ksm=lambda: {"run": 0})

    def test_no_page_idle(self):
        with mock.patch.object(os, "geteuid", return_value=0):
            self.fails("CONFIG_IDLE_PAGE_TRACKING", IDLE_BITMAP="/nowhere", read_ksm=lambda: {"run": 0})

    def test_container(self):
        with tempfile.NamedTemporaryFile() as f, mock.patch.object(os, "geteuid", return_value=0):
            self.fails("on the host", PID_NS=f.name, IDLE_BITMAP=f.name, read_ksm=lambda: {"run": 0})

    def test_not_permitted(self):
        """Status 1 would say that there is a problem."""
        def check(_):
            raise PermissionError(13, "Permission denied", "/proc/1/maps")
        self.fails("/proc/1/maps: Permission denied; run it as root", check=check)

    def test_nohup(self):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with mock.patch.object(k, "check", side_effect=lambda _: 0):
            k.main([])
        self.assertEqual(signal.getsignal(signal.SIGHUP), signal.SIG_IGN)
        self.assertEqual(signal.getsignal(signal.SIGTERM), k.stop)

    def test_signal(self):
        with mock.patch.object(k, "check", side_effect=lambda _: k.stop(15, None)):
            self.assertEqual(k.main([]), 143)
        self.assertEqual({signal.getsignal(s) for s in k.ENDING}, {signal.SIG_IGN})

    def tearDown(self):
        for s in (*k.ENDING, signal.SIGPIPE):
            signal.signal(s, signal.default_int_handler if s == signal.SIGINT else signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)

    def check(self, processes, samples, **of):
        """Exit status and output for a machine that is made up."""
        machine = mock.Mock(spec=k.Machine, processes=processes, samples=samples, notes=["a note"], left_out=0,
                            started=time.monotonic())
        args = argparse.Namespace(measure=False, trace=None, seconds=5, limit=10, json=False, visit_ns=35)
        vars(args).update(of)
        ksm = {"run": 1, "pages_to_scan": 100, "sleep_millisecs": 20, "max_page_sharing": 256, "merge_across_nodes": 1,
               "smart_scan": 1, "use_zero_pages": 0, "advisor_mode": "none", "pages_shared": 1, "pages_sharing": 255}
        kernel = {"release": "6.12.57+deb13-amd64", "walk": "unbounded",
                  "because": "older than 7.3, no linear_page_index in BTF"}
        out = io.StringIO()
        with mock.patch.multiple(k, Machine=lambda _: machine, read_ksm=lambda: ksm, PID_NS="/nowhere",
                                 judge_kernel=lambda *_: kernel), \
                mock.patch.object(os, "geteuid", return_value=0), contextlib.redirect_stdout(out):
            return k.check(args), out.getvalue()

    def test_everything_is_shown(self):
        """A process in a problem, and many others, in one screen."""
        p = process(4000000, vmas=20000, command="a" * 15, merging=10**6)
        samples = [sample(p, 1, 256), sample(p, 2, 3)]
        status, text = self.check([p] + [process(pid) for pid in range(1, 31)], samples)
        self.assertEqual(status, 1)
        for words in ("PROBLEM", k.show_range(cost(UNBOUNDED, 20000, 20000, 256)), "20,000 VMAs, process 4000000",
                      "a note", "23 more"):
            self.assertIn(words, " ".join(text.split()))
        self.assertLessEqual(len(text.splitlines()), 24)
        self.assertLessEqual(max(map(len, text.splitlines())), 100)

    def test_trace_is_shown(self):
        """From microseconds to seconds, in one screen."""
        totals = k.Totals()
        for i in range(3, 10):
            totals.add(k.Event("walk", 4 * 10**i, 63, "kcompactd0", ""))
        p = process(4000000, vmas=20000)
        with mock.patch.object(k, "trace", return_value=totals.summary("bpftrace", 30, 1, True)):
            status, text = self.check([p, process(1), process(2)], [sample(p, 1, 256)], trace=30, tracer="auto")
        self.assertEqual(status, 1)
        for words in ("7 walks", "slowest 4.0 s: kcompactd0 (63)", "100 ms 1 ####", "anon_vma lock", "1 events"):
            self.assertIn(words, " ".join(text.split()))
        self.assertLessEqual(len(text.splitlines()), 26)

    def test_json(self):
        """Each name is in the help, and the other way round."""
        p = process(vmas=10)
        status, text = self.check([p], [sample(p)], json=True)
        told = json.loads(text)
        self.assertEqual((status, told["verdict"]), (0, "ok"))
        schema = k.EPILOG[k.EPILOG.index("  schema"):]
        for part in (told, told["processes"][0], told["sample"], told["estimate"], k.Totals().summary("x", 1, 0, True)):
            for name in part:
                self.assertIn(name, schema)


if __name__ == "__main__":
    unittest.main()
