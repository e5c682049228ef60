# SPDX-License-Identifier: GPL-2.0
"""The list of results that are known and not ours to fix."""
import os
import re
from dataclasses import dataclass
from typing import Optional


def glob(text):
    """A pattern in which only * and ? are special: names hold brackets."""
    return re.compile(re.escape(text).replace(r"\*", ".*").replace(r"\?", ".") + r"\Z")


@dataclass
class Entry:
    """One line of the list: fail|skip PROGRAM [:: CASE] -- WHY, or log REGEX -- WHY."""
    kind: str
    program: re.Pattern         # or of what is in the kernel log
    case: Optional[re.Pattern]  # None: the program itself
    why: str
    where: str                  # FILE:LINE: KIND NAME
    used: bool = False


def read(path):
    """Entries of the file PATH, and of those that it includes."""
    with open(path, encoding="utf-8") as f:
        for n, text in enumerate(f, 1):
            m = re.match(r"(fail|skip|log)\s+(\S.*?)\s+--\s+(\S.*)", text)
            other = re.match(r"include\s+(\S+)$", text)
            if m:
                program, *case = ([re.compile(m[2])] if m[1] == "log" else
                                  map(glob, re.split(r"\s+::\s+", m[2], maxsplit=1)))
                yield Entry(m[1], program, case[0] if case else None, m[3], f"{path}:{n}: {m[1]} {m[2]}")
            elif other:
                yield from read(os.path.join(os.path.dirname(path), other[1]))
            elif text.strip() and not text.startswith("#"):
                raise ValueError(f"{path}:{n}: not 'fail|skip|log NAME -- REASON', nor 'include FILE'")


class Known:
    """The list in the file PATH."""

    def __init__(self, path):
        self.entries = list(read(path))

    def why(self, r):
        """The listed reason of a Result, or None."""
        hits = [e for e in self.entries if e.kind == r.kind and e.program.match(r.program) and
                (e.case is None if r.case is None else e.case and e.case.match(r.case))]
        for e in hits:
            e.used = True
        return hits[0].why if hits else None

    def stale(self, programs):
        """Entries of programs that have come to a result, but not to this one."""
        return [e for e in self.entries if not e.used and e.kind != "log"
                and any(p.result != "none" and e.program.match(p.name) for p in programs)]
