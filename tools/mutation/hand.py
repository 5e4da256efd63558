"""Faults that a kernel, the checker or the reference might have, written by hand (hand.txt): each must be found out.

A number, or a number and a letter, names each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from mutation.tree import C, Change

LIST = Path(__file__).with_name("hand.txt")


@dataclass(frozen=True)
class Mutant:
    """One fault.

    unit        the C file to compile                   rows    glob: some row of these must be refused
    tests       for faults in Python, what must fail    by      what is expected to find it
    says        for faults that a sanitizer must see, a pattern of its words
    """

    number: str
    what: str
    change: Change
    unit: str = ""
    rows: str = ""
    by: str = ""
    tests: tuple[str, ...] = ()
    says: str = ""


def mutants(text: str) -> list[Mutant]:
    """The faults of a list in the format of hand.txt."""
    found = []
    for block in re.split(r"\n{2,}", text):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        if not lines:
            continue
        number, what = lines[0].split(" ", 1)
        facts = dict(re.split("=", word, maxsplit=1) for word in lines[1].split("  "))
        old, new = ("\n".join(line[2:] for line in lines[2:] if line[0] == mark) for mark in "-+")
        change = Change(facts.pop("file", f"{C}/{facts.get('unit')}"), old, new)
        tests = tuple(facts.pop("tests", "").split())
        found.append(Mutant(number, what, change, tests=tests, **facts))
    return found


ALL = mutants(LIST.read_text())
KERNELS = [mutant for mutant in ALL if mutant.by]
PYTHON = [mutant for mutant in ALL if mutant.tests]
SANITIZED = [mutant for mutant in ALL if mutant.says]
NOT_YET = {
    "47 (OpenCL)": "barriers and global sizes of OpenCL kernels: there is no OpenCL backend",
    "FFT": "there is no such kernel",
}
