"""Inside a changed copy of refstack (tree.py): build its C files, examine the rows that they serve, tell on stdout.

    python judge.py ROWS EXAMPLES SEED SECONDS

Prints one JSON object a line. A problem that takes more than SECONDS ends the process with SIGALRM.
"""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import tempfile
from fnmatch import fnmatchcase
from pathlib import Path

import refstack
from refstack.backends import openmp
from refstack.errors import CompileError
from refstack.verification.examiner import in_process
from refstack.verification.verdicts import problems


def machine_code(library: Path) -> str:
    """A hash of a library's instructions, constants and tables: equal where the compiler sees no difference."""
    with tempfile.NamedTemporaryFile() as file:
        parts = [f"--only-section={name}" for name in (".text", ".rodata", ".data", ".data.rel.ro", ".rela.dyn")]
        subprocess.run(["objcopy", "-O", "binary", *parts, str(library), file.name], check=True)
        content = Path(file.name).read_bytes()
    return hashlib.sha256(content.replace(library.stem.encode(), b"")).hexdigest()


def tell(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def main(rows: str, examples: int, seed: int, seconds: int) -> None:
    tell(package=refstack.__file__)
    try:
        library = openmp.library()
    except CompileError as error:
        return tell(refused=str(error))
    served = [row for row in openmp.kernels() if fnmatchcase(row.name, rows) and hasattr(library, row.run)]
    tell(code=machine_code(Path(library._name)), rows=[row.name for row in served])
    compared = 0
    for row in served:
        for count, problem in enumerate(problems(row, examples, seed), 1):
            tell(examining=f"{row.name} on {problem}")
            signal.alarm(seconds)  # its default action ends the process, wherever a kernel is
            found = in_process(row, problem, hard=True)  # guard pages: this process may die of a read too far
            compared += found.compared
            if found.state != "PASS":
                tell(state=found.state, kernel=row.name, reason=found.reason, case=str(problem), cases=count)
                break
    return tell(compared=compared)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
