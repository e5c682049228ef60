# SPDX-License-Identifier: GPL-2.0
"""The log of run_vmtests.sh: the programs that it started, and their cases, which are TAP behind "# "."""
import collections
import re
import signal
from dataclasses import dataclass
from typing import Optional

from .klog import MESSAGE, clean

RESULT = re.compile(r"(not )?ok +\d+\b *(?:[-:] +)?(.*)$")
INNER = re.compile(r"#[#\s]*(not ok\b(?: +\d+\b)?|ok +\d+\b) *(?:[-:] +)?(.*)$")
DIRECTIVE = re.compile(r"\s*#\s*(SKIP|TODO|XFAIL|XPASS|error)\b[:\s]*(.*)$", re.I)
PLAN = re.compile(r"1\.\.(\d+)")
SAYS_NOTHING = re.compile(r"\[(PASS|FAIL|SKIP)\]$|-+$|Totals:|\d+ skipped test|(RUN|OK|FAIL) |TAP ")


def squeeze(name):
    """A program's name as run_vmtests.sh prints it in the result."""
    return re.sub(r"^(bash )?\./", "", " ".join(name.split()))


@dataclass(frozen=True)
class Result:
    """What a case, or a program itself, came to."""
    kind: str                   # ok, fail or skip
    program: str
    case: Optional[str]         # None: the program itself
    reason: str
    known: Optional[str] = None     # the reason in the list of known results

    def __str__(self):
        return self.program if self.case is None else f"{self.program} :: {self.case}"


class Program:
    """One program that run_vmtests.sh started: its cases, and how it ended."""

    def __init__(self, name, before=()):
        self.name, self.result, self.reason = squeeze(name), "none", ""
        self.status, self.plan = 0, None                 # no plan; or how many cases there are to be
        self.running = self.bail = ""                    # the case that is running; why it gave up
        self.cases = []                                  # Results
        self.said = set()                                # the result lines; a child may say one again
        self.diag = collections.deque(before, 100)       # its lines since the last case

    def why(self, pattern):
        """The line that says why: the last that matches, else the last that says anything."""
        told = [t for t in self.diag if t and not SAYS_NOTHING.match(t)]
        return next((t for t in reversed(told) if re.search(pattern, t)), "".join(told[-1:]))

    def line(self, text):
        """Take in one line of its output."""
        bare = text.lstrip("# \t")
        if m := INNER.match(text):
            d = DIRECTIVE.search(m[2])
            name, word, note = (m[2][:d.start()], d[1].upper(), d[2]) if d else (m[2], "", "")
            kind = "ok" if m[1][0] == "o" or word in ("TODO", "XFAIL") else "fail"
            if kind == "ok" and word == "SKIP":
                kind, note = "skip", note or self.why("(?i)skip")
            elif kind == "fail":
                note = note or self.why("Expected")
            self.cases.append(Result(kind, self.name, " ".join((name.strip() or note).split()), note))
            self.said.add((self.plan, m[1], name))
            self.diag.clear()
            self.running = ""
        elif m := PLAN.match(bare):
            self.plan = (self.plan or 0) + int(m[1])
            self.diag.append(bare.partition("# ")[2])
        else:
            self.running = bare.split()[1] if re.match(r"RUN +\S", bare) else self.running
            self.bail = bare if bare.startswith("Bail out!") else self.bail
            self.diag.append(bare)

    def end(self, failed, rest):
        """Take in its result line; returns itself."""
        skip, status = re.search(r" ?# SKIP *(.*)", rest), re.search(r" # exit=(\d+)", rest)
        self.result = "fail" if failed else "skip" if skip else "ok"
        if failed:
            self.status = int(status[1]) if status else 1
            name = {s + 128: " " + s.name for s in signal.Signals}.get(self.status, "")
            said = self.bail or self.why("(?i)fail|error|expected")
            self.reason = f"exit={self.status}{name} {said}".strip()
        elif skip:
            self.reason = skip[1] or re.sub("^SKIP ", "", self.why("(?i)skip")) or "(no reason given)"
        return self

    def bad(self):
        """The Results that did not pass; that of the program is one if its cases do not explain it."""
        ret = [r for r in self.cases if r.kind != "ok"]
        kinds = {r.kind for r in ret}
        if self.result in ("ok", "fail") and self.plan is not None and len(self.said) < max(self.plan, 1):
            told = f"{len(self.said)} results of the {self.plan} in its plan"
            ret.append(Result("fail", self.name, None, f"{told}; {self.reason}".strip("; ")))
        elif (self.result == "skip" and not kinds or
              self.result == "fail" and ("fail" not in kinds or self.status != 1 or self.bail)):
            ret.append(Result(self.result, self.name, None, self.reason))
        return ret


