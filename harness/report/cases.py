# SPDX-License-Identifier: GPL-2.0
"""What the benchmarks print: lines of comma-separated values, one a case."""
import csv
from dataclasses import dataclass, fields

# How a program says that something went wrong
FAILED = ("FAIL", "not ok", "Bail out")
# Columns of harness/guest/cost.sh, which does not name them: runs is a number, min to max are in units; what
# was counted is check, the same on all kernels
COST = ("name", "unit", "runs", "min", "median", "max", "check")


@dataclass(frozen=True, order=True)
class Case:
    """What ksm_rmap_bench has measured: columns of its CSV."""
    vmas: int                   # in the anon_vma
    sharers: int                # mappings of the page in one process
    forks: int                  # children, or other processes
    own_pages: int              # 1: other processes, whose own pages are merged
    split_late: int = 0         # 1: the VMAs are split after merging
    place: int = 0              # of the sharers: 0 all over the VMAs, 1 in the first, 2 in the last

    @classmethod
    def of(cls, row):
        """The case of a line (column -> value)."""
        return cls(**{f.name: int(row.get(f.name, f.default)) for f in fields(cls)})

    @property
    def ordinary(self):
        """Is that an ordinary anonymous page, the baseline?"""
        return self.sharers == 1 and not self.own_pages


def read_lines(path):
    """The lines of a file, whatever a guest that died has left in it."""
    with open(path, newline="", encoding="ascii", errors="replace") as f:
        return f.read().splitlines()


def read(path, columns=None):
    """The complete lines of a file (column -> text), and the lines that say what went wrong.

    If COLUMNS are not given, a line names them. These programs skip nothing that is asked for.
    """
    lines, failed = read_lines(path), FAILED if columns else (*FAILED, "SKIP")
    head = 0 if columns else next((i for i, s in enumerate(lines) if s.startswith("vmas,")), len(lines))
    rows = csv.DictReader(lines[head:], columns, quoting=csv.QUOTE_NONE)
    return ([row for row in rows if None not in row and None not in row.values()],
            [line.strip() for line in lines if line.startswith(failed)])
