# SPDX-License-Identifier: GPL-2.0
"""What `make bench` measured, as Markdown; or the README's part; or what gnuplot is to plot.

DIR has a file WHAT-ROUND-KERNEL.csv for each round, in which all kernels had their turn: "sweep", "wait"
and "swapin" are what these modes of ksm_rmap_bench print with -c, "cost" is what harness/guest/cost.c prints, all
in nanoseconds in User Mode Linux. It also has failure-KERNEL.csv, of the mode "failure", in UNITs.

A figure is the median of the rounds. A ratio is the median of the rounds' ratios, with the quartiles: of
two kernels that took turns, what else the machine did matters less there. "again" is the patched kernel
once more, so that ratio is 1.00 but for noise.

Exits with 1 if a kernel misses a mapping, a program failed, or a figure is not there.
"""
import pathlib
import re
from collections import defaultdict
from statistics import median, quantiles

from . import cases
from .table import table

KERNELS = ["unpatched", "7.3", "patched", "again"]
# Ratios of kernels
PEERS, BASE, NOISE = ("patched", "7.3"), ("patched", "unpatched"), ("again", "patched")
# In words, and of how many operations at least
PERCENTILES = {"p50": ("median", 1), "p99": ("99 %", 100), "p999": ("99.9 %", 1000), "max": ("longest", 1)}
# What is plotted: where it stands on the x axis
PLOTS = {"sweep": {f"{vmas:,} VMA{'s' * (vmas > 1)}, 256 sharers": vmas for vmas in (1, 100, 1000, 20000)},
         "wait": {f"2,000 VMAs, 256 sharers: mprotect, {words}": x
                  for x, (words, _) in enumerate(PERCENTILES.values(), 1)}}
# What must have been measured
SWEEPS = [*PLOTS["sweep"], "256 processes", "ordinary page, 256 processes"]
# What the README shows
README = ["1 VMA, 256 sharers", "1,000 VMAs, 256 sharers", "20,000 VMAs, 256 sharers", "256 processes",
          "ordinary page, 256 processes"]


def name(row):
    """A line's case in words."""
    case = cases.Case(*(int(row[column]) for column in ("vmas", "sharers", "forks", "own_pages")))
    if case.own_pages or case.ordinary:
        return "ordinary page, " * case.ordinary + f"{case.forks + 1} processes"
    return (f"{case.vmas:,} VMA{'s' * (case.vmas > 1)}, {case.sharers} sharers"
            + (f", {case.forks} children" if case.forks else ""))


def figures(row, unit):
    """Label -> figure of each that a line has, in UNITs of a nanosecond."""
    if "unit" in row:
        return {f"{row['name']}, {row['unit']}": float(row["median"])} if row["unit"].startswith("ns") else {}
    if "operation" not in row:
        return {name(row): float(row.get("median_ns_per_mapping") or row["median_ns"]) / unit}
    return {f"{name(row)}: {row['operation']}, {words}": int(row[f"{key}_ns"]) / unit
            for key, (words, least) in PERCENTILES.items() if int(row["count"]) >= least}


def read(directory, what, bad, unit=1, files=r"(\d+)-(.+)"):
    """Label -> kernel -> round -> figure, in UNITs of a nanosecond. Notes in BAD what is wrong."""
    values = defaultdict(lambda: defaultdict(dict))
    for path in sorted(directory.glob(f"{what}-*.csv"), reverse=what == "failure"):
        match = re.fullmatch(f"{what}-{files}", path.stem)
        if not match or match[2] not in KERNELS:
            continue
        rows, failed = cases.read(path, cases.COST if what == "cost" else None)
        bad += (f"{path.name}: {line}" for line in failed)
        for row in rows:
            if row.get("found") != row.get("mappings"):
                bad.append(f"{match[2]}, {name(row)}: found {row['found']} of {row['mappings']} mappings")
            for label, value in figures(row, unit).items():
                values[label][match[2]][int(match[1] or 1)] = value
    return values


