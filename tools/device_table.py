"""At which density, batch and layer a sparse, ternary, int8 or half layer beats the dense one on the chosen device.

    REFSTACK_DEVICE=gpu python -m tools.device_table --batches 1,8,128 > table.md

Every layer is held to its error bound on the device before it is timed. Times are the device's own (profiling events):
the kernels of one layer, sums in parts included, without launches and without the way there and back; the best row of
each format counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from statistics import median

import numpy as np

from refstack import backends
from refstack.backends import Step
from refstack.backends.opencl import devices
from refstack.compare import check_step
from refstack.errors import RefstackError
from refstack.kernels import Kernel, from_nchw, layout_shape, parse_case
from refstack.memory import ALIGNMENT
from refstack.planner import aligned
from refstack.verification.cases import Problem
from refstack.verification.fills import inputs_of
from refstack.verification.harness import accepts, real_case

LAYERS = (
    "c64h32w32_k64r3s3_st1pd1g1",
    "c128h16w16_k128r3s3_st1pd1g1",
    "c256h8w8_k256r3s3_st1pd1g1",
    "c512h4w4_k512r3s3_st1pd1g1",
    "c512h2w2_k512r3s3_st1pd1g1",
    "c64h16w16_k128r1s1_st1pd0g1",
    "c512h4w4_k512r1s1_st1pd0g1",
)
DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
SAMPLES = 15


def suits(row: Kernel, other: str) -> bool:
    """Written for this kind of device: not for the other one, and not the plain loop for any."""
    return other not in row.variant and row.variant != "direct"


def step_of(row: Kernel, word: str) -> Step:
    """A call of this row with drawn weights and inputs."""
    problem = Problem(parse_case(word), "normal", 1)
    node, case = real_case(problem)
    inputs = tuple(aligned(from_nchw(x, row.layouts[0])) for x in inputs_of(problem))
    output = aligned(np.empty(layout_shape(row.layouts[1], case.shape), np.dtype(case.output)))
    packed = {name: aligned(array) for name, array in row.pack(node, case).items()}
    scratch = aligned(np.zeros(row.scratch(case) + ALIGNMENT, np.uint8))[: row.scratch(case)]
    return Step(node, case, row, inputs, output, packed, scratch)


def microseconds(rows: Iterable[Kernel], word: str) -> float:
    """The fastest row's time; infinite if none is right or none takes it."""
    best = float("inf")
    for row in rows:
        case = parse_case(word)
        if (row.op, row.format) != (case.op.name, case.format) or not accepts(row, case):
            continue
        try:
            step = step_of(row, word)
            verdict = check_step(step, 1)
            if not verdict.passed:
                print(f"<!-- {verdict} -->")
                continue
            clock = backends.stopwatch("opencl", [step], 1)
            best = min(best, median(clock()[0] for _ in range(SAMPLES)) / 1e3)
        except RefstackError as error:
            print(f"<!-- {row.name} {word}: {error} -->")
    return best


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", default="1,8,128")
    batches = [int(each) for each in parser.parse_args().batches.split(",")]
    device = devices.chosen()
    other = "cpu" if device.kind == "gpu" else "gpu"
    rows = [row for row in backends.rows(["opencl"]) if row.backend == "opencl" and suits(row, other)]
    print(f"{device.label}, {device.driver}\n")
    heads = ["layer", "batch", "dense us", *(f"csr {each:g}" for each in DENSITIES), "ternary", "int8", "half"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for batch in batches:
        for layer in LAYERS:
            dense = microseconds(rows, f"conv2d.dense:n{batch}{layer}")
            words = [f"conv2d.csr:n{batch}{layer}_d{each:.2f}" for each in DENSITIES]
            words += [f"conv2d.ternary:n{batch}{layer}_d0.50", f"conv2d.int8:n{batch}{layer}_to-int8"]
            words += [f"conv2d.half:n{batch}{layer}"]
            times = [microseconds(rows, word) for word in words]
            gains = " | ".join(f"{dense / time:.2f}" for time in times)
            print(f"| {layer} | {batch} | {dense:.1f} | {gains} |", flush=True)


if __name__ == "__main__":
    main()
