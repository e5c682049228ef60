# SPDX-License-Identifier: GPL-2.0
"""Tests of report klog: a kernel log on its own."""
import os
import unittest

from .testing import REPORT, report


class Console(unittest.TestCase):
    """One log each."""

    def test_clean(self):
        self.assertEqual(report("klog", os.path.join(REPORT, "testdata", "clean.dmesg")), (0, ""))

    def test_reports(self):
        for log in ("warn", "lockdep", "hung"):
            status, said = report("klog", os.path.join(REPORT, "testdata", f"{log}.dmesg"))
            self.assertEqual(status, 1, said)
            self.assertIn("kernel log report:", said)

    def test_what_ends_a_check(self):
        """Kmemleak and lockdep, which see nothing from there on; and the oops of User Mode Linux."""
        for text in ("kmemleak: Cannot allocate a kmemleak_object structure",
                     "kmemleak: Memory allocation failed, disabling", "DEBUG_LOCKS_WARN_ON(1)",
                     "turning off the locking correctness validator.", "Kernel mode fault at addr 0x0"):
            self.assertEqual(report("klog", "log", log=f"[    1.000000] {text}\n")[0], 1, text)

    def test_no_log(self):
        """No message is no proof that there was no report."""
        self.assertEqual(report("klog", "log", log="# ok 1 test\n")[0], 1)
