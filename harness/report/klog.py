# SPDX-License-Identifier: GPL-2.0
"""The kernel log: its messages, which stand between other lines too, and the reports among them.

As a command, prints the reports in the file CONSOLE. Exits with 1 if there are any, or no kernel message.
"""
import re
from dataclasses import dataclass
from typing import List

ESCAPES = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][A-Z0-9])")
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
# What a message begins with
MESSAGE = re.compile(r"(?:^(?:<\d+>)?\[ *\d+\.\d+\]|\[ *\d+\.\d{6}\])(?:\[ *[TC]\d+\])? ")
CUT = "[ cut here ]"
REPORT = re.compile("|".join((
    r"^WARNING: ", r"WARNING: CPU:", r"\bBUG: ", r"^BUG [^ ]+ \(", r"kernel BUG at", r"\bOops\b",
    r"general protection fault(?! ip:)", r"possible (?:circular|recursive) locking",
    r"possible irq lock inversion", r"inconsistent lock state", r"suspicious RCU usage",
    r"INFO: (?:possible|trying to register|lockdep is|task .* blocked|rcu|.*detected .*stall)",
    r"rcu: INFO:", r"soft lockup", r"hard LOCKUP", r"(?:KASAN|KCSAN|KMSAN|KFENCE|UBSAN): ",
    r"[Ss]lab corruption", r"Kernel panic", r"Bad page (?:state|map)", r"bad: scheduling from",
    r"scheduling while atomic", r"Unable to handle kernel", r"kmemleak: \d+ new suspected",
    r"kmemleak: (?:Cannot allocate|Memory allocation failed)", r"DEBUG_LOCKS_WARN_ON",
    r"turning off the locking correctness validator", r"Kernel mode fault",
    re.escape(CUT))))


def clean(raw):
    """The printable lines in one raw line: no NUL, no escapes; a CR starts a new one."""
    text = ESCAPES.sub("", raw.decode("utf-8", "replace"))
    return [CONTROL.sub("", part) for part in text.split("\r") if part.strip()]


def lines_of(data):
    """All printable lines of a kernel log, and whether a kernel message is among them: else it is none."""
    lines = [text for raw in data.split(b"\n") for text in clean(raw)]
    return lines, any(map(MESSAGE.match, lines))


@dataclass
class Report:
    """A report in the kernel log."""
    head: str                   # its headline, without the time
    lines: List[str]            # all of it, as far as 12 lines after that


def reports(lines, harmless):
    """The reports in LINES, but for those that a pattern of HARMLESS matches, down to the headline."""
    text = [MESSAGE.sub("", s, count=1) for s in lines]
    found, skip = [], 0
    for i, t in enumerate(text):
        if i < skip or not REPORT.search(t):
            continue
        head = i
        if CUT in t:                                     # what was cut out stands below it
            head = next((j for j in range(i + 1, min(i + 8, len(text)))
                         if REPORT.search(text[j]) and CUT not in text[j]), i)
        skip = head + 1
        if not any(r.search(t) for r in harmless for t in text[i:skip]):
            skip = head + 13
            found.append(Report(text[head], lines[i:skip]))
    return found


def main(args):
    """Print the reports; returns the exit status."""
    with open(args.console, "rb") as f:
        lines, is_log = lines_of(f.read())
    found = reports(lines, [])
    for report in found:
        print("kernel log report:", *report.lines, sep="\n    ")
    if not is_log:
        print(f"no kernel message in {args.console}")
        return 1
    return bool(found)
