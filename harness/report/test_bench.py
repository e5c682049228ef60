# SPDX-License-Identifier: GPL-2.0
"""Tests of report bench: what it prints, and when it must fail."""
import unittest

from .testing import report

SWEEP = ("vmas,sharers,forks,own_pages,pages,mappings,found,runs,"
         "q1_ns_per_mapping,median_ns_per_mapping,q3_ns_per_mapping\n")
WAIT = ("vmas,sharers,forks,own_pages,split_late,mappings,found,seconds,kind,completed,"
        "operation,count,p50_ns,p99_ns,p999_ns,max_ns\n"
        "20000,256,0,0,0,16384,{},3,walk,5,mprotect,5000,1000,2000,{},4000000\n"
        "20000,256,0,0,0,16384,16384,3,walk,5,fork,2,1000,2000,3000,4000000\n")
CASE = "vmas,sharers,forks,own_pages,mappings,found,runs,min_ns,median_ns,max_ns\n"


def sweep(cost, found=16384):
    """What ksm_rmap_bench sweep prints: one case, and others that cost the same on all kernels."""
    return (SWEEP + f"20000,256,0,0,64,16384,{found},25,{cost - 1},{cost},{cost + 1}\n"
            + "".join(f"{case},64,16384,16384,25,9,10,11\n" for case in (
                "1,256,0,0", "100,256,0,0", "1000,256,0,0", "1,1,255,1", "1,1,255,0")))


def folder(**changes):
    """What make bench leaves, but for these."""
    files = {}
    for r in (1, 2, 3):
        for kernel, cost in (("unpatched", 90000), ("7.3", 200), ("patched", 100), ("again", 100)):
            files[f"sweep-{r}-{kernel}"] = sweep(cost * r)
            files[f"wait-{r}-{kernel}"] = WAIT.format(16384, 3000 * r)
            files[f"swapin-{r}-{kernel}"] = CASE + f"1,2,0,0,2,2,2,1,{cost},9\n"
            if kernel != "7.3":
                files[f"cost-{r}-{kernel}"] = f"cow,ns,9,1,{cost},9,5\n"
    for kernel in ("unpatched", "patched"):
        files[f"failure-{kernel}"] = CASE + "4,2,0,0,2,2,1,1,12345,9\n"
    files.update({k.replace("_", "-"): v for k, v in changes.items()})
    return {k: v for k, v in files.items() if v}


def run(files, option=()):
    """Exit status and output in a folder with these files."""
    return report("bench", *option, ".", "instructions", **{k + ".csv": v for k, v in files.items()})


class Tables(unittest.TestCase):
    """One case each."""

    def test_good(self):
        """Medians of the rounds, and ratios of kernels in the same round."""
        rc, out = run(folder())
        self.assertEqual(rc, 0, out)
        self.assertIn("| 20,000 VMAs, 256 sharers | 180,000 | 400 | 200 | 200 "
                      "| 0.50 (0.50 to 0.50) | 0.00111 (0.00111 to 0.00111) | 1.00 (1.00 to 1.00) |", out)
        self.assertIn("| ordinary page, 256 processes | 10 |", out)
        self.assertIn("mprotect, 99.9 % | 6 | 6 |", out)
        self.assertIn("fork, median | 1 | 1 |", out)
        self.assertNotIn("fork, 99 %", out)
        self.assertIn("| cow, ns | 90,000 | 100 | 100 | 0.00111 (", out)
        self.assertIn("| 4 VMAs, 2 sharers | 12,345 | 12,345 |", out)

    def test_pairs(self):
        """The ratio is that of a round, in whatever order the rounds would stand by cost."""
        files = folder(**{f"sweep_{r}_7.3": sweep(cost)
                          for r, cost in ((1, 1000), (2, 400), (3, 200))})
        rc, out = run(files | {f"sweep-{r}-patched": sweep(cost)
                               for r, cost in ((1, 100), (2, 200), (3, 300))})
        self.assertEqual(rc, 0, out)
        self.assertIn("| 20,000 VMAs, 256 sharers | 180,000 | 400 | 200 | 200 "
                      "| 0.50 (0.30 to 1.00) |", out)

    def test_percentile_of_few(self):
        """One that a kernel has too few operations for in a round is of the other rounds."""
        few = WAIT.format(16384, 3000).replace("mprotect,5000,", "mprotect,999,")
        self.assertIn("mprotect,999,", few)
        rc, out = run(folder(wait_1_unpatched=few))
        self.assertEqual(rc, 0, out)
        self.assertIn("mprotect, 99.9 % | 7.5 | 6 |", out)

    def test_readme(self):
        """Of what is there to show the noise, the ratio alone."""
        rc, out = run(folder(), ["--readme"])
        self.assertEqual(rc, 0, out)
        self.assertIn("| 20,000 VMAs, 256 sharers | 180,000 | 400 | 200 | 0.50 ", out)
        self.assertNotIn("again, ns", out)
        self.assertIn("| again / patched |", out)

    def test_noise(self):
        """It says where the same kernel twice differs."""
        self.assertIn("The same kernel twice is 1.00 within the quartiles.", run(folder())[1])
        slower = {f"sweep_{r}_again": sweep(120 * r) for r in (1, 2, 3)}
        self.assertIn("mean nothing: 20,000 VMAs, 256 sharers.", run(folder(**slower))[1])

    def test_plot(self):
        """Quartiles of the rounds, a block a kernel."""
        rc, out = run(folder(), ["--plot", "sweep"])
        self.assertEqual(rc, 0, out)
        self.assertIn("20000 135000.0 180000.0 225000.0\n\n\n", out)
        self.assertEqual(len(out.split("\n\n\n")[2].split("\n")), 4)

    def test_what_fails(self):
        """A mapping that was missed, on whatever kernel; a program that failed, though it had
        been measured; a figure that is not there."""
        rounds, kernels = (1, 2, 3), ("unpatched", "7.3", "patched", "again")
        failed = "Bail out! mapping 3: wrong content\n"
        for bad in ({"sweep_2_patched": sweep(100, found=16383)},
                    {"sweep_1_7.3": sweep(200, found=1)},
                    {"sweep_1_patched": sweep(100) + failed},
                    {"sweep_1_patched": SWEEP + failed},
                    {"wait_1_patched": failed + WAIT.format(16384, 1)},
                    {"swapin_1_patched": "SKIP: no swap\n" + CASE + "1,2,0,0,2,2,2,1,100,9\n"},
                    {f"sweep_{r}_{k}": sweep(9).rsplit("1,1,255,0", 1)[0] for r in rounds for k in kernels},
                    {"sweep_2_patched": ""}, {"sweep_2_7.3": ""}, {"cost_2_patched": ""},
                    {"failure_patched": CASE}, {"failure_patched": ""},
                    {"failure_unpatched": CASE + "4,2,0,0,2,1,1,1,12345,9\n"},
                    {f"wait_{r}_{k}": "" for r in rounds for k in kernels},
                    {f"swapin_{r}_patched": "" for r in rounds},
                    {"wait_3_patched": WAIT.format(9, 1)},
                    {f"sweep_{r}_patched": "" for r in rounds},
                    {f"sweep_{r}_{k}": "" for r in rounds for k in kernels},
                    {"cost_2_patched": "Bail out! cow: counted 1, not 2\n"}):
            rc, out = run(folder(**bad))
            self.assertEqual(rc, 1, (bad, out))
            self.assertIn("FAIL: ", out)
