# SPDX-License-Identifier: GPL-2.0
"""The live view: copies the tests' output to the log, and shows each program as it ends."""
import os
import select
import shutil
import signal
import sys
import time

from .ktap import Log


class View(Log):
    """Shows the programs as they end, and on a terminal the one that is running."""

    def __init__(self):
        super().__init__()
        self.tty, self.shown = sys.stdout.isatty(), 0
        self.running, self.since = None, time.monotonic()       # a program, and when it began

    def show(self, text):
        """Print; when nobody reads any more, the log is still written."""
        try:
            print(text, end="", flush=True)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def update(self):
        """Show what is new."""
        now = time.monotonic()
        for p in self.programs[self.shown:]:
            self.shown += 1
            word = p.result if p.result == "none" or "fail" not in {r.kind for r in p.bad()} else "FAIL"
            note = p.reason if word != "none" else "no result"
            self.show("\r\x1b[K" * self.tty + f"[{self.shown:3}] {word:4}  {p.name:40} "
                      f"{now - self.since:6.1f}s  {note}".rstrip() + "\n")
        if self.current is not self.running:
            self.running, self.since = self.current, now
        if self.tty and self.running:
            text = f"running {self.running.name} {now - self.since:.0f}s"
            self.show("\r" + text[:(shutil.get_terminal_size().columns or 80) - 1] + "\x1b[K")

    def raw(self, raw):
        """Take in one raw line."""
        super().raw(raw)
        self.update()


def copy(path):
    """Copy stdin to PATH, whatever happens to the view. Returns the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)         # the guest gets it too, and ends the input
    view, data, status = View(), b"\0", 0
    with open(path, "wb", buffering=0) as f:
        while data:
            if select.select([0], [], [], 1)[0]:
                data = left = os.read(0, 65536)
                try:
                    while left:
                        left = left[f.write(left):]
                except OSError as e:
                    status = status or print(f"report judge: {path}: {e.strerror}", file=sys.stderr) or 1
                view.feed(data)
            view.update()
    view.tail()
    view.close("the input ended")
    view.update()
    return status
