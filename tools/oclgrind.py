"""Every OpenCL kernel under oclgrind, on tiny problems: `make oclgrind`

    python tools/oclgrind.py [GLOB]         rows to look at, all if none is named

oclgrind simulates a device: it sees reads and writes outside buffers, data races between work-items, barriers that not
all of a group reach, and numbers that nobody has written. First, faults that are planted must be seen, or a clean run
would prove nothing. Its exit status says nothing, so its log must be empty. Exit status 1 unless all is as it should.
Needs       pip install "pyopencl[oclgrind]"
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

MOST = 2
"""Problems for each row: a simulated multiply-add takes a microsecond."""

IMAGE = ("n2c5h3w3", "n1c17h2w2")
WORDS = {
    "conv2d": (
        "n2c3h3w5_k5r3s3_st1pd1g1", "n1c5h4w4_k5r3s3_st2pd1g5", "n1c9h2w3_k9r1s1_st1pd0g1",
        "n1c8h4w4_k9r3s3_st1pd1g1", "n1c16h4w4_k16r3s3_st1pd1g1", "n1c8h16w8_k8r3s3_st1pd1g1",
        "n8c8h4w4_k8r3s3_st1pd1g1", "n1c16h2w2_k16r3s3_st1pd1g1", "n8c16h4w4_k16r3s3_st1pd1g1",
        "n32c16h4w4_k16r3s3_st1pd1g1_d0.60", "n1c32h12w12_k32r3s3_st1pd1g1_d0.60",
    ),
    "linear": ("n2c9_k7", "n1c33_k17"),
    "maxpool": ("n2c5h5w7_r3s2_st2pd1", "n1c17h4w4_r2s2_st2pd0"),
    "avgpool": ("n2c5h5w7_r3s2_st2pd1", "n1c17h4w4_r2s2_st2pd0"),
    "reorder": tuple(f"{image}_{way}" for image in IMAGE for way in
                     ("nchw-nchw8c", "nchw8c-nchw", "nchw-nchw16c", "nchw16c-nchw")),
    "quantize": tuple(f"{image}_scale0.25,3" for image in IMAGE),
    "add": tuple(f"{image}x{image}" for image in IMAGE),
    "relu": tuple(f"{image}_relu" for image in IMAGE),
    "batchnorm": tuple(f"{image}_eps0.001" for image in IMAGE),
}  # fmt: skip


@dataclass(frozen=True)
class Planted:
    """A kernel that is wrong in a way that oclgrind must name."""

    says: str
    body: str


PLANTED = {
    "outside": Planted("Invalid write", "y[i] = y[i + 64] = rs_activate(x[i], a.activation);"),
    "before": Planted("Invalid read", "y[i] = rs_activate(x[i - 1 - (int)get_local_id(0)], a.activation);"),
    "race": Planted("data race", "y[i] = rs_activate(x[i], a.activation); y[0] = i;"),
    "unwritten": Planted("ninitialized", "y[i] = rs_activate(y[i], a.activation);"),
    "barrier": Planted(
        "divergence", "if (i & 1) barrier(CLK_LOCAL_MEM_FENCE); y[i] = rs_activate(x[i], a.activation);"
    ),
    "in_group": Planted("data race", "shared[i % 64] = x[i]; y[i] = rs_activate(shared[(i + 1) % 64], a.activation);"),
}
SOURCE = """
__kernel void {name}(__global const float *x, __global float *y, const rs_args a) {{
    __local float shared[64];
    const int i = get_global_id(0);
    if (i < a.n * a.c * a.h * a.w) {{ {body} }}
    barrier(CLK_LOCAL_MEM_FENCE); // races in local memory are told here
}}
"""


def simulate(*arguments: str) -> tuple[str, str]:
    """(log of oclgrind, what else went wrong) of a child in which it is the only device."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        settings = {
            "OCL_ICD_VENDORS": f"{folder}/", "OCLGRIND_LOG": str(log), "OCLGRIND_UNINITIALIZED": "1",
            "OCLGRIND_DATA_RACES": "1", "REFSTACK_DEVICE": "oclgrind",
        }  # fmt: skip
        kept = {name: value for name, value in os.environ.items() if name != "REFSTACK_DEVICES_TRIED"}
        home = str(Path(__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
        command = [sys.executable, __file__, "--child", *arguments]
        done = subprocess.run(command, env=kept | settings | {"PYTHONPATH": path}, capture_output=True, text=True)
        told = log.read_text(errors="replace") if log.exists() else ""
        sys.stdout.write(done.stdout)
        return told, done.stderr or f"exit status {done.returncode}" if done.returncode else ""


def problems(row: object) -> Iterator[object]:
    """The first few that the row accepts."""
    from refstack.errors import RefstackError
    from refstack.kernels import Kernel
    from refstack.verification.cases import parse_problem
    from refstack.verification.harness import accepts, real_case

    assert isinstance(row, Kernel)
    found = 0
    for word in WORDS.get(row.op, IMAGE):
        sparse = "_d0.20" if row.format in ("csr", "bsr", "ternary", "ternary8") and "_d" not in word else ""
        if "_d" in word and row.format not in ("csr", "bsr"):
            continue
        output = "_to-int8" if row.op == "quantize" or (row.format == "int8" and row.op != "linear") else ""
        try:
            problem = parse_problem(f"{row.op}.{row.format}:{word}{sparse}{output}@normal", 1)
            if not (accepts(row, problem.case) and accepts(row, real_case(problem)[1])):
                continue
        except RefstackError:
            continue
        yield problem
        found += 1
        if found == MOST:
            return


def look(pattern: str) -> int:
    """Run every row that fits on its problems, here, where oclgrind is the device. How many are wrong or had none."""
    from refstack.backends import backend
    from refstack.backends.opencl import segment
    from refstack.verification.examiner import in_process

    made, kept = segment.Runtime.buffer, []  # oclgrind takes memory that was used and given back for unwritten

    def keep(self: segment.Runtime, nbytes: int) -> object:
        kept.append(made(self, nbytes))
        return kept[-1]

    segment.Runtime.buffer = keep  # type: ignore[assignment, method-assign]
    wrong = 0
    for row in backend("opencl").kernels():
        if fnmatchcase(row.name, pattern):
            found = [in_process(row, problem, (1,)) for problem in problems(row)]
            bad = [each.reason for each in found if each.state != "PASS"]
            print(f"{row.name:<45} {len(found)} problems{': ' + bad[0] if bad else ''}", flush=True)
            wrong += bool(bad) or not found
    return wrong


def plant(name: str) -> int:
    """Run one planted fault; whether its result is right is not asked."""
    from refstack.backends import backend
    from refstack.backends.opencl import segment
    from refstack.verification.examiner import in_process

    row = next(row for row in backend("opencl").kernels() if row.name == "relu.float32.opencl.direct")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "rs.cl").write_text((segment.sources() / "rs.cl").read_text())
        Path(folder, f"{name}.cl").write_text(SOURCE.format(name=name, body=PLANTED[name].body))
        segment.sources = lambda: Path(folder)
        wrong = replace(row, run=segment.Launch(name, row.run.size, row.run.group), in_place=False)
        found = in_process(wrong, next(problems(row)), (1,))  # type: ignore[arg-type]
    if "does not compile" in found.reason:
        sys.exit(found.reason)
    return 0


def seen(name: str) -> str:
    """What is wrong with how a planted fault was seen, or nothing."""
    log, error = simulate("--planted", name)
    if error:
        return f"it did not run: {error.strip().splitlines()[-1]}"
    return "" if PLANTED[name].says in log else f"oclgrind does not say {PLANTED[name].says!r}: {log.strip()[:200]!r}"


def clean(pattern: str) -> str:
    """What is wrong with the rows as they are, or nothing."""
    log, error = simulate(pattern)
    return log or error


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        return plant(sys.argv[3]) if sys.argv[2] == "--planted" else look(sys.argv[2])
    wrong = 0
    for name in PLANTED:
        problem = seen(name)
        print(f"planted: {name:<36} {problem or 'seen'}", flush=True)
        wrong += problem != ""
    problem = clean(sys.argv[1] if len(sys.argv) > 1 else "*")
    print(problem or "nothing was seen")
    return 1 if wrong or problem else 0


if __name__ == "__main__":
    sys.exit(main())
