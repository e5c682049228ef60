# SPDX-License-Identifier: GPL-2.0
"""Judges a run of the kernel's mm selftests: the TAP log, the kernel log, the known list.

What is counted: the test cases that a program prints as TAP ("# ok 3 name"), at any depth; a program that
prints none is one test. A program's own result counts too where its cases do not explain it: it failed
without a failing case, or by another status than 1, or before its plan was fulfilled; or it skipped and
no case of it did. So "ok ... # SKIP" or "ok" over a case that is "not ok" fails. TODO and XFAIL pass.

A failure or skip that the known list covers counts as skipped. Any other fails the run, as do a result or
plan that is missing, a report in the kernel log, and a check that could not run. The last line is
"N passed, N failed, N skipped"; the status is 0 if none failed and one passed.

--live copies stdin to the file given by --log and shows one line per finished program.
--list prints "RESULT NAME" for each program and case in that file, and judges nothing.
"""
import os
import re
import sys
from dataclasses import replace

from . import live
from .klog import lines_of, reports
from .known import Known
from .ktap import Log


def read(path, fails, what):
    """What is in a file; a file that cannot be read is a failure."""
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError as e:
        fails.append(f"{what}: not judged: {e.strerror}: {path}")
        return b""


def unexplained(status, log):
    """What the guest's status says that the log does not explain."""
    seen = {p.result for p in log.programs}
    if status == 0 or (status == 1 and "fail" in seen) or (status == 4 and "skip" in seen):
        return ""
    return "time limit reached (status 124)" if status == 124 else f"the guest's status is {status}"


def judge_run(args, fails):
    """The Log; what is missing from it is noted in FAILS."""
    log = Log(read(args.log, fails, "log"))
    status, cut_short = unexplained(args.status, log), log.current or log.counted
    log.close("; ".join(filter(None, ("the log ends without a plan", status))))
    fails += log.missing
    if not log.programs:
        fails.append("run: no test was run")
    elif not cut_short and log.plans < args.expect_plan:
        fails.append(f"run: {log.plans} plans of {args.expect_plan}, after {log.programs[-1].name}")
    if status and not cut_short:
        fails.append("run: " + status)
    return log


def judge_kernel(args, log, known, fails):
    """The Reports in the kernel log, and in what of it stands in the LOG of the tests; noted in FAILS."""
    lines, is_log = lines_of(read(args.kernel_log, fails, "kernel log"))
    if not is_log and os.path.exists(args.kernel_log):
        fails.append(f"kernel log: not judged: no kernel message in {args.kernel_log}")
    harmless = [e.program for e in known.entries if e.kind == "log"]
    found = reports(lines, harmless)
    heads = [r.head for r in found]
    found += [r for r in reports(log.kernel, harmless) if r.head not in heads]
    fails += [f"kernel log: {r.head}" for r in found]
    return found


def judge(args):
    """Print the verdict; returns the exit status."""
    known, fails, groups = Known(args.known), [], {}
    log = judge_run(args, fails)
    passed = sum(sum(r.kind == "ok" for r in p.cases) if p.cases or p.plan is not None
                 else p.result == "ok" for p in log.programs)
    for r in (r for p in log.programs for r in p.bad()):
        why = known.why(r)
        if why or r.kind == "skip":
            groups.setdefault(replace(r, case=None, known=why), []).append(str(r))
        if not why:
            new = "skipped, and not in the known list: " * (r.kind == "skip")
            fails.append(f"{r}: {new}{r.reason or 'not ok'}")
    found = judge_kernel(args, log, known, fails)
    if not passed and not fails:
        fails.append("run: no test passed")
    for n, report in enumerate(found[:10], 1):
        print(f"kernel log report {n}:", *report.lines, sep="\n    ")
    for r, names in groups.items():
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        said = f"{r.known} [{r.reason}]" if r.known else r.reason
        print(f"{r.kind} {'known' if r.known else 'NEW':5}  {names[0] + more:40}  {said}")
    for e in known.stale(log.programs):
        print(f"note: stale, its test ran and did not do this: {e.where}")
    print("".join(f"FAIL: {fail}\n" for fail in fails), end="")
    skipped = sum(len(names) for r, names in groups.items() if r.known)
    print(f"{passed} passed, {len(fails)} failed, {skipped} skipped")
    return 1 if fails else 0


def results(args):
    """Print what each program and case came to: ok, fail, skip, or none."""
    log = Log(read(args.log, [], "log"))
    log.close("the log ends")
    for p in log.programs:
        print(p.result, p.name)
        for r in p.cases:
            print(r.kind, r)
    return 0 if log.programs else 1


def main(args):
    """Do what the options say; returns the exit status."""
    try:
        if not (args.live or args.list or (args.kernel_log and args.known)):
            raise ValueError("--kernel-log and --known are required")
        return live.copy(args.log) if args.live else results(args) if args.list else judge(args)
    except (OSError, ValueError, re.error) as e:
        print(f"report judge: {e}", file=sys.stderr)
        return 2
