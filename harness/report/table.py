# SPDX-License-Identifier: GPL-2.0
"""A table in Markdown."""


def table(heads, rows, left=1):
    """Print a table of cells (None: does not apply), the first LEFT columns of which are text."""
    print(line(heads) + "\n|" + "---|" * left + "---:|" * (len(heads) - left))
    for row in rows:
        print(line(row))


def line(cells):
    """A row of it; a | in a cell does not end it."""
    return "|" + "".join(" |" if c is None else " " + c.replace("|", "\\|") + " |" for c in cells)
