# SPDX-License-Identifier: GPL-2.0
"""Lines that a diff adds, and that were not executed.

JSON is gcov's, DIFF a `git diff -U0` of mm/ksm.c. Lines with code that DIFF adds must have been executed, and
each branch in them taken, or KNOWN must say why not: lines of the form "FUNCTION: CODE -- REASON". Prints a
table in Markdown of what was not, and as its last line how much was; exits with 1 if some of that is not
known. What KNOWN has, but was covered, is named: it may depend on time.
"""
import json
import re
from dataclasses import dataclass
from pathlib import Path

from .table import table


@dataclass
class Line:
    """A line of the diff that has code."""
    place: str                  # FUNCTION: CODE
    count: int                  # times executed, all inlined copies together
    branches: list              # times taken, of each branch

    def missed(self):
        """What was not executed, or nothing."""
        if not self.count:
            return "not executed"
        return next((f"branch {i} of {len(self.branches)} not taken"
                     for i, taken in enumerate(self.branches, 1) if not taken), "")


def added(diff):
    """Number and text of each line that a diff adds."""
    number = 0
    for line in diff:
        hunk = re.match(r"@@ -\S+ \+(\d+)", line)
        if hunk:
            number = int(hunk[1])
        elif line.startswith("+") and not line.startswith("+++"):
            yield number, line[1:].strip()
            number += 1


def read(gcov, text):
    """Number -> Line, of those that have TEXT (number -> code)."""
    lines = {}
    for line in (line for f in gcov["files"] if f["file"].endswith("mm/ksm.c") for line in f["lines"]):
        n, new = line["line_number"], [b["count"] for b in line["branches"]]
        if n in text:                                    # once for each inlined copy
            old = lines.get(n, Line("", 0, []))
            both = [a + b for a, b in zip(new, old.branches)]
            lines[n] = Line(f"{line.get('function_name', '')}: {text[n]}", old.count + line["count"],
                            both if len(new) == len(old.branches) else new or old.branches)
    return lines


def main(args):
    """Print the table; returns the exit status."""
    gcov, diff, known = (Path(path).read_text("utf-8") for path in (args.json, args.diff, args.known))
    lines = read(json.loads(gcov), dict(added(diff.split("\n"))))
    pairs = (line.strip().split(" -- ", 1) for line in known.split("\n") if line.strip() and line[0] != "#")
    why = {place.strip(): reason.strip() for place, reason in pairs}
    missed = {n: line for n, line in sorted(lines.items()) if line.missed()}
    table(["line", "what", "code", "why"],
          ([str(n), line.missed(), f"`{line.place}`", why.get(line.place, "**not known**")]
           for n, line in missed.items()), left=4)
    print("".join(f"\nno longer so: `{place}`\n"
                  for place in sorted(why.keys() - {line.place for line in missed.values()})), end="")
    branches = [taken for line in lines.values() for taken in line.branches]
    unknown = sum(line.place not in why for line in missed.values())
    print(f"\n{sum(line.count > 0 for line in lines.values())} of {len(lines)} lines executed, "
          f"{sum(taken > 0 for taken in branches)} of {len(branches)} branches taken, "
          f"{unknown} lines not explained")
    return bool(unknown or not lines)
