# SPDX-License-Identifier: GPL-2.0
"""Tests of report cost: what it names as costing more, and when it must fail."""
import unittest

from .testing import report

GOOD = "cow,ns,9,100.0,{},200.0,4096\nfault,ns,9,10,20,30,5\n"


def table(old, new):
    """Exit status and output for the files' contents."""
    return report("cost", "old", "new", old=old, new=new)


class Table(unittest.TestCase):
    """One case each."""

    def test_as_before(self):
        rc, out = table(GOOD.format(150), GOOD.format(151))
        self.assertEqual(rc, 0, out)
        self.assertIn("0 of 2 cases cost over 1% more", out)

    def test_costs_more(self):
        """It is named, not failed: each has a reason, or is noise."""
        rc, out = table(GOOD.format(150), GOOD.format(152))
        self.assertEqual(rc, 0, out)
        self.assertIn("1 of 2 cases cost over 1% more: cow", out)

    def test_what_fails(self):
        self.assertIn("FAIL: no cases", table("", "")[1])
        good = GOOD.format(150)
        for bad in (good.replace("4096", "4095"), good.split("\n", 1)[1], "",
                    good + "FAIL: ksm_tests -P\n", good + "Bail out! no swap\n"):
            for pair in ((good, bad), (bad, good)):
                rc, out = table(*pair)
                self.assertEqual(rc, 1, out)
                self.assertIn("FAIL: ", out)
