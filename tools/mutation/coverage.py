"""Which lines of the C kernels no drawn problem reaches: `make coverage-c`

    python -m mutation.coverage [--examples N] [--seed N]

A mutant that only sends work another way gives the same numbers; that every way is gone somewhere is shown here. The
kernels are compiled with gcc --coverage at -O0 and every row is examined; gcov tells, function by function, which lines
never ran. Exit status 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from mutation.tree import NOT_KERNELS, ROOT, C, environment
from refstack.backends import compilers

COMPILER = '#!/bin/sh\n"{compiler}" "$@"\nstatus=$?\ncp -- *.gcno "{folder}" 2>/dev/null\nexit $status\n'
EXAMINE = """
import sys
from refstack.backends import openmp
from refstack.verification.examiner import in_process
from refstack.verification.verdicts import problems
for row in openmp.kernels():
    for problem in problems(row, int(sys.argv[1]), int(sys.argv[2])):
        found = in_process(row, problem)
        assert found.state == "PASS", (row.name, problem, found)
"""


def unreached(examples: int = 60, seed: int = 0) -> dict[str, dict[str, list[int]]]:
    """file -> function -> lines that never ran."""
    with tempfile.TemporaryDirectory(prefix="refstack-coverage-") as made:
        folder = Path(made)
        wrapper = folder / "cc"
        wrapper.write_text(COMPILER.format(compiler=compilers.compiler().path, folder=folder))
        wrapper.chmod(0o755)
        env = environment(ROOT, "-O0 --coverage -fprofile-update=atomic") | {
            "REFSTACK_CC": str(wrapper), "REFSTACK_CACHE_DIR": str(folder / "cache"),
            "GCOV_PREFIX": str(folder), "GCOV_PREFIX_STRIP": "99",
        }  # fmt: skip
        subprocess.run([sys.executable, "-c", EXAMINE, str(examples), str(seed)], env=env, check=True)
        for source in (ROOT / C).iterdir():
            (folder / source.name).symlink_to(source)
        data = sorted(path.name for path in folder.glob("*.gcda") if path.stem not in NOT_KERNELS)
        told = subprocess.check_output(["gcov", "--json-format", "--stdout", *data], cwd=folder, env=os.environ)
    counts: dict[tuple[str, str, int], int] = defaultdict(int)
    for report in told.decode().splitlines():
        for file in json.loads(report)["files"]:
            for line in file["lines"] if (ROOT / C / file["file"]).exists() else ():
                counts[file["file"], line.get("function_name", ""), line["line_number"]] += line["count"]
    missed: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for (file, function, line), count in sorted(counts.items()):
        if not count:
            missed[file][function].append(line)
    return {file: dict(functions) for file, functions in missed.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    missed = unreached(**vars(parser.parse_args()))
    for file, functions in missed.items():
        for function, lines in functions.items():
            print(f"{file}: {function}: lines {', '.join(map(str, lines))} never ran")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
