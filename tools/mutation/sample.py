"""Mutants of the C kernels by universalmutator: is each of them caught?

    python -m mutation.sample [UNIT ..] [--count N] [--seed N] [--examples N]

A unit is a C file of accel/openmp with the headers that it includes. Lines are mutated by universalmutator's rules for
C, comments taken out first (it passes over lines that have one). Candidates are drawn by the seed until `count` of them
run: those that do not compile, or whose machine code is that of the original or of another mutant, do not count.
What survives drawn problems is tried under the sanitizers, then on ten times as many problems. A survivor that
equivalent.json does not explain makes the exit status 1. Results: build/mutants/<unit>.json
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import cache
from io import StringIO
from pathlib import Path

from universalmutator.mutator import mutants_regexp

from mutation.tree import ROOT, C, Change, Result, by_rows

ROWS = "*.openmp.*"
REVIEWED = Path(__file__).with_name("equivalent.json")
COMMENT = re.compile(r"/\*.*?\*/", re.S)
INCLUDE = re.compile(r'^#include "(\S+)"', re.M)


@dataclass(frozen=True)
class Mutant:
    """One changed line."""

    file: str
    number: int
    line: str
    new: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What names it in the reviewed list: lines may move."""
        return self.file, self.line, self.new


@cache
def reviewed(unit: str) -> set[tuple[str, str, str]]:
    """The mutants that equivalent.json explains, in every unit or in this one."""
    known = (each for each in json.loads(REVIEWED.read_text()) if each.get("unit", unit) == unit)
    return {(each["file"], each["line"], each["new"]) for each in known}


def read(file: str) -> str:
    return (ROOT / C / file).read_text()


def without_comments(text: str) -> str:
    """The same lines, blanks where comments were."""
    return COMMENT.sub(lambda match: "\n" * match[0].count("\n") or " ", text)


def files(unit: str) -> list[str]:
    """The unit and the headers that it includes, and theirs."""
    found = [unit]
    for file in found:
        found += [name for name in INCLUDE.findall(read(file)) if name not in found]
    return found


def candidates(file: str) -> list[Mutant]:
    """Every mutant of a file."""
    lines = [line.rstrip() + "\n" for line in without_comments(read(file)).splitlines()]
    with redirect_stdout(StringIO()):
        made = mutants_regexp(lines, ["universal.rules", "c_like.rules", "c.rules"], ignorePatterns=[])
    return [Mutant(file, number, lines[number - 1].strip(), new.strip()) for number, new, *_ in made]


def change(mutant: Mutant) -> Change:
    """The whole file, one line of it changed."""
    text = read(mutant.file)
    lines = without_comments(text).splitlines()
    lines[mutant.number - 1] = mutant.new
    return Change(f"{C}/{mutant.file}", text, "\n".join(lines) + "\n")


FLAGS = "-Og"
"""A change of the source is the same change at any optimisation, and -O3 takes six times as long."""


def fate(unit: str, mutant: Mutant, examples: int, original: str) -> Result:
    """By drawn problems; then, unless it is reviewed, under the sanitizers and by ten times as many problems."""
    made = change(mutant)
    result = by_rows(made, [unit], ROWS, examples, flags=FLAGS)
    if result.state != "survived" or result.code == original or mutant.key in reviewed(unit):
        return result
    rungs = {
        "sanitizer": lambda: by_rows(made, [unit], ROWS, examples, sanitize=True),
        f"{10 * examples} problems": lambda: by_rows(made, [unit], ROWS, 10 * examples, seed=1, flags=FLAGS),
    }
    for rung, more in rungs.items():
        if (again := more()).state == "killed":
            return replace(again, by=f"[{rung}] {again.by}", code=result.code)
    return result


def results(unit: str, count: int, seed: int, examples: int) -> Iterator[tuple[Mutant, Result]]:
    """Runnable mutants and what became of them, `count` of them if there are so many."""
    plain = by_rows(Change(f"{C}/{unit}"), [unit], ROWS, examples, flags=FLAGS)
    if plain.state != "survived":
        raise SystemExit(f"{unit}: the unchanged source must pass, but is {plain.state}: {plain.by}")
    drawn = [mutant for file in files(unit) for mutant in candidates(file)]
    random.Random(seed).shuffle(drawn)
    print(f"{unit}: {len(drawn)} candidates of {', '.join(files(unit))}", flush=True)
    seen, refused, equal, runnable = {plain.code}, 0, 0, 0
    workers = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers) as pool:
        while drawn and runnable < count:
            batch = [drawn.pop() for _ in range(min(len(drawn), 4 * workers))]
            fates = pool.map(lambda mutant: fate(unit, mutant, examples, plain.code), batch)
            for mutant, result in zip(batch, fates, strict=True):
                lost = result.state == "survived" and result.rows < plain.rows  # of its entries
                if lost or (result.state == "idle" and result.code == plain.code):
                    result = replace(result, state="refused")
                if result.state == "refused" or (result.code and result.code in seen):
                    refused, equal = refused + (result.state == "refused"), equal + (result.state != "refused")
                    same = result.code == plain.code and result.state != "refused"
                    assert not same or result.state == "survived", (mutant, result)
                    continue
                seen.add(result.code)
                runnable += 1
                yield mutant, result
    left = f"{refused} did not compile or lost their entry, {equal} had the machine code of the original or of another"
    print(f"{unit}: {left}", flush=True)


def report(unit: str, found: list[tuple[Mutant, Result]]) -> int:
    """Say how many were killed and keep the results; returns how many are neither killed nor explained."""
    killed = [mutant for mutant, result in found if result.state == "killed"]
    known = [mutant for mutant, result in found if result.state != "killed" and mutant.key in reviewed(unit)]
    wrongly = [mutant for mutant in killed if mutant.key in reviewed(unit)]
    still = len(found) - len(killed) - len(known)
    print(f"{unit}: {len(found)} ran, {len(killed)} killed, {len(known)} equivalent, {still} open", flush=True)
    for mutant in wrongly:
        print(f"  equivalent.json explains {mutant}, but it was killed", flush=True)
    folder = ROOT / "build" / "mutants"
    folder.mkdir(parents=True, exist_ok=True)
    told = [asdict(mutant) | asdict(result) for mutant, result in found]
    (folder / f"{unit}.json").write_text(json.dumps(told, indent=1) + "\n")
    return still + len(wrongly)


def kernels() -> list[str]:
    """Every unit with kernels: all but the loop that calls them and the machine's roofs."""
    return sorted(path.name for path in (ROOT / C).glob("*.c") if path.name not in ("rs_run.c", "roofs.c"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("units", nargs="*", default=kernels())
    parser.add_argument("--count", type=int, default=35)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", type=int, default=60)
    asked = parser.parse_args()
    wrong = 0
    for unit in asked.units:
        found = []
        for mutant, result in results(unit, asked.count, asked.seed, asked.examples):
            found.append((mutant, result))
            if result.by.startswith("[") or (result.state != "killed" and mutant.key not in reviewed(unit)):
                where = f"{mutant.file}:{mutant.number}"
                print(f"  {result.state} {where} {result.by[:200]}\n    {mutant.line}\n    {mutant.new}", flush=True)
            if len(found) % 50 == 0:
                print(f"  {len(found)} ran", flush=True)
        wrong += report(unit, found)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
