"""The three networks' own layers, at full size, as problems for a row.

Next: examiner.py
"""

from __future__ import annotations

from refstack.formats import INTEGER
from refstack.kernels import Case, Kernel
from refstack.models import MODELS
from refstack.passes import prepare
from refstack.verification.cases import Problem
from refstack.verification.fills import WEIGHTED, fills
from refstack.verification.harness import accepts, real_case

SPARSE = 0.1
"""Density of the csr weights that are drawn: the study's 90 % of zeros."""


def real_problems(row: Kernel, seed: int) -> list[Problem]:
    """Each different layer of the networks that this row accepts, its fills in turn."""
    words, found = fills(row.op, row.format), dict[str, Problem]()
    for build in MODELS.values():
        graph = prepare(build())
        shapes = graph.shapes()
        for node in graph:
            if node.op.name != row.op:
                continue
            inputs, density = tuple(shapes[name] for name in node.inputs), SPARSE if row.format == "csr" else 1.0
            output = "int8" if row.format in INTEGER else "float32"
            bias = node.bias is not None or not isinstance(node.op, WEIGHTED)
            case = Case(node.op, row.format, inputs, density, output, bias)
            problem = Problem(case, words[len(found) % len(words)], seed)
            if case.word not in found and accepts(row, case) and accepts(row, real_case(problem)[1]):
                found[case.word] = problem
    return list(found.values())
