"""Verify the OpenMP kernels on a processor that is not this machine's, in an emulator.

    python -m cross.verify [--cc aarch64-linux-gnu-gcc] [--run qemu-aarch64] [--flags ..] [--kernels GLOB]
                           [--examples N]

What is drawn, packed and judged is what `refstack verify` draws, packs and judges; only the call goes elsewhere.
Needs a cross compiler and its emulator: apt install gcc-aarch64-linux-gnu qemu-user
Exit status 1 unless all kernels pass, and a planted fault is refused.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from refstack.backends import Step, openmp, openmp_rows
from refstack.backends.compilers import COMMON
from refstack.kernels import Kernel
from refstack.verification.verdicts import Verdict, verdict

FLAGS = ("-O3", "-static", *(flag for flag in COMMON if flag not in ("-shared", "-fPIC")))
POINTERS = 5  # rs_args begins with so many, which mean nothing elsewhere
SERVE = Path(__file__).with_name("serve.c")


class Remote:
    """The program of serve.c in an emulator, started again when a kernel has ended it."""

    def __init__(self, folder: Path, cc: str, run: str, flags: Sequence[str] = ()) -> None:
        compiler = [cc, *FLAGS, *flags, f"-I{openmp.sources()}", f"-I{folder}"]
        known = re.search(r"#define RS_V (\d+)", _output([*compiler, "-dM", "-E", str(openmp.sources() / "rs.h")]))
        assert known, "rs.h says RS_V"
        self.rows = openmp_rows.rows("openmp", int(known[1]))
        self.functions = sorted({str(row.run) for row in self.rows})
        (folder / "functions.h").write_text("".join(f"RS_FUNCTION({name})\n" for name in self.functions))
        kernels = [str(path) for path in sorted(openmp.sources().glob("*.c"))]
        _output([*compiler, str(SERVE), *kernels, "-lm", "-o", str(folder / "serve")])
        self.command = [*shlex.split(run), str(folder / "serve")]
        self.process: subprocess.Popen[bytes] | None = None
        self.width = self._start()
        assert self.width == int(known[1])

    def _start(self) -> int:
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return int(struct.unpack("<q", self._read(8))[0])

    def _read(self, count: int) -> bytes:
        process = self.process
        assert process is not None
        assert process.stdout is not None
        found = process.stdout.read(count)
        if len(found) < count:
            self.close()
            raise RuntimeError(f"the emulated process ended with status {process.returncode}")
        return found

    def call(self, step: Step, threads: int) -> None:
        """Run one step over there."""
        if self.process is None:
            self._start()
        packed = {name: array for name, array in step.packed.items() if name != "bias"}
        bias = step.packed.get("bias")
        place = next((i for i, x in enumerate(step.inputs) if np.shares_memory(x, step.output)), -1)
        head = [
            self.functions.index(str(step.kernel.run)), threads, len(step.inputs), len(packed), place,
            step.output.nbytes, step.scratch.nbytes, -1 if bias is None else bias.nbytes,
        ]  # fmt: skip
        head += [array.nbytes for array in (*step.inputs, *packed.values())]
        args = bytes(openmp._args(step)[0])
        arrays = [*step.inputs, *(() if place >= 0 else (step.output,)), step.scratch]
        arrays += [*(() if bias is None else (bias,)), *packed.values()]
        message = struct.pack(f"<{len(head)}q", *head) + args + b"".join(array.tobytes() for array in arrays)
        assert self.process is not None
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it is dead, and `_read` says how
            self.process.stdin.write(message)
            self.process.stdin.flush()
        y = np.frombuffer(self._read(step.output.nbytes), step.output.dtype)
        step.output[...] = y.reshape(step.output.shape)

    def lower(self, steps: Sequence[Step], threads: int, function: Any = None) -> Callable[[], None]:
        """In place of openmp.lower."""

        def run() -> None:
            for step in steps:
                self.call(step, threads)

        return run

    def close(self) -> None:
        """End it, and give its pipes back."""
        if self.process is not None:
            with suppress(BrokenPipeError):
                self.process.communicate(timeout=5)  # at the end of its input it ends by itself
            self.process = None


def _output(command: Sequence[str]) -> str:
    """What a compiler says, or the end of this program."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}\n{done.stderr[-4000:]}")
    return done.stdout


@contextmanager
def lent(remote: Remote) -> Iterator[None]:
    """While this lasts the openmp backend's calls go there."""
    own, openmp.lower = openmp.lower, remote.lower  # type: ignore[assignment]
    try:
        yield
    finally:
        openmp.lower = own


def planted(remote: Remote, row: Kernel, examples: int) -> Verdict:
    """The verdict on a row whose last number is off by a little."""
    call = remote.call

    def wrong(step: Step, threads: int) -> None:
        call(step, threads)
        step.output.flat[-1] *= 1 + 1e-4

    remote.call = wrong  # type: ignore[method-assign]
    try:
        return verdict(replace(row, variant="planted"), examples)
    finally:
        remote.call = call  # type: ignore[method-assign]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cc", default="aarch64-linux-gnu-gcc")
    parser.add_argument("--run", default="qemu-aarch64")
    parser.add_argument("--flags", default="")
    parser.add_argument("--kernels", default="*")
    parser.add_argument("--examples", type=int, default=36)
    options = parser.parse_args()
    for tool in (options.cc, shlex.split(options.run)[0]):
        if shutil.which(tool) is None:
            raise SystemExit(f"{tool} is not there; apt install gcc-aarch64-linux-gnu qemu-user")
    with tempfile.TemporaryDirectory() as folder:
        remote = Remote(Path(folder), options.cc, options.run, shlex.split(options.flags))
        try:
            return check(remote, options.kernels, options.examples)
        finally:
            remote.close()


def check(remote: Remote, kernels: str, examples: int) -> int:
    """Print a line for every kernel. 1 if one does not pass, or a planted fault does."""
    rows = [row for row in remote.rows if fnmatchcase(row.name, kernels)]
    print(f"vectors of {remote.width} float32, {len(rows)} kernels", flush=True)
    bad = 0
    with lent(remote):
        for row in rows:
            found = verdict(row, examples)
            bad += found.state != "PASS"
            told = f"  {found.reason} {found.case} seed {found.seed}" if found.state != "PASS" else ""
            print(f"{found.state:<5} {row.name:<40} {found.compared:>9} values{told}", flush=True)
        control = planted(
            remote, next(row for row in remote.rows if row.name == "linear.dense.openmp.blocked"), examples
        )
    print(f"planted fault: {control.state}")
    return int(bad > 0 or control.state == "PASS" or not rows)


if __name__ == "__main__":
    sys.exit(main())
