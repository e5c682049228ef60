# SPDX-License-Identifier: GPL-2.0
"""Tests of report judge on the saved logs in testdata/."""
import os
import re
import select
import subprocess
import sys
import tempfile
import time
import unittest

from .known import glob
from .ktap import Log
from .testing import REPORT, report

os.environ.pop("PYTHONUNBUFFERED", None)        # it would hide a missing flush
LIVE = [sys.executable, REPORT, "judge", "--live", "--log"]


def data(name):
    """The path of a saved log."""
    return os.path.join(REPORT, "testdata", name)


def live(log, text):
    """Run judge --live on this input; returns its status and output."""
    p = subprocess.run([*LIVE, log], input=text, timeout=20, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, check=False)
    return p.returncode, p.stdout.decode()


class Judged(unittest.TestCase):
    """One saved log each."""

    def judge(self, log, last, *lines, kernel="clean.dmesg", known="none.known", args=()):
        """The last line is so, the status agrees, and each of lines is a line of the output."""
        kernel = kernel if os.path.isabs(kernel) else data(kernel)
        status, out = report("judge", "--log", data(log), "--kernel-log", kernel,
                             "--known", data(known), *args)
        got = out.splitlines()
        self.assertEqual(got[-1], last, out)
        for line in lines:
            self.assertIn(line, got, out)
        failed = int(last.split()[2])
        self.assertEqual(status, 1 if failed else 0, out)
        self.assertEqual(sum(g.startswith("FAIL: ") for g in got), failed, out)
        return out

    def judge_changed(self, old, new, last, *lines):
        """The same for all_pass.tap with OLD replaced."""
        with open(data("all_pass.tap"), "rb") as f, tempfile.NamedTemporaryFile() as g:
            text = f.read()
            self.assertIn(old, text)
            g.write(text.replace(old, new))
            g.flush()
            self.judge(g.name, last, *lines)

    def test_all_pass(self):
        self.assertEqual(self.judge("all_pass.tap", "6 passed, 0 failed, 0 skipped").count("\n"), 1)

    def test_panic_half_way(self):
        self.judge("panic.tap", "3 passed, 1 failed, 0 skipped", "FAIL: ksm_rmap :: "
                   "ksm_rmap.split: was running; the log ends without a plan")

    def test_panic_on_the_console(self):
        self.judge("console_panic.tap", "2 passed, 2 failed, 0 skipped",
                   "FAIL: ksm_tests -M -p 10: was running; the log ends without a plan",
                   "FAIL: kernel log: Kernel panic - not syncing: Attempted to kill init! "
                   "exitcode=0x0000000b")

    def test_panic_in_both_logs(self):
        """It is one report."""
        with tempfile.NamedTemporaryFile("w") as f:
            f.write("[    1.000000] Kernel panic - not syncing: Attempted to kill init! "
                    "exitcode=0x0000000b\n")
            f.flush()
            self.judge("console_panic.tap", "2 passed, 2 failed, 0 skipped", kernel=f.name)

    def test_no_result_of_one(self):
        self.judge("lost_test.tap", "5 passed, 1 failed, 0 skipped",
                   "FAIL: ksm_tests -M -p 10: no result; the next test was started")

    def test_fewer_than_the_plan(self):
        self.judge("short_plan.tap", "4 passed, 1 failed, 0 skipped",
                   "FAIL: plan 1..3: 2 results")

    def test_plan_cut_off(self):
        self.judge("cut_plan.tap", "2 passed, 1 failed, 0 skipped", "FAIL: ksm_tests -M -p 10: "
                   "was the last to end; the log ends without a plan")

    def test_no_newline_at_the_end(self):
        with open(data("all_pass.tap"), "rb") as f, tempfile.NamedTemporaryFile() as g:
            g.write(f.read().rstrip(b"\n"))
            g.flush()
            self.judge(g.name, "6 passed, 0 failed, 0 skipped")

    def test_names_hold_brackets(self):
        for text, same in (("a [b] c", True), ("a [b] ", True), ("a b c", False), ("a [b]", False)):
            self.assertEqual(bool(re.match(glob("a [?] *"), text)), same, text)

    def test_result_of_another(self):
        self.judge("other_result.tap", "1 passed, 4 failed, 0 skipped",
                   "FAIL: map_populate: a result, but the log has not seen it start",
                   "FAIL: ksm_tests -U: no result; the next result is of map_populate",
                   "FAIL: ksm_tests -U: no result before the plan")

    def test_result_cut_off(self):
        self.judge("cut_result.tap", "2 passed, 1 failed, 0 skipped", "FAIL: ksm_tests -M -p 10: "
                   "was running; the log ends without a plan")

    def test_nothing_run(self):
        self.judge("nothing_run.tap", "0 passed, 2 failed, 0 skipped",
                   "FAIL: plan 1..0: 0 results", "FAIL: run: no test was run")

    def test_empty_or_no_log(self):
        self.judge("none.known", "0 passed, 1 failed, 0 skipped", "FAIL: run: no test was run")
        self.judge("missing", "0 passed, 2 failed, 0 skipped", "FAIL: log: not judged: "
                   "No such file or directory: " + data("missing"))

    def test_two_runs(self):
        self.judge("two_runs.tap", "4 passed, 0 failed, 0 skipped", args=["--expect-plan", "2"])
        self.judge("two_runs.tap", "4 passed, 1 failed, 0 skipped",
                   "FAIL: run: 2 plans of 3, after ksm_rmap", args=["--expect-plan", "3"])

    def test_started_again(self):
        self.judge("restarted.tap", "4 passed, 1 failed, 0 skipped", "FAIL: map_populate: "
                   "was the last to end; no plan; run_vmtests.sh was started again")

    def test_skip_after_fail(self):
        self.judge("skip_after_fail.tap", "2 passed, 2 failed, 0 skipped",
                   "FAIL: hugetlb_dio :: Huge pages not freed!: not ok")

    def test_skip_that_is_not_ok(self):
        self.judge_changed(b"# ok 1 ksm_rmap.merge", b"# not ok 1 ksm_rmap.merge # SKIP why",
                           "5 passed, 1 failed, 0 skipped", "FAIL: ksm_rmap :: ksm_rmap.merge: why")

    def test_said_twice(self):
        """A child may flush what its parent has printed: that is no second result."""
        self.judge_changed(b"# ok 3 ksm_rmap.cow", b"# ok 2 ksm_rmap.split", "6 passed, 1 failed, 0 skipped",
                           "FAIL: ksm_rmap: 3 results of the 4 in its plan")

    def test_result_without_a_start(self):
        self.judge_changed(b"# running ./ksm_rmap\n", b"# \n", "3 passed, 1 failed, 0 skipped",
                           "FAIL: ksm_rmap: a result, but the log has not seen it start")

    def test_new_skips(self):
        no = ": skipped, and not in the known list: "
        self.judge("skips.tap", "2 passed, 6 failed, 0 skipped",
                   f"FAIL: test_hmm.sh smoke{no}CONFIG_TEST_HMM=m",
                   f"FAIL: ksm_tests -N -m 1{no}At least 2 NUMA nodes must be available",
                   "FAIL: soft-dirty :: Hugepage allocation failed" + no
                   + "Hugepage allocation failed",
                   f"FAIL: khugepaged all:file{no}left out by run_vmtests.sh",
                   f"FAIL: memory-failure{no}Module hwpoison_inject not found, skipping...",
                   f"FAIL: on-fault-limit{no}left out by run_vmtests.sh",
                   f"skip NEW    {'test_hmm.sh smoke':40}  CONFIG_TEST_HMM=m")

    def test_known_skips(self):
        self.judge("skips.tap", "2 passed, 0 failed, 6 skipped", f"skip known  {'ksm_tests -N -m 1':40}"
                   "  the machine has one node [At least 2 NUMA nodes must be available]",
                   known="skips.known")

    def test_known_skips_of_another_list(self):
        self.judge("skips.tap", "2 passed, 0 failed, 6 skipped", known="include.known")

    def test_nothing_but_known_skips(self):
        self.judge("all_skipped.tap", "0 passed, 1 failed, 1 skipped", "FAIL: run: no test passed",
                   known="skips.known")

    def test_failures_named(self):
        self.judge("fail.tap", "3 passed, 2 failed, 0 skipped", "FAIL: ksm_rmap :: ksm_rmap.split: "
                   "# ksm_rmap.c:412:split:Expected reached (0) == mapped (1)".replace("# ", ""),
                   "FAIL: mrelease_test: exit=1 Bail out! cannot open /proc/swaps")

    def test_known_failures(self):
        self.judge("fail.tap", "3 passed, 0 failed, 2 skipped", known="fail.known", args=["--status", "1"])

    def test_list_is_exact(self):
        out = self.judge("fail.tap", "3 passed, 1 failed, 1 skipped", known="wrong_kind.known")
        self.assertEqual(out.count("note: stale"), 2, out)

    def test_crash_is_not_a_known_case(self):
        self.judge("crash.tap", "3 passed, 1 failed, 1 skipped", "FAIL: ksm_rmap: exit=139 SIGSEGV "
                   "FAILED: 2 / 3 tests passed.", known="fail.known")

    def test_stale_entry(self):
        out = self.judge("all_pass.tap", "6 passed, 0 failed, 0 skipped", known="stale.known")
        self.assertEqual(out.count("note: stale"), 1, out)
        self.assertIn("stale.known:2: fail ksm_tests -M -p 10 :: KSM test\n", out)

    def test_stale_only_with_a_result(self):
        out = self.judge("lost_test.tap", "5 passed, 1 failed, 0 skipped", known="stale.known")
        self.assertNotIn("note: stale", out)

    def test_bad_list(self):
        for known, said in (("bad.known", "bad.known:2: not"), ("missing", "No such file")):
            status, out = report("judge", "--log", data("all_pass.tap"), "--kernel-log", data("clean.dmesg"),
                              "--known", data(known))
            self.assertEqual((status, out.count("\n")), (2, 1), out)
            self.assertIn(said, out)

    def test_inner_failure_under_ok(self):
        self.judge("inner_fail.tap", "3 passed, 1 failed, 0 skipped")

    def test_inner_plan_not_fulfilled(self):
        self.judge("inner_short.tap", "4 passed, 1 failed, 0 skipped",
                   "FAIL: ksm_rmap: 3 results of the 17 in its plan")

    def test_none_of_its_tests(self):
        self.judge("no_test.tap", "0 passed, 1 failed, 0 skipped",
                   "FAIL: ksm_rmap.sh -t nothing: 0 results of the 0 in its plan")

    def test_bail_out_beside_a_known_failure(self):
        with tempfile.NamedTemporaryFile("w") as f:
            f.write("fail  ksm_rmap.sh :: ksm_rmap.split  -- known\n")
            f.flush()
            self.judge("bail_known.tap", "1 passed, 1 failed, 1 skipped",
                       "FAIL: ksm_rmap.sh: exit=1 Bail out! ksmd is not there", known=f.name)

    def test_names_repeated(self):
        self.judge("repeated.tap", "2 passed, 1 failed, 0 skipped",
                   "FAIL: gup_test -t -u -w -n 1 :: ioctl status 0: "
                   "GUP_FAST_BENCHMARK: Time: get:12 put:3 us")

    def test_garbage(self):
        self.judge("garbage.tap", "5 passed, 0 failed, 0 skipped")

    def test_status(self):
        self.judge("panic.tap", "3 passed, 1 failed, 0 skipped", "FAIL: ksm_rmap :: ksm_rmap.split:"
                   " was running; the log ends without a plan; time limit reached (status 124)",
                   args=["--status", "124"])
        self.judge("all_pass.tap", "6 passed, 1 failed, 0 skipped",
                   "FAIL: run: time limit reached (status 124)", args=["--status", "124"])
        for status in "1", "4", "139":
            self.judge("all_pass.tap", "6 passed, 1 failed, 0 skipped",
                       f"FAIL: run: the guest's status is {status}", args=["--status", status])
        self.judge("skips.tap", "2 passed, 0 failed, 6 skipped", known="skips.known",
                   args=["--status", "4"])

    def test_kernel_warn(self):
        out = self.judge("all_pass.tap", "6 passed, 1 failed, 0 skipped", "FAIL: kernel log: WARNING: "
                         "mm/ksm.c:3142 at rmap_walk_ksm+0x2f1/0x310, CPU#1: ksm_rmap/811",
                         kernel="warn.dmesg")
        self.assertIn("the page is in no anon_vma", out)
        self.assertIn("frame_20+", out)
        self.assertNotIn("frame_21+", out)

    def test_kernel_warn_known(self):
        self.judge("all_pass.tap", "6 passed, 0 failed, 0 skipped", kernel="warn.dmesg", known="log.known")
        self.judge("all_pass.tap", "6 passed, 2 failed, 0 skipped", kernel="two.dmesg", known="log.known")

    def test_lockdep(self):
        self.judge("all_pass.tap", "6 passed, 1 failed, 0 skipped", "FAIL: kernel log: WARNING: "
                   "possible circular locking dependency detected", kernel="lockdep.dmesg")

    def test_hung_task(self):
        self.judge("all_pass.tap", "6 passed, 1 failed, 0 skipped", "FAIL: kernel log: INFO: task "
                   "ksm_rmap:811 blocked for more than 120 seconds.", kernel="hung.dmesg")

    def test_rcu_stall(self):
        self.judge("all_pass.tap", "6 passed, 1 failed, 0 skipped", "FAIL: kernel log: rcu: INFO: "
                   "rcu_preempt self-detected stall on CPU", kernel="rcu.dmesg")

    def test_every_kind_of_report(self):
        said = ["x86/mm: WARNING: CPU: 0 PID: 1 at x", "rcu: INFO: Stall ended before state dump",
                "WARNING: CPU: 0 PID: 1 at mm/ksm.c:1 f+0x1/0x2", "kernel BUG at mm/ksm.c:12!",
                "BUG: unable to handle page fault for address: 0", "Oops: 0000 [#1] SMP",
                "general protection fault, probably for non-canonical address 0xdead",
                "possible recursive locking detected", "inconsistent lock state", "Kernel panic - x",
                "INFO: possible recursive locking detected", "bad: scheduling from the idle thread!",
                "INFO: trying to register non-static key.", "suspicious RCU usage",
                "INFO: task a:1 blocked in I/O wait for more than 120 seconds.",
                "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:",
                "INFO: rcu_tasks detected stalls on tasks:", "possible irq lock inversion dependency",
                "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [ksmd:43]", "watchdog: soft lockup",
                "watchdog: CPU0: Watchdog detected hard LOCKUP on cpu 0",
                "KASAN: null-ptr-deref in range", "KCSAN: data-race in a / b", "UBSAN: shift-out-of-bounds",
                "BUG kmalloc-64 (Not tainted): Poison overwritten", "Slab corruption (Not tainted)",
                "Bad page state in process a", "Bad page map in process a", "WARNING: anything",
                "scheduling while atomic: a/1/0x2", "Unable to handle kernel paging request",
                "kmemleak: 3 new suspected memory leaks", "------------[ cut here ]------------"]
        for text in said:
            with tempfile.NamedTemporaryFile("w", suffix=".dmesg") as f:
                f.write("[    1.000000] hello\n<4>[   12.345678][ T12] " + text)    # cut off, too
                f.flush()
                self.judge("all_pass.tap", "6 passed, 1 failed, 0 skipped", "FAIL: kernel log: "
                           + text, kernel=f.name)

    def test_kernel_log_empty(self):
        for kernel, said in ((os.devnull, "no kernel message in "), ("missing", "No such file"),
                             ("denied.dmesg", "no kernel message in ")):
            out = self.judge("all_pass.tap", "6 passed, 1 failed, 0 skipped", kernel=kernel)
            self.assertIn("FAIL: kernel log: not judged: " + said, out)


