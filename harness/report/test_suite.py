# SPDX-License-Identifier: GPL-2.0
"""Tests of report suite: what counts as lost."""
import unittest

from .testing import report



def table(unpatched, patched):
    """Exit status and output."""
    return report("suite", "unpatched", "patched", unpatched=unpatched, patched=patched)


class Table(unittest.TestCase):
    """One case each."""

    def test_alike(self):
        status, said = table("ok a\nskip b :: c\n", "ok a\nskip b :: c\n")
        self.assertEqual(status, 0, said)
        self.assertIn("0 of 1 that pass unpatched do not pass patched; 2 compared", said)

    def test_fixed(self):
        status, said = table("fail a\n", "ok a\n")
        self.assertEqual(status, 0, said)
        self.assertIn("| a | fail | ok |", said)

    def test_lost(self):
        for now in ("fail a\n", "skip a\n", "none a\n", "ok b\n"):
            status, said = table("ok a\n", now)
            self.assertEqual(status, 1, said)
            self.assertIn("1 of 1 that pass unpatched", said)

    def test_unpatched_ended_early(self):
        """What came to nothing unpatched may have passed there."""
        for before in ("ok b\n", "ok b\nnone a\n"):
            status, said = table(before, "ok b\nfail a\n")
            self.assertEqual(status, 1, said)
            self.assertIn("1 that do not pass patched came to nothing unpatched", said)
            self.assertEqual(table(before, "ok b\nok a\n")[0], 0)

    def test_measured(self):
        """Numbers in a name are what was measured, in these tests only."""
        name = "p :: transact_test Extra pages {} (0.1%), extra thread faults {}.\n"
        self.assertEqual(table("ok " + name.format(39, 39), "ok " + name.format(8, 7))[0], 0)
        self.assertEqual(table("ok " + name.format(39, 39), "fail " + name.format(8, 7))[0], 1)
        name = "mrelease_test :: Success reaping a child with {}MB of memory allocations\n"
        self.assertEqual(table("ok " + name.format(1), "ok " + name.format(2))[0], 0)
        self.assertEqual(table("ok gup -n 1\n", "ok gup -n 2\n")[0], 1)

    def test_pipe_in_a_name(self):
        self.assertIn("| a\\|b | fail | ok |", table("fail a|b\n", "ok a|b\n")[1])

    def test_worst_counts(self):
        self.assertEqual(table("ok a\n", "ok a\nfail a\nok a\n")[0], 1)

    def test_nothing_run(self):
        self.assertEqual(table("", "")[0], 1)
