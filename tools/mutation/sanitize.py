"""The C kernels under the address and undefined-behaviour sanitizers, on drawn problems: `make sanitize`

    python -m mutation.sanitize [UNIT ..] [--examples N]        units: C files of accel/openmp, all if none is named

First, faults that are planted must be seen (hand.SANITIZED), or a clean run would prove nothing. Exit status 1 unless
all of them are, and nothing else is.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor

from mutation.hand import SANITIZED, Mutant
from mutation.tree import NOT_KERNELS, ROOT, C, Change, Result, by_rows


def units() -> list[str]:
    """C files that hold kernels."""
    return sorted(path.name for path in (ROOT / C).glob("*.c") if path.name not in NOT_KERNELS)


def watched(subject: Mutant | str, examples: int = 60) -> Result:
    """A planted fault, or a file as it is, under the sanitizers."""
    if isinstance(subject, Mutant):
        return by_rows(subject.change, [subject.unit], subject.rows, examples, sanitize=True)
    return by_rows(Change(f"{C}/{subject}"), [subject], "*.openmp.*", examples, sanitize=True)


def as_it_should(subject: Mutant | str, result: Result) -> bool:
    """Mutant faults are seen, and by the sanitizer; nothing is seen in a file as it is."""
    if isinstance(subject, Mutant):
        return result.state == "killed" and re.search(subject.says, result.by) is not None
    return result.state == "survived"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("units", nargs="*", default=units())
    parser.add_argument("--examples", type=int, default=60)
    asked = parser.parse_args()
    wrong = 0
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        subjects = [*SANITIZED, *asked.units]
        found = pool.map(lambda each: watched(each, asked.examples), subjects)
        for subject, result in zip(subjects, found, strict=True):
            right = as_it_should(subject, result)
            name = f"planted: {subject.what}" if isinstance(subject, Mutant) else subject
            word = {"killed": "seen", "survived": "clean"}.get(result.state, result.state)
            print(f"{name:<45} {word if right else f'WRONG: {word}: {result.by}'}", flush=True)
            wrong += not right
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