class Listed(unittest.TestCase):
    """The results, without a judgement."""

    def test_programs_and_cases(self):
        status, out = report("judge", "--list", "--log", data("inner_fail.tap"))
        self.assertEqual(status, 0)
        self.assertRegex(out, r"(?m)^ok [^:]+$")
        self.assertRegex(out, r"(?m)^fail [^:]+ :: .+$")

    def test_cut_off(self):
        """A result that is cut off does not count here either."""
        _, out = report("judge", "--list", "--log", data("cut_result.tap"))
        self.assertIn("none ksm_tests -M -p 10\n", out)

    def test_nothing(self):
        self.assertEqual(report("judge", "--list", "--log", data("nothing_run.tap"))[0], 1)


class Pieces(unittest.TestCase):
    """A log that comes byte by byte."""

    def test_same(self):
        for name in "garbage.tap", "fail.tap", "panic.tap", "skips.tap":
            with open(data(name), "rb") as f:
                text = f.read()
            whole, pieces = Log(), Log()
            whole.feed(text)
            for byte in text:
                pieces.feed(bytes([byte]))
            for log in whole, pieces:
                log.programs = [(p.name, p.result, p.cases) for p in log.programs]
            self.assertEqual((whole.programs, whole.missing), (pieces.programs, pieces.missing))


