"""Libraries instead of a compiler: unfold + BLAS GEMM, scipy.sparse for CSR, numexpr for fused pointwise work.

What a user gets from `pip install` alone, and the baseline that hand-written kernels must beat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from refstack.backends import Step, numpy
from refstack.backends.numpy import held
from refstack.formats import Array, Bsr, Csr, Ternary
from refstack.graph import Node
from refstack.kernels import Case, Kernel
from refstack.ops import Add, Conv2d, Linear, MaxPool2d, ReLU
from refstack.reference.conv import unfold
from refstack.reference.window import windows

NAME = "blas"
FALLBACK = ("numpy",)
BLOCK = 256
"""Rows from which OpenBLAS and numexpr change their path: tests go around it."""


def unavailable() -> str | None:
    """Why scipy or numexpr cannot be used."""
    try:
        import numexpr  # noqa: F401
        import scipy.sparse  # noqa: F401
    except ImportError as error:
        return f"{error}; try  pip install scipy numexpr"
    return None


EXPRESSION = {
    None: "y + b",
    "relu": "where(y + b < 0, 0, y + b)",
    "relu6": "where(y + b < 0, 0, where(y + b > 6, 6, y + b))",
}


def _finish(y: Array, bias: Array, activation: str | None, out: Array) -> None:
    """out = activation(y + bias) in one pass over memory. `where(y < 0, ..)` lets NaN through."""
    import numexpr

    numexpr.evaluate(EXPRESSION[activation], {"y": y, "b": bias}, out=out, casting="same_kind")


def _columns(step: Step) -> Array:
    """The input as (g, cols, n*p*q) columns: unfolded windows, or vectors on end."""
    op, x = step.case.op, step.inputs[0]
    if isinstance(op, Linear):
        return x.T[None]
    assert isinstance(op, Conv2d) and step.node.weight is not None
    return unfold(x, op, step.node.weight.zero).reshape(op.groups, step.node.weight.shape[1], -1)


def _store(step: Step, y: Array) -> None:
    """(k, n*p*q) or (k, n) -> the output, with bias and activation."""
    op, out = step.case.op, step.output
    bias = step.packed["bias"]
    if isinstance(op, Linear):
        _finish(y.T, bias, op.activation, out)
        return
    assert isinstance(op, Conv2d)
    n, k, p, q = step.case.shape
    _finish(y.reshape(k, n, p, q).swapaxes(0, 1), bias[:, None, None], op.activation, out)


def _bias(node: Node) -> Array:
    assert node.weight is not None
    return np.zeros(node.weight.shape[0], np.float32) if node.bias is None else node.bias


def gemm(step: Step) -> None:
    """y = W @ columns by sgemm, one product a group."""
    op, columns, weight = step.case.op, _columns(step), step.packed["weight"]
    groups = op.groups if isinstance(op, Conv2d) else 1
    k = weight.shape[0]
    _store(step, (weight.reshape(groups, k // groups, -1) @ columns).reshape(k, -1))


def pack_dense(node: Node, case: Case) -> Mapping[str, Array]:
    """The matrix, widened if it is stored in float16."""
    assert node.weight is not None
    return {"weight": node.weight.decode(), "bias": _bias(node)}


def depthwise(step: Step) -> None:
    """y[n,c] = sum over taps of window[n,c] * w[c], a tap at a time over the whole image: no columns."""
    op, weight = step.case.op, step.packed["weight"]
    assert isinstance(op, Conv2d)
    view = windows(step.inputs[0], op)
    y = np.zeros(step.case.shape, np.float32)
    for r in range(op.kernel[0]):
        for s in range(op.kernel[1]):
            y += view[..., r, s] * weight.reshape(-1, *op.kernel)[:, r, s, None, None]
    _finish(y, step.packed["bias"][:, None, None], op.activation, step.output)


def is_depthwise(case: Case) -> str | None:
    """groups = c = k."""
    op, c = case.op, case.inputs[0][1]
    fits = isinstance(op, Conv2d) and op.groups == c == op.out_channels
    return None if fits else "groups, channels and filters are not the same number, this kernel is depthwise"


def is_ungrouped(case: Case) -> str | None:
    """groups = 1."""
    groups = getattr(case.op, "groups", 1)
    return None if groups == 1 else f"groups is {groups}, this kernel needs 1"


def sparse(step: Step) -> None:
    """y = W @ columns by scipy's CSR times dense."""
    matrix = _scipy(step.packed, step.node.weight.shape)  # type: ignore[union-attr]
    _store(step, matrix @ _columns(step)[0])


def _scipy(packed: Mapping[str, Array], shape: tuple[int, int]) -> Any:
    from scipy.sparse import csr_array

    return csr_array((packed["values"], packed["indices"], packed["indptr"]), shape=shape, copy=False)


