"""Does `refstack compare` cry wolf, and does it find a slower kernel? The figures of docs/results.md.

    python tools/compare_study.py [--repeats 20] [--slower 15] [--kernel conv2d_csr_planar] [--keep FOLDER]

Each repeat benches three networks pruned and in int8, with one thread: this build, this build again, and a copy whose
C kernel takes 15 % longer (every thread waits for that share of the time it took). compare then judges both against the
first. A repeat takes about a minute; leave the machine alone meanwhile: compare does not judge runs of a busy one.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from refstack.benchmark.rows import Row
from refstack.results import compare, load
from refstack.results.cells import title
from refstack.results.comparing import Comparison
from refstack.results.intervals import blocks, clocked

ROOT = Path(__file__).resolve().parent.parent
SLOWER = """
#include <time.h>

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

void rs_KERNEL(const rs_args *a) {
    const double start = now_s();
    rs_at_full_speed(a);
    const double end = now_s(), wait = (end - start) * PERCENT / 100;
    while (now_s() - end < wait) {}
}
"""


def slowed(folder: Path, kernel: str, percent: float) -> Path:
    """A copy of the package in which one C kernel takes longer."""
    for name in ("refstack", "accel"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").symlink_to(ROOT / "data")
    definition = re.compile(rf"^void rs_{kernel}\(const rs_args \*a\) {{", re.MULTILINE)
    for path in (folder / "accel" / "openmp").glob("*.c"):
        text, found = definition.subn("static void rs_at_full_speed(const rs_args *a) {", path.read_text())
        if found:
            body = SLOWER.replace("KERNEL", kernel).replace("PERCENT", f"{percent:g}")
            path.write_text(f"#define _GNU_SOURCE\n{text}{body}")
            return folder
    raise SystemExit(f"no function rs_{kernel} in accel/openmp, wanted a kernel's name, for example conv2d_csr_planar")


def bench(package: Path, output: Path, models: str, techniques: str) -> list[Row]:
    """The rows of one run of one build."""
    command = [sys.executable, "-m", "refstack", "bench", "-m", models, "-t", techniques, "-b", "openmp"]
    command += ["--threads", "1", "--no-tuning", "-o", str(output), "--format", "json"]
    environment = os.environ | {"PYTHONPATH": str(package)}
    done = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return load(output)


def told(found: Sequence[Comparison]) -> str:
    """Cells by verdict, and the ratios of those that changed."""
    verdicts = [each.verdict for each in found]
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in dict.fromkeys(verdicts))
    changed = [f"{each.model} {each.technique} {each.ratio}" for each in found if each.verdict in ("worse", "better")]
    busy = dict.fromkeys(each.reason for each in found if "busy" in each.reason)
    return "; ".join([counts, *changed, *busy])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--slower", type=float, default=15.0, help="percent")
    parser.add_argument("--kernel", default="conv2d_csr_planar", help="C function without rs_")
    parser.add_argument("--models", default="mobilenet,resnet18,vgg16")
    parser.add_argument("--techniques", default="weight,int8")
    parser.add_argument("--keep", type=Path, help="folder for the journals of all runs")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="refstack-study-") as name:
        journals = asked.keep or Path(name) / "journals"
        slow = slowed(Path(name) / "slow", asked.kernel, asked.slower)
        builds = {"base": ROOT, "again": ROOT, "slow": slow}
        runs: list[list[Row]] = []
        wrong = found = 0
        for repeat in range(asked.repeats):
            rows = {
                word: bench(package, journals / f"{word}-{repeat}.jsonl", asked.models, asked.techniques)
                for word, package in builds.items()
            }
            runs += [rows["base"], rows["again"]]
            same, slower = compare(rows["base"], rows["again"]), compare(rows["base"], rows["slow"])
            wrong += any(each.verdict in ("worse", "better") for each in same)
            found += any(each.verdict == "worse" for each in slower)
            print(f"{repeat + 1}: same build: {told(same)} | slowed: {told(slower)}", flush=True)
    print(f"same build: {wrong} of {asked.repeats} comparisons with a better or worse")
    print(f"{asked.kernel} slowed by {asked.slower:g} %: found in {found} of {asked.repeats}")
    for cell in zip(*runs, strict=True):
        for word, q, cut in (("median", 0.5, blocks), ("quartile", 0.25, blocks), ("at one clock", 0.25, clocked)):
            logs = [np.log(np.quantile(np.concatenate(cut(row)), q)) for row in cell]
            print(f"{title(cell[0])}: {word} from run to run {np.std(logs, ddof=1):.1%}")


if __name__ == "__main__":
    main()
