#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Runs in the guest: check_tool.py TOOL WALK BTF. Has ksm_rmap_check look at processes whose KSM pages are known.

WALK is what the kernel's walk is, bounded or unbounded; BTF whether it has BTF, yes or no. Prints KTAP; exits with 1
if a test fails.

Where QEMU emulates the CPU, all takes several times as long as the tool's constants say. So a walk of a page
with a quarter of the sharers in a tenth of the VMAs is timed first, and the tool is told by --visit-ns how slow the
machine is. It is the other page's estimate that must be near what is timed.
"""
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

TOOL, WALK, HAS_BTF = sys.argv[1:]
KSM = pathlib.Path("/sys/kernel/mm/ksm")
IDLE = pathlib.Path("/sys/kernel/mm/page_idle/bitmap")
TRACEFS = pathlib.Path("/sys/kernel/tracing")
FACTOR = 3              # what an estimate may differ by from what is timed
VMAS, SHARERS = 20000, 256
MOVES = 2
VISIT_NS = 35           # what the tool expects
SECONDS = "90"          # for the tool to look at 20,000 VMAs, if the CPU is emulated
tests = []


def test(function):
    """One of those that are run, in this order."""
    tests.append(function)
    return function


def expect(what, **seen):
    """Fails the test, with what was seen, unless what is true."""
    if not what:
        raise AssertionError(", ".join(f"{k}: {v}" for k, v in seen.items()))


def run(*args):
    """Exit status, standard output and error of the tool."""
    p = subprocess.run([sys.executable, TOOL, "--seconds", SECONDS, *args], capture_output=True,
                       text=True, timeout=300, check=False)
    return p.returncode, p.stdout, p.stderr


def run_json(*args):
    """Exit status and object."""
    status, out, err = run("--json", *args)
    expect(out, status=status, stderr=err)
    return status, json.loads(out)


@contextlib.contextmanager
def load(vmas, sharers, pages):
    """A process with merged pages."""
    KSM.joinpath("run").write_text("2")
    script = os.path.join(os.path.dirname(__file__), "ksm_load.py")
    command = [sys.executable, script, str(vmas), str(sharers), str(pages)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        try:
            expect(p.stdout.readline() == "ready\n", load="does not start")
            KSM.joinpath("run").write_text("1")
            end = time.monotonic() + 120
            while int(KSM.joinpath("pages_sharing").read_text()) < (sharers - 1) * pages:
                expect(time.monotonic() < end, sharing=KSM.joinpath("pages_sharing").read_text())
                time.sleep(0.2)
            KSM.joinpath("run").write_text("0")
            yield p
        finally:
            p.stdin.close()


def move(p, times):
    """Has the page of a load moved. Returns: how often it was."""
    moved = 0
    for _ in range(times):
        p.stdin.write("\n")
        p.stdin.flush()
        moved += p.stdout.readline() == "moved\n"
    return moved


def left():
    """What is there of tracing."""
    probes = TRACEFS.joinpath("kprobe_events").read_text()
    instances = [p.name for p in TRACEFS.joinpath("instances").iterdir()]
    return instances + [x for x in probes.splitlines() if "rmap_walk" in x]


def show(text, prefix="# "):
    """As diagnostics. What is behind "# | " is a screen that the README shows."""
    print("".join(f"{prefix}{line}\n" for line in text.splitlines()), end="", flush=True)


def close(a, b):
    """Whether the two are within the factor."""
    return max(a, b) <= FACTOR * max(min(a, b), 1)


@test
def no_process_is_mergeable():
    status, out, _ = run()
    expect(status == 0 and "Nothing to check" in out, status=status, out=out)


@test
def the_kind_of_walk_is_known():
    _, report = run_json()
    expect(report["kernel"]["walk"] == WALK, kernel=report["kernel"])


@test
def few_vmas_are_no_problem():
    """A virtual machine's memory."""
    with load(2, 64, 64) as p:
        status, report = run_json()
        expect(status == 0 and report["verdict"] == "ok", status=status, report=report)
        expect([q["pid"] for q in report["processes"]] == [p.pid], processes=report["processes"])
        expect(report["sample"]["ksm_pages"] == 64 and report["processes"][0]["sharers"] == 64, sample=report["sample"])


@test
def many_vmas_are_named():
    with load(VMAS, SHARERS, 1) as p:
        out = while_moving(p, "--tracer", "ftrace")
        expect("pid" in out.lower() and str(p.pid) in out, out=out)
        show(out, "# | ")
        status, report = run_json()
        expected = (0, "ok") if WALK == "bounded" else (1, "problem")
        expect((status, report["verdict"]) == expected, status=status, report=report)
        worst = report["estimate"]
        expect((worst["pid"], worst["sharers"]) == (p.pid, SHARERS) and abs(worst["vmas"] - VMAS) < 10, estimate=worst)