class Log:
    """The programs in a log, all of it or what has come so far, and what is missing from it."""

    def __init__(self, data=None):
        self.programs, self.missing, self.kernel, self.before = [], [], [], []
        self.plans = self.counted = 0                    # counted: results since the last plan
        self.current, self.cut, self.last, self.rest = None, "", "", b""
        if data is not None:
            self.feed(data)
            self.tail()

    def feed(self, data):
        """Take in what comes next, whole lines or not."""
        *whole, self.rest = (self.rest + data).split(b"\n")
        for raw in whole:
            self.raw(raw)

    def raw(self, raw):
        """Take in one raw line, the kernel messages in it apart."""
        for text in clean(raw):
            m = MESSAGE.search(text)
            if m and (not m.start() or text[:m.start()].strip("# \t")):
                self.kernel.append(text[m.start():])
                self.cut += text[:m.start()]             # the message cut a line in two
                continue
            if self.cut and re.match(r"#|(not )?ok |1\.\.|TAP ", text):
                self.line(self.cut)
            else:
                text = self.cut + text
            self.cut = ""
            self.line(text)

    def line(self, text):
        """Take in one line of the tests."""
        last, self.last = self.last, text
        title = re.match(r"# running (\S.*)", text)
        ruled = re.match("# -+$", last) and len(last) == len(text)
        if title and (ruled or not self.current):
            self.unfinished("no result; the next test was started")
            self.current, self.before = Program(title[1], self.before), []
        elif m := RESULT.match(text):
            name = squeeze(re.sub(r" # (SKIP|exit=).*", "", m[2]))
            running = self.current.name if self.current else name
            if not (running.startswith(name) or name.startswith(running)):
                self.unfinished("no result; the next result is of " + name)
            if not self.current:
                self.missing.append(f"{name}: a result, but the log has not seen it start")
            self.finish((self.current or Program(name)).end(m[1], m[2]))
        elif m := PLAN.match(text):
            self.unfinished("no result before the plan")
            if int(m[1]) != self.counted or not self.counted:
                self.missing.append(f"plan {m[0]}: {self.counted} results")
            self.plans, self.counted = self.plans + 1, 0
        elif text.startswith("TAP version"):
            self.close("no plan; run_vmtests.sh was started again")
        elif self.current:
            self.current.line(text)
        elif re.match(r"# (\[SKIP\]|SKIP) \S", text):    # run_vmtests.sh leaves it out
            self.finish(Program(re.sub(r"# \S+ ", "", text)).end(None, " # SKIP left out by run_vmtests.sh"))
            self.counted -= "[" not in text              # this kind is not in the plan
        elif re.search("skip|not present", text):        # said before the title
            self.before.append(text.lstrip("# "))

    def finish(self, program):
        """The program is over."""
        self.programs.append(program)
        self.counted += 1
        self.current, self.before = None, []

    def unfinished(self, reason):
        """The program that is running, if any, will have no result."""
        if self.current:
            case = " :: " + self.current.running if self.current.running else ""
            self.missing.append(f"{self.current.name}{case}: {reason}")
            self.finish(self.current)

    def close(self, reason):
        """The log ends, or another run begins: nothing may be open."""
        if self.counted and not self.current:
            self.missing.append(f"{self.programs[-1].name}: was the last to end; {reason}")
        self.unfinished("was running; " + reason)
        self.counted = 0

    def tail(self):
        """A last line without newline is cut off: a result does not count, a plan if it fits."""
        if not re.match(rb"(not )?ok |1\.\.", self.rest) or self.rest == b"1..%d" % self.counted:
            self.raw(self.rest)
        if self.cut:
            self.line(self.cut)
