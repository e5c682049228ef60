# SPDX-License-Identifier: GPL-2.0
"""What a walk costs on two kernels, side by side.

The files are what ksm_rmap_bench walk -c prints, one line a case. UNIT is what its nanoseconds are:
nanoseconds, or instructions when the guest's clock counts these. BEFORE is an earlier PATCHED, made
with the same tools: no case may cost over 2% more than there. A case with one sharer is an anonymous
page, with which KSM has nothing to do: what the kernel's walk of it costs is the limit for as many mappings.

The last line is the answer for the largest case without forks. Exits with 1 when a mapping was missed,
a case is missing, a counter is not as it must be, or the patched walk has come to cost more than in BEFORE.
"""
import csv
import sys
from dataclasses import astuple

from .cases import Case, read_lines
from .table import table

MORE = 1.02
# Where the sharers are, by Case.place
PLACES = ("", " in the first", " in the last")
# What the counters' columns begin with: merged, after a COW, after unmerging
WHEN = ("", "cow_", "unmerged_")


def read(path):
    """Case -> column -> value, of one kernel."""
    cases = {}
    for row in csv.DictReader(read_lines(path)):
        try:
            row = {k: int(v) for k, v in row.items()}
            cases[Case.of(row)] = row
        except (TypeError, ValueError):
            sys.exit(f"report walk: {path}: not a case: {row}")
    return cases


def name(case):
    """A case in words."""
    if case.ordinary:
        return f"anonymous page, {case.forks} forks"
    return (f"{case.vmas} VMAs, {case.sharers} sharers{PLACES[case.place]}, {case.forks} "
            + ("other processes" if case.own_pages else "forks"))


def wrong(case, row):
    """What is wrong with a case, a string each."""
    if row["found"] != row["mappings"]:
        yield f"found {row['found']} of {row['mappings']} mappings"
    # Pages that share one; after the COW, the other processes are gone
    merged = 0 if case.ordinary else case.sharers * (case.forks + 1 if case.own_pages else 1)
    for when, pages in zip(WHEN, (merged, case.sharers - 1, 0)):
        seen, expected = (row[when + "shared"], row[when + "sharing"]), (1, pages - 1) if pages else (0, 0)
        if seen != expected:
            yield f"{when}shared/sharing {seen}, must be {expected}"


def in_order(cases):
    """Anonymous pages last, and before them those with other processes and forks."""
    return sorted(cases, key=lambda c: (c.ordinary, c.own_pages, c.forks, c))


def rows(old, new, show):
    """What SHOW makes of each case that both have: of its lines, and its cost as a multiple of the limit."""
    limits = {row["mappings"]: row["median_ns"] for case, row in new.items() if case.ordinary}
    for case in in_order(old.keys() & new.keys()):
        least = limits.get(new[case]["mappings"])
        yield show(case, old[case], new[case], f"{new[case]['median_ns'] / least:.2f}" if least else "")


def markdown(case, a, b, limit):
    """Cells, for people who read results/."""
    gain = a["median_ns"] / b["median_ns"]
    return [*(("anonymous page", None) if case.ordinary else (f"{case.vmas:,}", f"{case.sharers}")),
            f"{case.forks:,}" + (" processes" if case.own_pages else ""), f"{b['mappings']:,}",
            f"{a['median_ns']:,}", f"{b['median_ns']:,}", f"{gain:,.{2 if gain < 10 else 0}f}", limit]


def line(case, a, b, limit):
    """A line, for a terminal."""
    found = [f"{row['found']}/{row['mappings']}" for row in (a, b)]
    counters = dict.fromkeys(" ".join(f"{row[when + 'shared']}/{row[when + 'sharing']}" for when in WHEN)
                             for row in (a, b))
    return (f"{name(case):41} {a['median_ns']:11} {b['median_ns']:11} {a['median_ns'] / b['median_ns']:7.1f} "
            f"{limit:>8}  {found[0]:11} {found[1]:11}  {' | '.join(counters)}")


def faults(args, old, new, before):
    """What must not be, a string each."""
    kernels = (("unpatched", args.unpatched, old), ("patched", args.patched, new))
    yield from (f"{path}: no cases" for _, path, cases in kernels if not cases)
    yield from (f"{astuple(case)}: measured on one kernel only" for case in old.keys() ^ new.keys())
    for kernel, _, cases in kernels:
        for case in in_order(cases):
            yield from (f"{kernel}, {name(case)}: {what}" for what in wrong(case, cases[case]))
    if args.before and not before:
        yield f"{args.before}: no cases"
    for case, then in before.items():
        now = new[case]["median_ns"] if case in new else 0
        if not now:
            yield f"{name(case)}: not measured, and in {args.before} it was"
        elif now > MORE * then["median_ns"]:
            yield f"{name(case)}: {now} costs over 2% more than the {then['median_ns']} in {args.before}"


def main(args):
    """Print the table that is asked for; returns the exit status."""
    old, new, before = (read(path) if path else {} for path in (args.unpatched, args.patched, args.before))
    if args.markdown:
        table(["VMAs in the anon_vma", "sharers", "children", "mappings, all found", "unpatched", "patched",
               "unpatched / patched", "patched / anonymous page"], rows(old, new, markdown), left=0)
        return 0
    print(f"One complete rmap walk of a KSM page, {args.unit}, median:\n")
    print("case                                        unpatched     patched   "
          "ratio  x limit  mappings found           pages_shared/pages_sharing:")
    print(" " * 84 + "unpatched   patched      merged, after a COW, unmerged")
    print("".join(text + "\n" for text in rows(old, new, line)), end="")
    bad, every = list(faults(args, old, new, before)), [*old.values(), *new.values()]
    if every:
        runs = [row["runs"] for row in every]
        above = max(100 * (row["median_ns"] - row["min_ns"]) / row["min_ns"] for row in every)
        slowest = max(row["max_ns"] / row["median_ns"] for row in every)
        print(f"\n{min(runs)} to {max(runs)} walks a case, after one that is not counted. "
              f"The median is up to\n{above:.2f}% above the fastest walk; "
              f"the slowest took {slowest:.1f} times the median: the guest\nwas interrupted by other work.")
    print("".join(f"FAIL: {what}\n" for what in bad), end="")
    both = [case for case in old.keys() & new.keys() if not case.ordinary]
    if both:
        case = max((c for c in both if not c.forks), default=max(both), key=lambda c: c.vmas * c.sharers)
        a, b = old[case]["median_ns"], new[case]["median_ns"]
        print(f"{case.vmas} VMAs, {case.sharers} sharers: unpatched {a}, patched {b}, "
              f"{a / b:.0f} times less; " + ("NOT as it must be, see FAIL" if bad else "every mapping found"))
    return bool(bad)