class Live(unittest.TestCase):
    """judge --live."""

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory()
        self.addCleanup(self.dir.cleanup)
        self.log = os.path.join(self.dir.name, "log")

    def saved(self):
        """What it wrote."""
        with open(self.log, "rb") as f:
            return f.read()

    def test_lines_and_copy(self):
        for name in "garbage.tap", "fail.tap", "panic.tap", "skips.tap", "cut_plan.tap":
            with open(data(name), "rb") as f:
                text = f.read()
            status, out = live(self.log, text)
            self.assertEqual((status, self.saved()), (0, text), out)
            # On a busy machine, it may take time
            lines = [re.sub(r"\b\d+[.]\ds\b", "0.0s", " ".join(s.split())) for s in out.splitlines()]
            if name == "fail.tap":
                self.assertEqual(lines, [
                    "[ 1] ok map_populate 0.0s", "[ 2] FAIL ksm_rmap 0.0s exit=1 FAILED: 2 / 3 tests "
                    "passed.", "[ 3] FAIL mrelease_test 0.0s exit=1 Bail out! cannot open /proc/swaps"])
            if name == "panic.tap":
                self.assertEqual(lines[2:], ["[ 3] none ksm_rmap 0.0s no result"])
            if name == "skips.tap":
                self.assertEqual(lines[1], "[ 2] skip ksm_tests -N -m 1 0.0s "
                                 "At least 2 NUMA nodes must be available")

    def test_shown_at_once_and_nothing_lost(self):
        with open(data("panic.tap"), "rb") as f:
            text = f.read()
        with subprocess.Popen([*LIVE, self.log], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
            p.stdin.write(text + b"# half a li")
            p.stdin.flush()
            if not select.select([p.stdout], [], [], 5)[0]:        # the input is still open
                p.kill()
                self.fail("nothing shown")
            self.assertIn(b"map_populate", p.stdout.readline())
            time.sleep(0.2)
            p.send_signal(2)                                       # Ctrl-C stops the guest, not us
            time.sleep(0.1)
            self.assertEqual(self.saved(), text + b"# half a li")
            p.stdout.close()                                       # nobody reads any more
            p.stdin.write(b"ne\n" + text)
            p.stdin.close()
            self.assertEqual(p.wait(10), 0)
        self.assertEqual(self.saved(), text + b"# half a line\n" + text)

    def test_log_cannot_be_written(self):
        status, out = live("/dev/full", b"ok 1 a\n1..1\n")
        self.assertEqual(status, 1, out)
        self.assertIn("judge: /dev/full: No space left on device\n", out)
        self.assertIn("ok    a ", out)

    def test_terminal(self):
        main, sub = os.openpty()
        with subprocess.Popen([*LIVE, self.log], stdin=subprocess.PIPE, stdout=sub) as p:
            p.stdin.write(b"# running ./a b\n")
            p.stdin.flush()
            shown = select.select([main], [], [], 5)[0]
            p.stdin.close()
            self.assertIn(b"running a b 0s", os.read(main, 999) if shown else b"")
        os.close(sub)
        os.close(main)
