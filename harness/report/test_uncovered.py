# SPDX-License-Identifier: GPL-2.0
"""Tests of report uncovered: which lines it counts, and when it must fail."""
import json
import unittest

from .testing import report

DIFF = "--- a/mm/ksm.c\n+++ b/mm/ksm.c\n@@ -1,0 +2,3 @@ x\n+\tif (a)\n+\t\tb();\n+/* why */\n"


def line(number, count, *branches):
    """A line as gcov describes it."""
    return {"line_number": number, "function_name": "f", "count": count,
            "branches": [{"count": b} for b in branches]}


def uncovered(lines, known="", diff=DIFF, name="../mm/ksm.c"):
    """Exit status and output."""
    data = {"files": [{"file": name, "lines": lines}, {"file": "x.h", "lines": [line(2, 0)]}]}
    return report("uncovered", "json", "diff", "known", json=json.dumps(data), diff=diff, known=known)


class Uncovered(unittest.TestCase):
    """One case each."""

    def test_all(self):
        status, said = uncovered([line(1, 0), line(2, 5, 3, 2), line(3, 3), line(9, 0)])
        self.assertEqual(status, 0, said)
        self.assertIn("2 of 2 lines executed, 2 of 2 branches taken, 0 lines", said)

    def test_line_missed(self):
        status, said = uncovered([line(2, 5, 5, 1), line(3, 0)])
        self.assertEqual(status, 1)
        self.assertIn("| 3 | not executed | `f: b();` | **not known** |", said)

    def test_branch_missed(self):
        status, said = uncovered([line(2, 5, 5, 0), line(3, 5)])
        self.assertEqual(status, 1)
        self.assertIn("| 2 | branch 2 of 2 not taken | `f: if (a)` | **not known** |", said)

    def test_known(self):
        status, said = uncovered([line(2, 5, 5, 1), line(3, 0)], "# x\nf: b(); -- no memory\n")
        self.assertEqual(status, 0, said)
        self.assertIn("| `f: b();` | no memory |", said)

    def test_known_elsewhere(self):
        self.assertEqual(uncovered([line(2, 5, 5, 1), line(3, 0)], "g: b(); -- no memory\n")[0], 1)

    def test_known_without_a_reason(self):
        with self.assertRaises(ValueError):
            uncovered([line(2, 5, 5, 1), line(3, 0)], "f: b(); -- \n")

    def test_known_no_longer(self):
        status, said = uncovered([line(2, 5, 5, 1), line(3, 1)], "f: b(); -- no memory\n")
        self.assertEqual(status, 0)
        self.assertIn("no longer so: `f: b();`", said)

    def test_inlined_twice(self):
        for copies in ([line(3, 0), line(3, 5)], [line(3, 5), line(3, 0)]):
            status, said = uncovered([line(2, 5, 5, 0), line(2, 1, 0, 1), *copies])
            self.assertEqual(status, 0, said)

    def test_no_function(self):
        """gcov names none for some lines of a macro that defines functions."""
        nameless = line(3, 0)
        del nameless["function_name"]
        status, said = uncovered([line(2, 5, 5, 1), nameless])
        self.assertEqual(status, 1, said)
        self.assertIn("| 3 | not executed | `: b();` | **not known** |", said)

    def test_nothing_measured(self):
        self.assertEqual(uncovered([line(2, 1)], name="mm/other.c")[0], 1)