@test
def estimate_is_near_what_is_timed():
    tracer = None if IDLE.exists() else "ftrace"
    with load(VMAS // 10, SHARERS // 4, 1) as p:
        estimated, timed = estimate_and_time(p, tracer)
    scale = timed / estimated
    show(f"this machine takes {scale:.2f} times as long as the tool expects")
    with load(VMAS, SHARERS, 1) as p:
        estimated, timed = estimate_and_time(p, tracer, "--visit-ns", str(VISIT_NS * scale))
    show(f"estimated {estimated} ns, timed {timed} ns: {timed / estimated:.2f} times")
    expect(close(estimated, timed), estimated=estimated, timed=timed)


def estimate_and_time(p, tracer, *args):
    """Of the worst page, in nanoseconds."""
    if tracer:
        report = traced(p, tracer, *args)
        timed = report["trace"]["slowest"]["ns"]
    else:
        status, out, _ = run("--measure", *args)
        show(out)
        report = run_json("--measure", *args)[1]
        timed = report["measure"]["worst_ns"]
    return report["estimate"]["worst_ns"]["mid"], timed


def while_moving(p, *args):
    """Output of the tool, tracing with these arguments, while the page of a load is moved."""
    command = [sys.executable, TOOL, "--trace", "25", "--seconds", SECONDS, *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tool:
        wait_for_trace(tool)
        moved = move(p, MOVES)
        out = tool.communicate()[0]
    expect(moved == MOVES, moved=moved)
    expect(not left(), left=left())
    return out


def traced(p, tracer, *args):
    """A report of that."""
    expect(TRACEFS.joinpath("instances").is_dir(), tracefs="is not there")
    report = json.loads(while_moving(p, "--json", "--tracer", tracer, *args))
    trace = report["trace"]
    show(json.dumps(trace))
    expect(trace["walks"] >= MOVES and trace["lost_events"] == 0, trace=trace)
    expect(tracer in (trace["tracer"], "auto"), trace=trace)
    expect(sum(h["walks"] for h in trace["histogram"]) == trace["walks"], trace=trace)
    return report


def wait_for_trace(tool):
    """Until walks are traced, by whatever tracer."""
    end = time.monotonic() + 300
    names = TRACEFS.joinpath("instances"), TRACEFS / "enabled_functions"
    while time.monotonic() < end and tool.poll() is None:
        if any(p.name == f"ksm_rmap_check_{tool.pid}" and (p / f"events/{p.name}/enable").exists() and
               (p / f"events/{p.name}/enable").read_text().strip() == "1" for p in names[0].iterdir()):
            return
        if names[1].exists() and "rmap_walk_ksm" in names[1].read_text():
            time.sleep(2)
            return
        time.sleep(0.2)
    raise AssertionError("the trace does not begin")


def bpftrace_sees_the_walks():
    with load(VMAS, SHARERS, 1) as p:
        report = traced(p, "bpftrace")
        if WALK == "unbounded":
            expect(report["trace"]["anon_vma_waits"]["count"], trace=report["trace"])
        report = traced(p, "auto")
        expect(report["trace"]["tracer"] == "bpftrace" and "traced with" not in str(report["notes"]), report=report)


def without_btf_ftrace_is_used():
    with load(2, 2, 1) as p:
        status, _, err = run("--trace", "1", "--tracer", "bpftrace")
        expect(status == 2 and "kconfig.h" in err and "without BTF" in err, status=status, err=err)
        report = traced(p, "auto")
        expect(report["trace"]["tracer"] == "ftrace" and any("no BTF" in n for n in report["notes"]), report=report)


test(bpftrace_sees_the_walks if HAS_BTF == "yes" else without_btf_ftrace_is_used)


@test
def a_signal_leaves_nothing():
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with subprocess.Popen([sys.executable, TOOL, "--trace", "60", "--tracer", "ftrace"]) as tool:
            wait_for_trace(tool)
            tool.send_signal(number)
            status = tool.wait()
        expect(status == 128 + number and not left(), status=status, left=left())


@test
def a_kill_leaves_nothing():
    """SIGKILL: another process of the tool removes the trace."""
    with subprocess.Popen([sys.executable, TOOL, "--trace", "60", "--tracer", "ftrace"]) as tool:
        wait_for_trace(tool)
        expect(len(left()) == 3, left=left())
        tool.kill()
    end = time.monotonic() + 10
    while left() and time.monotonic() < end:
        time.sleep(0.1)
    expect(not left(), left=left())


@test
def a_hundred_thousand_vmas():
    pathlib.Path("/proc/sys/vm/max_map_count").write_text("300000")
    with load(100000, 2, 1) as p:
        begun = time.monotonic()
        status, report = run_json("--seconds", "180")
        show(f"{report['sample']['seconds']} s for 100,000 VMAs, {time.monotonic() - begun:.1f} s in all")
        expect(report["sample"]["seconds"] < 181, sample=report["sample"])
        expect(report["processes"][0]["pid"] == p.pid and report["processes"][0]["vmas"] > 100000, report=report)
        expect(status == (0 if WALK == "bounded" else 1), status=status)


@test
def processes_that_exit_meanwhile():
    with subprocess.Popen(["sh", "-c", "while :; do true | cat; done"]) as p:
        try:
            for _ in range(3):
                status, _, err = run()
                expect(status == 0 and not err, status=status, err=err)
        finally:
            p.kill()


@test
def tracefs_is_not_mounted():
    """Last, as it is not there any more."""
    for path in (TRACEFS, pathlib.Path("/sys/kernel/debug")):
        while os.path.ismount(path):
            subprocess.run(["umount", "-l", path], check=True)
    status, out, err = run("--trace", "1", "--tracer", "ftrace")
    expect(status == 2 and not out and len(err.splitlines()) == 1, status=status, out=out, err=err)


def main():
    """Run them all."""
    KSM.joinpath("pages_to_scan").write_text("5000")
    if not os.path.ismount(TRACEFS):
        subprocess.run(["mount", "-t", "tracefs", "nodev", TRACEFS], check=False, stderr=subprocess.DEVNULL)
    print(f"TAP version 13\n1..{len(tests)}", flush=True)
    failed = 0
    for i, function in enumerate(tests, 1):
        name = function.__name__
        try:
            function()
            print(f"ok {i} {name}", flush=True)
        except (AssertionError, OSError, ValueError, KeyError, TypeError, subprocess.TimeoutExpired) as e:
            failed += 1
            show(f"{type(e).__name__}: {e}")
            print(f"not ok {i} {name}", flush=True)
    return failed > 0


sys.exit(main())