def shown(value):
    """A figure with as many digits as mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def ratios(of, ours, theirs):
    """Those of two kernels, in all rounds that both have (OF: kernel -> round -> figure)."""
    a, b = of.get(ours, {}), of.get(theirs, {})
    return [a[r] / b[r] for r in sorted(a.keys() & b.keys()) if b[r]]


def quartiles(values):
    """The lower one, the median, and the upper one."""
    return quantiles(values if len(values) > 1 else values * 2, n=4, method="inclusive")


def cell(values):
    """Ratios as they stand in a table: the median, and the quartiles."""
    if not values:
        return ""
    low, middle, high = quartiles(values)
    digits = 2 if middle >= 0.1 else 5
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def spans_one(values):
    """Is 1.00 within the quartiles of these ratios?"""
    low, _, high = quartiles(values)
    return round(low, 2) <= 1 <= round(high, 2)


def show(values, unit, bad, *pairs, hide=()):
    """A table: a row a label, ratios of the PAIRS of kernels. Notes in BAD the rounds that are missing.

    A percentile may be missing in some: a kernel may have done too few operations for it. Of the kernels to
    HIDE, only ratios are shown.
    """
    partial = tuple(words for words, least in PERCENTILES.values() if least > 1)
    seen = {kernel for of in values.values() for kernel in of}
    rounds = sorted({r for of in values.values() for by in of.values() for r in by})
    if "patched" not in seen:
        bad.append("nothing was measured on patched")
    kernels, pairs = [k for k in KERNELS if k in seen], [pair for pair in pairs if seen.issuperset(pair)]
    columns = [k for k in kernels if k not in hide]
    rows = []
    for label, of in values.items():
        bad += (f"{label}: not measured on {k} in round {r}" for k in kernels for r in rounds
                if r not in of.get(k, {}) and not (of.get(k) and label.endswith(partial)))
        rows.append([label, *(shown(median(of[k].values())) if k in of else "" for k in columns),
                     *(cell(ratios(of, *pair)) for pair in pairs)])
    heads = [*(f"{k}, {unit}" for k in columns), *map(" / ".join, pairs)]
    table([None, *heads], rows)
    print()


def plot(values, places):
    """A block for each kernel, in the order of KERNELS, with x, quartile, median and quartile in a line."""
    for kernel in KERNELS:
        for label, x in places.items():
            if rounds := list(values[label].get(kernel, {}).values()):
                print(x, *quartiles(rounds))
        print("\n")


def main(args):
    """Print the tables; returns the exit status."""
    directory, bad = pathlib.Path(args.dir), []
    sweeps = read(directory, "sweep", bad)
    if args.plot:
        plot(sweeps if args.plot == "sweep" else read(directory, "wait", bad, 1000), PLOTS[args.plot])
        return 0
    bad += (f"{label}: not measured" for label in SWEEPS if label not in sweeps)
    if args.readme:
        show({label: sweeps[label] for label in README if label in sweeps}, "ns", bad, PEERS, BASE, NOISE,
             hide=["again"])
        return 0
    rounds = {r for of in sweeps.values() for by in of.values() for r in by}
    print(f"## A walk, nanoseconds per mapping; {len(rounds)} rounds\n")
    print("KSM pages walked one after the other, as reclaim walks them: see ksm_rmap_bench sweep.\n")
    show(sweeps, "ns", bad, PEERS, BASE, NOISE)
    unequal = [label for label, of in sweeps.items()
               if (noise := ratios(of, *NOISE)) and not spans_one(noise)]
    print("The same kernel twice is not 1.00 within the quartiles, so that differences of that size mean nothing: "
          f"{'; '.join(unequal)}.\n" if unequal else "The same kernel twice is 1.00 within the quartiles.\n")
    print("## What an application's operations take while its KSM pages are walked, microseconds\n")
    print("Two CPUs, one of which walks all the time.\n")
    show(read(directory, "wait", bad, 1000), "us", bad, PEERS, BASE, NOISE)
    print("## The read that maps a KSM page from the swap cache, microseconds\n")
    show(read(directory, "swapin", bad, 1000), "us", bad, PEERS, BASE, NOISE)
    print("## Everything else, nanoseconds\n")
    print('Cases with "ordinary" in their name, which the series does not change, show the noise.\n')
    show(read(directory, "cost", bad), "ns", bad, BASE, NOISE)
    print(f"## Memory failure with 2,000 other processes, {args.unit}\n")
    show(read(directory, "failure", bad, files="()(unpatched|patched)"), args.unit, bad, BASE)
    print("".join(f"FAIL: {what}\n" for what in bad), end="")
    return bool(bad)