def pack_csr(node: Node, case: Case) -> Mapping[str, Array]:
    """The three arrays as they are."""
    assert isinstance(node.weight, Csr)
    return {**node.weight.arrays(), "bias": _bias(node)}


def blocks(step: Step) -> None:
    """y = W @ columns by scipy's BSR times dense, both filled up with zeros to whole blocks."""
    from scipy.sparse import bsr_array

    values, indices, indptr = (step.packed[name] for name in ("values", "indices", "indptr"))
    (r, c), (height, cols) = values.shape[1:], step.node.weight.shape  # type: ignore[union-attr]
    columns = np.pad(_columns(step)[0], ((0, -cols % c), (0, 0)))
    matrix = bsr_array((values, indices, indptr), shape=(r * (indptr.size - 1), len(columns)), copy=False)
    _store(step, (matrix @ columns)[:height])


def pack_bsr(node: Node, case: Case) -> Mapping[str, Array]:
    """The three arrays as they are."""
    assert isinstance(node.weight, Bsr)
    return {**node.weight.arrays(), "bias": _bias(node)}


def signs(step: Step) -> None:
    """y = positive * (P @ columns) - negative * (N @ columns), P and N the 0/1 matrices of the two signs."""
    columns, (positive, negative) = _columns(step)[0], step.packed["scales"]
    y = positive * (step.packed["plus"] @ columns)
    y -= negative * (step.packed["minus"] @ columns)
    _store(step, y)


def pack_ternary(node: Node, case: Case) -> Mapping[str, Array]:
    """The two sign matrices as float32, since BLAS has no others: ternary saves no memory here."""
    assert isinstance(node.weight, Ternary)
    plus, minus = node.weight.signs()
    scales = node.weight.scales
    return {"plus": plus.astype(np.float32), "minus": minus.astype(np.float32), "scales": scales, "bias": _bias(node)}


def pointwise(step: Step) -> None:
    """relu, and add with its activation, in one pass."""
    op = step.case.op
    assert isinstance(op, ReLU | Add)
    other = step.inputs[1] if isinstance(op, Add) else np.zeros((), np.float32)
    _finish(step.inputs[0], other, op.activation, step.output)


def maxpool(step: Step) -> None:
    """y = the largest of the windows' taps, a tap at a time over the whole image: no columns."""
    op, x = step.case.op, step.inputs[0]
    assert isinstance(op, MaxPool2d)
    least = np.iinfo(x.dtype).min if x.dtype == np.int8 else -np.inf
    view = windows(x, op, least)
    step.output[...] = view[..., 0, 0]
    for r, s in np.ndindex(*op.kernel):
        np.maximum(step.output, view[..., r, s], out=step.output)


def kernels() -> tuple[Kernel, ...]:
    """GEMM for dense and half, scipy for CSR and BSR, two GEMMs for ternary; int8 and the rest fall back to NumPy."""
    whole = ("dense", "half")
    rows = [Kernel("conv2d", each, NAME, "depthwise", depthwise, (is_depthwise,), pack=pack_dense) for each in whole]
    for op in ("conv2d", "linear"):
        rows += [Kernel(op, each, NAME, "gemm", gemm, pack=pack_dense, blocks=(BLOCK,)) for each in whole]
        rows += [
            Kernel(op, "csr", NAME, "scipy", sparse, (is_ungrouped,), pack=pack_csr),
            Kernel(op, "bsr", NAME, "scipy", blocks, (is_ungrouped,), pack=pack_bsr, blocks=(16,)),
            Kernel(op, "ternary", NAME, "signs", signs, (is_ungrouped,), pack=pack_ternary, blocks=(BLOCK,),
                   nonfinite="spreads"),
        ]  # fmt: skip
    rows += [Kernel(op, "float32", NAME, "numexpr", pointwise, in_place=True) for op in ("relu", "add")]
    rows += [Kernel("maxpool", dtype, NAME, "taps", maxpool) for dtype in ("float32", "int8")]
    return tuple(rows)


def build_id() -> str:
    """NumPy's, and the versions of the other two."""
    import numexpr
    import scipy

    return f"{numpy.build_id()}, scipy {scipy.__version__}, numexpr {numexpr.__version__}"


def lower(steps: Sequence[Step], threads: int, outputs: Sequence[Array] | None = None) -> Callable[[], None]:
    """Call each row's function in turn, with BLAS and numexpr held to `threads`."""
    import numexpr

    pools = ThreadpoolController()

    def run() -> None:
        with held(pools, threads):
            if numexpr.get_num_threads() != threads:  # setting it, even to what it is, starts all threads anew
                numexpr.set_num_threads(threads)
            for step in steps:
                step.kernel.run(step)

    return run
