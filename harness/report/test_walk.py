# SPDX-License-Identifier: GPL-2.0
"""Tests of report walk: what it prints and, above all, when it must fail."""
import subprocess
import sys
import unittest

from .testing import REPORT, report

HEAD = ("vmas,sharers,forks,own_pages,mappings,found,runs,min_ns,median_ns,max_ns,shared,"
        "sharing,cow_shared,cow_sharing,unmerged_shared,unmerged_sharing\n")
SMALL = "1,2,0,0,2,2,9,3000,3100,3200,1,1,1,0,0,0\n"
LARGE = "20000,256,0,0,256,256,3,{0},{0},{0},1,255,1,254,0,0\n"
OWN = "1,1,255,1,256,256,9,500,500,500,1,255,0,0,0,0\n"
LIMIT = "1,1,255,0,256,256,9,200,200,200,0,0,0,0,0,0\n"
FORKS = "30000,2,100,0,202,202,3,900,900,900,1,1,1,0,0,0\n"


def table(old, new, before=None, option=()):
    """Exit status and output for the files' contents."""
    files = {"old": old, "new": new, **({"before": before} if before else {})}
    return report("walk", *option, "instructions", *files, **files)


class Table(unittest.TestCase):
    """One case each."""
    good = HEAD + SMALL + LARGE.format(400) + FORKS + OWN + LIMIT

    def fails(self, new, message, old=None):
        """Both sides must matter."""
        for a, b in ((old or self.good, new), (new, old or self.good)):
            rc, out = table(a, b)
            self.assertEqual(rc, 1, out)
            self.assertIn(message, out)
            self.assertNotIn("; every mapping found", out)

    def test_good(self):
        """The answer is that of the largest case without forks."""
        rc, out = table(self.good.replace("400,400,400", "480000,480000,480000"),
                        self.good)
        self.assertEqual(rc, 0, out)
        self.assertEqual(out.splitlines()[-1],
                         "20000 VMAs, 256 sharers: unpatched 480000, "
                         "patched 400, 1200 times less; every mapping found")
        self.assertIn("256/256", out)
        self.assertIn("1/255 1/254 0/0", out)

    def test_missed(self):
        self.fails(self.good.replace("256,256,3", "256,255,3"),
                   "found 255 of 256 mappings")

    def test_found_too_many(self):
        self.fails(self.good.replace("256,256,3", "256,257,3"),
                   "found 257 of 256 mappings")

    def test_not_merged(self):
        self.fails(self.good.replace("1,255,", "1,254,"), "must be (1, 255)")

    def test_cow_not_counted(self):
        self.fails(self.good.replace("1,254,", "1,255,"), "must be (1, 254)")

    def test_not_unmerged(self):
        self.fails(self.good.replace("254,0,0", "254,1,0"), "must be (0, 0)")

    def test_case_missing(self):
        self.fails(HEAD + SMALL + FORKS + OWN + LIMIT, "measured on one kernel only")

    def test_limit(self):
        """By the number of mappings, where there is one; in Markdown too."""
        _, out = table(self.good, self.good)
        self.assertRegex(out, r"20000 VMAs, 256 sharers, 0 forks .* 2\.00 ")
        self.assertRegex(out, r"1 VMAs, 1 sharers, 255 other processes .* 2\.50 ")
        self.assertRegex(out, r"anonymous page, 255 forks .* 1\.00 ")
        rc, out = table(self.good, self.good, option=["--markdown"])
        self.assertEqual(rc, 0, out)
        self.assertIn("| 20,000 | 256 | 0 | 256 | 400 | 400 | 1.00 | 2.00 |", out)
        self.assertIn("| anonymous page | | 255 | 256 | 200 |", out)

    def test_ordinary_merged(self):
        self.fails(self.good.replace("200,0,0,0", "200,1,0,0"), "must be (0, 0)")

    def test_costs_more(self):
        """By over 2%, or no longer measured; less is as good as the same."""
        for cost, rc in ((400, 0), (300, 0), (408, 0), (409, 1)):
            now = self.good.replace("400,400,400", f"{cost},{cost},{cost}")
            self.assertEqual(table(self.good, now, self.good)[0], rc, cost)
        rc, out = table(self.good, self.good.replace("400,400,400", "500,500,500"),
                        self.good)
        self.assertIn("500 costs over 2% more than the 400", out)

    def test_not_measured_any_more(self):
        """What earlier figures have must be measured; and there must be earlier figures in such a file."""
        rc, out = table(self.good.replace(SMALL, ""), self.good.replace(SMALL, ""), self.good)
        self.assertEqual(rc, 1, out)
        self.assertIn("1 VMAs, 2 sharers, 0 forks: not measured, and in", out)
        self.assertEqual(table(self.good, self.good, HEAD)[0], 1)

    def test_exit_status(self):
        """Of the program, wherever it is called."""
        p = subprocess.run([sys.executable, REPORT, "walk", "ns", "/dev/null", "/dev/null"], cwd="/",
                           stdout=subprocess.PIPE, check=False)
        self.assertEqual((p.returncode, p.stdout.splitlines()[-1]), (1, b"FAIL: /dev/null: no cases"))

    def test_no_cases(self):
        self.fails(HEAD, "no cases")
        self.fails("", "no cases")

    def test_cut_off(self):
        """A guest that died in the middle of a line."""
        for text in (self.good[:-20], self.good[:-30] + "\n"):
            self.fails(text, "not a case")
