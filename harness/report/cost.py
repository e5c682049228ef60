# SPDX-License-Identifier: GPL-2.0
"""What must not cost more, on two kernels, side by side.

The files are what harness/guest/cost.sh prints. The table has the medians. The last line says how many cases cost
over 1% more, and which. Exits with 1 when a case is missing in one of the files, something failed, or the
checks differ.
"""
import contextlib

from .cases import COST, read
from .table import table

MORE = 1.01


def main(args):
    """Print the table; returns the exit status."""
    rows, more, bad, kernels = [], [], [], []
    for path in (args.unpatched, args.patched):
        lines, failed = read(path, COST)
        bad += (f"{path}: {line}" for line in failed)
        kernels.append({})
        for row in lines:
            with contextlib.suppress(ValueError):        # some message
                kernels[-1][row["name"]] = {**row, "median": float(row["median"])}
    old, new = kernels
    for name in (name for name in old if name in new):
        a, b = old[name], new[name]
        change = 100 * (b["median"] / a["median"] - 1)
        rows.append([name, a["unit"], f"{a['median']:,.1f}", f"{b['median']:,.1f}", f"{change:+.1f}%"])
        if b["median"] > MORE * a["median"]:
            more.append(name)
        if a["check"] != b["check"]:
            bad.append(f"{name}: counted {a['check']} and {b['check']}")
    table(["case", "unit", "unpatched", "patched", "change"], rows, left=2)
    bad += (f"{name}: only in {args.unpatched if name in old else args.patched}"
            for name in sorted(old.keys() ^ new.keys()))
    bad += [] if old and new else ["no cases"]
    print("".join(f"\nFAIL: {what}" for what in bad))
    print(f"{len(more)} of {len(rows)} cases cost over 1% more" + ": " * bool(more) + ", ".join(more))
    return bool(bad)
