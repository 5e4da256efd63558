"""The matrix products of a network, and what can be set about them. Nothing here touches a device.

    columns (c*r*s, p*q) of an image    y (k, p*q) = w (k, c*r*s) @ columns         image by image
    linear                              y (n, k) = x (n, c) @ w'

Weights are packed transposed: of the layouts that CLBlast may be told, these need no copy of w or columns before the
product, where its tiles divide the sizes. There are two ways to name the same product: pixels or filters first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from refstack.kernels import Case
from refstack.models import MODELS
from refstack.ops import Conv2d, Linear

ROW_MAJOR, COLUMN_MAJOR, PLAIN, TRANSPOSED = 101, 102, 111, 112
"""clblast_c.h"""

LIMIT = "XGEMM_MIN_INDIRECT_SIZE"
"""Xgemm is taken where m*n*k is at least its cube."""

NAMES = {
    "Xgemm": (
        "GEMMK", "KREG", "KWG", "KWI", "MDIMA", "MDIMC", "MWG", "NDIMB", "NDIMC", "NWG", "SA", "SB", "STRM", "STRN",
        "VWM", "VWN",
    ),
    "XgemmDirect": ("KWID", "MDIMAD", "MDIMCD", "NDIMBD", "NDIMCD", "PADA", "PADB", "VWMD", "VWND", "WGD"),
    "GemmRoutine": (LIMIT,),
}  # fmt: skip
"""CLBlast's kernels and their parameters."""

Parameters = Mapping[str, Mapping[str, int]]
"""Kernel -> name -> value."""

Sizes = tuple[int, int, int]
"""Pixels of an image (a linear layer: images), filters, numbers that each sum is made of."""


@dataclass(frozen=True)
class Setting:
    """parameters of CLBlast's kernels ({}: its own), and the sizes for which filters come first."""

    parameters: Parameters
    filters_first: frozenset[Sizes] = frozenset()


@dataclass(frozen=True)
class Product:
    """c = a @ b: how CLBlast is told about the three matrices. m, n, k as in BLAS; `ld` are leading dimensions."""

    layout: int
    transpose: tuple[int, int]
    m: int
    n: int
    k: int
    ld: tuple[int, int, int]


def sizes(case: Case) -> Sizes:
    """Of one product."""
    if not isinstance(case.op, Conv2d):
        return case.inputs[0][0], case.shape[1], case.inputs[0][1]
    return math.prod(case.shape[2:]), case.shape[1], case.inputs[0][1] * math.prod(case.op.kernel)


def product(case: Case, filters_first: bool) -> Product:
    """As CLBlast is told; its first matrix is the columns, or the weights if filters come first."""
    pixels, filters, depth = sizes(case)
    if not isinstance(case.op, Conv2d):
        return Product(COLUMN_MAJOR, (PLAIN, PLAIN), filters, pixels, depth, (filters, depth, filters))
    if filters_first:
        return Product(ROW_MAJOR, (TRANSPOSED, PLAIN), filters, pixels, depth, (filters, pixels, pixels))
    return Product(COLUMN_MAJOR, (PLAIN, TRANSPOSED), pixels, filters, depth, (pixels, filters, pixels))


def networks() -> dict[str, list[Case]]:
    """The products of each of the study's networks in its dense form, one image at a time."""
    found = {}
    for name, made in MODELS.items():
        graph = made()
        shapes = graph.shapes(1)
        nodes = [node for node in graph if isinstance(node.op, Conv2d | Linear) and getattr(node.op, "groups", 1) == 1]
        found[name] = [Case(node.op, "dense", (shapes[node.inputs[0]],)) for node in nodes]
    return found
