# SPDX-License-Identifier: GPL-2.0
"""Tests of tools/mm/ksm_rmap_check: what it reads, estimates, says, and removes."""
import argparse
import contextlib
import functools
import importlib.machinery
import importlib.util
import io
import os
import pathlib
import signal
import struct
import subprocess
import sys
import tempfile
import time
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
    return [(r.start // PAGE, r.end // PAGE, r.vmas) for r in k.runs_of(k.parse_vmas(maps(*words)))]


def process(pid=7, vmas=1, merging=10, parent=1, at=100, command="java"):
    """One whose VMAs are a page each, and next to each other."""
    p = k.Process(pid, command, parent, merging, mergeable=True)
    p.vmas = list(k.parse_vmas(maps(*(f"{at + i}|{at + i + 1}|{'rw' if i % 2 else 'r-'}-p" for i in range(vmas)))))
    p.runs = p.loose = k.runs_of(p.vmas)
    return p


def sample(p, pfn=1, sharers=2, at=100):
    p.sampled += 1
    return k.Sample(p, at * PAGE, pfn, sharers)


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
        self.assertEqual(len(k.runs_of(k.parse_vmas(smaps("rd mr mw me ac mg")))), 1)
        self.assertEqual(len(k.runs_of(k.parse_vmas(smaps("rd mr mw me ac")))), 2)

    def test_run_at(self):
        found = k.runs_of(k.parse_vmas(maps("1|2|rw-p", "4|6|rw-p")))
        self.assertEqual([k.run_at(found, n * PAGE) for n in (0, 1, 2, 4, 5, 6)],
                         [None, found[0], None, found[1], found[1], None])

    def test_accessible(self):
        self.assertEqual([v.accessible for v in k.parse_vmas(maps("1|2|---p", "2|3|r--p"))], [False, True])

    def test_a_hundred_thousand(self):
        lines = maps(*(f"{i}|{i + 1}|rw-p" for i in range(1, 100001)))
        begun = time.process_time()
        self.assertEqual(len(k.runs_of(k.parse_vmas(lines))), 1)
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

    def test_parent(self):
        self.assertEqual(k.parse_parent("12 (a) b (c)) S 34 12 12 0"), 34)

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
    def walk(self, release, data=None, symbols=None):
        return k.judge_kernel(release, data, symbols).walk

    def test_version(self):
        self.assertEqual([self.walk(r) for r in ("7.3.4+deb13", "7.10.0", "8.0-rc1", "6.1.0-57-amd64", "7.2.13")],
                         ["bounded"] * 3 + ["unknown"] * 2)

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
            self.assertEqual(self.walk("6.12.1", data), "unknown")

    def test_symbols(self):
        walk = "ffffffff81464d50 T rmap_walk_ksm\n"
        self.assertEqual(self.walk("7.2.13", None, walk), "unbounded")
        self.assertEqual(self.walk("7.2.13", None, walk + "ffffffff81464000 t rmap_walk_keys.isra.0\n"), "bounded")
        self.assertEqual(self.walk("7.2.13", None, "ffffffff81464d50 T other\n"), "unknown")

    def test_override(self):
        self.assertEqual(k.read_kernel("bounded").walk, "bounded")


class Estimates(unittest.TestCase):
    def test_unbounded(self):
        cost = k.walk_ns(UNBOUNDED, 20000, 30000, 256)
        self.assertEqual(cost.mid, 256 * (k.SHARER_NS[1] + 20000 * 2 * k.VISIT_NS[1]))
        self.assertEqual(cost.low, 256 * (k.SHARER_NS[0] + 20000 * k.VISIT_NS[0]))
        self.assertEqual(cost.high, 256 * (k.SHARER_NS[2] + 30000 * 2 * k.VISIT_NS[2]))

    def test_near_what_was_measured(self):
        """Nanoseconds per mapping, of README.md, and 705 ms published."""
        for walk, vmas, measured in ((UNBOUNDED, 1, 155), (UNBOUNDED, 1000, 33824), (UNBOUNDED, 20000, 1184282),
                                     (UNBOUNDED, 20000, 705e6 / 256), (BOUNDED, 1, 111), (BOUNDED, 1000, 203),
                                     (BOUNDED, 20000, 439), (BOUNDED, 20000, 649)):
            cost = k.walk_ns(walk, vmas, vmas, 1)
            self.assertLess(max(cost.mid / measured, measured / cost.mid), 3)
            self.assertLess(cost.low, measured)
            self.assertGreater(cost.high, measured)

    def test_scale(self):
        self.assertEqual(k.walk_ns(k.Walk(False, 10), 100, 100, 2).mid, 10 * k.walk_ns(UNBOUNDED, 100, 100, 2).mid)

    def test_vmas_are_of_the_run(self):
        p = process(vmas=50)
        self.assertEqual([x.vmas for x in k.pages_of([sample(p, at=120), sample(p, pfn=2, at=900)])], [50, 1])

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
        self.assertEqual(e.median_ns, k.walk_ns(UNBOUNDED, 10, 10, 2))
        self.assertEqual((e.worst_ns, e.sharers, e.pid), (k.walk_ns(UNBOUNDED, 10, 10, 100), 100, 7))

    def test_pages_of_processes_count_by_their_number(self):
        """Each has two samples, but one of them has most of the pages."""
        few, many = process(1, 1, merging=2), process(2, 100, merging=1000)
        samples = [sample(few, 1), sample(few, 2), sample(many, 3), sample(many, 4)]
        self.assertEqual(k.estimate(UNBOUNDED, k.pages_of(samples)).median_ns, k.walk_ns(UNBOUNDED, 100, 100, 2))

    def test_related(self):
        parent, child, grandchild = process(1, 10, parent=0), process(2, 10, parent=1), process(3, 4, parent=2)
        other = process(4, 10, parent=99)
        k.add_related([parent, child, grandchild, other])
        self.assertEqual([list(p.related.values()) for p in (parent, child, grandchild, other)], [[14], [4], [], []])
        page, = k.pages_of([sample(parent)])
        self.assertEqual(page.vmas, 24)

    def test_related_after_exec(self):
        parent, child = process(1, 10), process(2, 10, parent=1, at=5000)
        k.add_related([parent, child])
        self.assertEqual(parent.related, {})

    def test_loop_of_parents(self):
        k.add_related([process(1, parent=2), process(2, parent=1)])

    def test_nothing_sampled(self):
        self.assertIsNone(k.estimate(UNBOUNDED, k.pages_of([])))
        page, = k.assumed_pages([process(vmas=30), process(2, merging=0)], {"pages_shared": 10, "pages_sharing": 90})
        self.assertEqual((page.vmas, page.sharers), (30, 10))
        self.assertEqual(k.assumed_pages([process()], {"pages_shared": 0}), [])

    def test_full_scan(self):
        ksm = {"run": 1, "pages_to_scan": 100, "sleep_millisecs": 20}
        self.assertEqual(k.full_scan_seconds(ksm, 26214401), 5242.9)
        self.assertIsNone(k.full_scan_seconds({**ksm, "run": 0}, 1))

    def test_max_page_sharing(self):
        pages = [k.Page(1, 7, 20000, 20000, 256, 1.0), k.Page(2, 7, 1, 1, 4, 3.0)]
        sharing, more = k.sharing_for(10**7, UNBOUNDED, pages)
        self.assertEqual(sharing, 7)
        self.assertLess(k.walk_ns(UNBOUNDED, 20000, 20000, sharing).mid, 10**7)
        self.assertEqual(more, 36 / 4)          # 37 pages instead of one
        self.assertEqual(k.sharing_for(1000, UNBOUNDED, pages)[0], 2)


def report(estimate=None, trace=None, measured=None, left_out=0, processes=("one",)):
    return {"trace": trace, "measure": measured, "sample": {"processes_left_out": left_out}, "processes": processes,
            "estimate": estimate, "verdict": None,
            "ksm": {"max_page_sharing": 256, "pages_shared": 10, "pages_sharing": 2550}}


def worst(unbounded, bounded=None):
    """Estimates whose worst walk takes so long, in ns."""
    return {walk: k.Estimate(None, k.Range(0, ns, 10**12), 7, 1, 1)
            for walk, ns in (("unbounded", unbounded), ("bounded", bounded)) if ns is not None}


class Verdicts(unittest.TestCase):
    LIMIT = 10**7

    def judge(self, walk="unbounded", **of):
        return k.judge(report(**of), k.Kernel("6.1", walk, "so"), self.LIMIT)

    def test_estimate(self):
        self.assertEqual(self.judge(estimate=worst(self.LIMIT)), "problem")
        self.assertEqual(self.judge(estimate=worst(self.LIMIT - 1)), "ok")
        self.assertEqual(self.judge(), "ok")

    def test_kernel_that_is_not_known(self):
        self.assertEqual(self.judge("unknown", estimate=worst(10**9, 10**5)), "unknown")
        self.assertEqual(self.judge("unknown", estimate=worst(10**6, 10**5)), "ok")
        self.assertEqual(self.judge("unknown", estimate=worst(10**9, 10**8)), "problem")

    def test_measured_is_better_than_estimated(self):
        self.assertEqual(self.judge(estimate=worst(10**9), measured={"worst_ns": 10**6}), "ok")
        self.assertEqual(self.judge(estimate=worst(10**6), measured={"worst_ns": 10**9}), "problem")

    def test_trace(self):
        self.assertEqual(self.judge(estimate=worst(10**6), trace={"slowest": {"ns": 10**9}}), "problem")
        # That other pages were walked says nothing of this one
        self.assertEqual(self.judge(estimate=worst(10**9), trace={"slowest": {"ns": 5}}), "problem")
        self.assertEqual(self.judge(estimate=worst(10**6), trace={"slowest": None}), "ok")

    def test_left_out(self):
        self.assertEqual(self.judge(left_out=1), "unknown")
        self.assertEqual(self.judge(left_out=1, estimate=worst(10**9)), "problem")

    def advice(self, verdict, walk="unbounded", pages=(), **of):
        r = {**report(**of), "verdict": verdict}
        return " ".join(k.advise(r, k.Kernel("6.1", walk, "so"), k.Walk(walk == "bounded"), list(pages), self.LIMIT))

    def test_advice(self):
        page = k.Page(1, 7, 20000, 20000, 256, 1.0)
        self.assertIn("Nothing to check", self.advice("ok", processes=()))
        self.assertIn("256 sharers in 20,000 VMAs, the most there are, a walk would take 358 ms",
                      self.advice("ok", processes=[{"longest_run_vmas": n} for n in (5, 20000, 7)]))
        self.assertIn("less than 10.0 ms", self.advice("ok", pages=[page]))
        told = self.advice("problem", pages=[page])
        self.assertIn("7.3 or later", told)
        self.assertIn("echo 7 > max_page_sharing", told)
        self.assertIn("costs 1.4 MiB in copies", told)      # 36 for each of 10 pages
        self.assertIn("not enough", self.advice("problem", pages=[k.Page(1, 7, 10**6, 10**6, 256, 1.0)]))
        self.assertNotIn("7.3", self.advice("problem", "bounded", [k.Page(1, 7, 9, 9, 10**6, 1.0)]))
        self.assertIn("--seconds", self.advice("unknown", pages=[page], left_out=1))
        self.assertIn("cannot be told here: so", self.advice("unknown", "unknown", [page]))


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
walk 1000000000 45 kcompactd0
walk 5000 46 kswapd0
wait 50000 77 a (b) c-2

        __traceiter_contention_end+5
        rwsem_down_write_slowpath+1234
        down_write+91
        __split_vma+112
        mprotect_fixup+1


end 0 0 -
wait 89000 78 java

        down_write_killable+5
        vm_mmap_pgoff+1

end 0 0 -
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
        self.assertEqual(self.seen(parser, BPFTRACE.replace("wait 89000", "Lost 12 events\nwait 89000")), sorted(SEEN))
        self.assertEqual(parser.lost, 12)

    def test_summary(self):
        t = k.summarize(events(k.FtraceParser(), FTRACE), "ftrace", 30, 2, True)
        self.assertEqual((t["walks"], t["slowest"], t["lost_events"]),
                         (2, {"ns": 10**9, "pid": 45, "command": "kcompactd0"}, 2))
        self.assertEqual(t["waits"], {"count": 2, "total_ns": 139000, "longest_ns": 89000})
        self.assertEqual(t["anon_vma_waits"], {"count": 1, "total_ns": 50000, "longest_ns": 50000})
        self.assertIsNone(k.summarize([], "ftrace", 1, 0, False)["waits"])
        self.assertIsNone(k.summarize([], "ftrace", 1, 0, True)["slowest"])

    def test_histogram(self):
        self.assertEqual([(h["from_ns"], h["walks"]) for h in k.histogram([0, 1, 4, 7, 8])],
                         [(1, 2), (2, 0), (4, 2), (8, 1)])
        self.assertEqual(k.histogram([]), [])

    def test_bpftrace_versions(self):
        self.assertIsNone(k.bpftrace_usable("bpftrace v0.17.0"))
        self.assertIn("too old", k.bpftrace_usable("bpftrace v0.9.4"))
        self.assertIn("not installed", k.bpftrace_usable(None))

    def test_bpftrace_is_missing(self):
        notes = []
        with mock.patch.object(k.shutil, "which", return_value=None), mock.patch.object(k, "find_tracefs") as find, \
                mock.patch.object(k, "remove_leftovers", return_value=["ksm_rmap_check_5"]):
            find.return_value = "/t"
            self.assertEqual(k.choose_tracer("auto", notes).tracer, "ftrace")
            with self.assertRaisesRegex(k.Failure, "not installed"):
                k.choose_tracer("bpftrace", [])
        self.assertEqual(len(notes), 2)


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
        with self.assertRaisesRegex(k.Failure, "mount -t tracefs"):
            k.find_tracefs([str(self.root / "empty")])
        self.assertEqual(k.find_tracefs([str(self.root / "empty"), str(self.root)]), str(self.root))

    def test_no_kprobe_events(self):
        (self.root / "events").mkdir()
        self.probes.unlink()
        with self.assertRaisesRegex(k.Failure, "CONFIG_KPROBE_EVENTS"):
            k.find_tracefs([str(self.root)])

    def test_leftovers(self):
        """Those of the dead go, those of the living and of others stay."""
        for name in ("ksm_rmap_check_11", "ksm_rmap_check_12", "my_ksm_rmap_check_13", "my_14"):
            (self.root / "instances" / name).mkdir()
        self.probe("ksm_rmap_check_13")
        self.probe("mine")
        self.assertEqual(k.remove_leftovers(str(self.root), lambda pid: pid == 12),
                         ["ksm_rmap_check_11", "ksm_rmap_check_13"])
        self.assertEqual(sorted(p.name for p in (self.root / "instances").iterdir()),
                         ["ksm_rmap_check_12", "my_14", "my_ksm_rmap_check_13"])
        written = self.probes.read_text().splitlines()
        self.assertEqual([x for x in written if x.startswith("-")],
                         ["-:ksm_rmap_check_13/walk", "-:ksm_rmap_check_13/walked"])

    def test_is_running(self):
        self.assertFalse(k.is_running(1 << 30))

    def test_failure_half_way(self):
        """The instance is made, the probes are, and then there is no events folder: all is removed."""
        with self.assertRaises(k.Failure), k.Ftrace(str(self.root)):
            pass
        self.assertEqual(list((self.root / "instances").iterdir()), [])
        self.assertIn(f"-:{self.name}/walk\n", self.probes.read_text())

    def test_refused(self):
        for error, words in ((PermissionError(1, "no"), "locked down"), (OSError(16, "busy"), "somebody else")):
            with mock.patch.object(k, "write", side_effect=error), contextlib.redirect_stderr(io.StringIO()), \
                    self.assertRaisesRegex(k.Failure, words), k.Ftrace(str(self.root)):
                pass
            self.assertEqual(list((self.root / "instances").iterdir()), [])

    def test_signal_while_it_is_set_up(self):
        with mock.patch.object(k.Ftrace, "set_up", side_effect=k.Stopped(15)), self.assertRaises(k.Stopped), \
                mock.patch.object(k, "remove_trace", return_value=[]) as remove, k.Ftrace(str(self.root)):
            pass
        remove.assert_called_once_with(str(self.root), self.name)

    def test_signals_wait_for_the_end(self):
        with k.signals_ignored():
            for s in k.ENDING:
                os.kill(os.getpid(), s)
        self.assertIs(signal.getsignal(signal.SIGINT), signal.default_int_handler)

    def test_lost(self):
        t = k.Ftrace(str(self.root))
        stats = pathlib.Path(t.instance) / "per_cpu/cpu0/stats"
        stats.parent.mkdir(parents=True)
        stats.write_text("entries: 3\noverrun: 4\ncommit overrun: 0\n")
        (self.root / "kprobe_profile").write_text("  walk      12      1\n  walked    12      2\n  other  9  50\n")
        self.assertEqual(t.lost(), 7)


class Pages(unittest.TestCase):
    """Of this process, with what kpageflags and kpagecount would say in files."""

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
        for args in (["--seconds", "0"], ["--trace"], ["--limit", "x"], ["nonsense"], ["--kernel", "new"]):
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
        with mock.patch.multiple(k, **replaced), contextlib.redirect_stderr(err), \
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

    def test_signal(self):
        with mock.patch.object(k, "check", side_effect=lambda _: k.stop(15, None)):
            self.assertEqual(k.main([]), 143)
        self.assertEqual({signal.getsignal(s) for s in k.ENDING}, {signal.SIG_IGN})

    def tearDown(self):
        for s in k.ENDING:
            signal.signal(s, signal.default_int_handler if s == signal.SIGINT else signal.SIG_DFL)

    def test_process_that_has_gone(self):
        """It is in the list of /proc, but no file of it is there any more."""
        machine = k.Machine(5)
        with mock.patch.object(k.os, "listdir", return_value=[str(1 << 30)]):
            machine.find_processes({"run": 0})
        self.assertEqual((machine.gone, machine.processes), (1, []))

    def test_time_is_up(self):
        with mock.patch.object(k, "parse_vmas", return_value=range(1000)):
            self.assertEqual(k.read_vmas("self", "maps", time.monotonic() - 1), (list(range(256)), False))
            self.assertEqual(k.read_vmas("self", "maps", time.monotonic() + 60), (list(range(1000)), True))

    def test_everything_is_shown(self):
        """A process in a problem, in one screen."""
        p = process(vmas=20000)
        samples = [sample(p, 1, 256), sample(p, 2, 3)]
        machine = mock.Mock(spec=k.Machine, processes=[p], samples=samples, notes=["a note"], left_out=0,
                            gone=0, complete=True, started=time.monotonic(), progress=mock.Mock())
        out = io.StringIO()
        args = argparse.Namespace(measure=False, trace=None, kernel="unbounded", seconds=5, limit=10, json=False,
                                  visit_ns=35)
        ksm = {"run": 1, "pages_shared": 1, "pages_sharing": 255}
        with mock.patch.multiple(k, Machine=lambda _: machine, read_ksm=lambda: ksm), \
                mock.patch.object(os, "geteuid", return_value=0), contextlib.redirect_stdout(out):
            self.assertEqual(k.check(args), 1)
        text = out.getvalue()
        cost = k.walk_ns(UNBOUNDED, 20000, 20000, 256)
        for words in ("PROBLEM", f"process {p.pid}", k.show_range(cost), "20,000 VMAs", "Note: a note"):
            self.assertIn(words, text)
        self.assertLess(len(text.splitlines()), 25)


if __name__ == "__main__":
    unittest.main()
