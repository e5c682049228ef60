# SPDX-License-Identifier: GPL-2.0
"""The same tests on two kernels, test by test.

The files are what `report judge --list` prints. Prints a table in Markdown of how many tests came to what,
and one of all that came to something else on the patched kernel; a test that was run several times counts
by its worst result. Exits with 1 if one that passes on the unpatched kernel does not pass on the patched
one, or is missing there; or if one that does not pass on the patched kernel came to nothing on the unpatched
one, so that nobody knows whether it did before.
"""
import collections
import re

from .table import table

# What a test's name says that it has measured (pagemap_ioctl, mrelease_test): another number each time
MEASURED = re.compile(r" Extra pages \d+ \([\d.]+%\), extra thread faults \d+\.| \d+MB(?= of memory)")
WORST = ("ok", "skip", "fail", "none", "missing")


def read(path):
    """Name -> worst result."""
    tests = {}
    with open(path, encoding="utf-8") as f:
        for line in f:
            result, name = MEASURED.sub("", line.rstrip("\n")).split(" ", 1)
            tests[name] = max(result, tests.get(name, "ok"), key=WORST.index)
    return tests


def main(args):
    """Print the tables; returns the exit status."""
    before, after = read(args.unpatched), read(args.patched)
    pairs = {name: (before.get(name, "missing"), after.get(name, "missing")) for name in before | after}
    table(["unpatched", "patched", "programs and cases"],
          [[*pair, f"{n:,}"] for pair, n in sorted(collections.Counter(pairs.values()).items())], left=2)
    print()
    table(["program :: case", "unpatched", "patched"],
          [[name, *pair] for name, pair in sorted(pairs.items()) if len(set(pair)) > 1], left=3)
    lost = sum(a == "ok" and b != "ok" for a, b in pairs.values())
    unknown = sum(a in ("none", "missing") and b not in ("ok", a) for a, b in pairs.values())
    if unknown:
        print(f"\n{unknown} that do not pass patched came to nothing unpatched: not compared")
    print(f"\n{lost} of {sum(r == 'ok' for r in before.values()):,} that pass unpatched "
          f"do not pass patched; {len(pairs):,} compared")
    return bool(lost or unknown or not before or not after)
