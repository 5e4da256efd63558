"""Problems that go around the blocks of OpenMP rows, a call of one row by itself, and how far it may be off."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from refstack import ops
from refstack.backends import Step, openmp
from refstack.formats import FORMATS, INTEGER, Array, Dense, Int8, Quant, Weight
from refstack.graph import Node
from refstack.kernels import Case, Kernel, Reorder, layout_block, layout_shape, patch_grid
from refstack.reference import layer

pytestmark = pytest.mark.skipif(openmp.unavailable() is not None, reason=str(openmp.unavailable()))

ROWS = openmp.kernels() if openmp.unavailable() is None else ()
V = int(openmp.library().rs_vector_width()) if ROWS else 16


def conv(
    k: int,
    kernel: int | tuple[int, int] = 3,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, ...] = 1,
    dilation: int = 1,
    groups: int = 1,
    activation: ops.Activation | None = None,
) -> ops.Conv2d:
    """A convolution, square and padded by one unless told otherwise."""
    pair = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    step = stride if isinstance(stride, tuple) else (stride, stride)
    pad = padding if isinstance(padding, tuple) else (padding,) * 4
    return ops.Conv2d(pair, step, pad, (dilation, dilation), k, groups, activation)  # type: ignore[arg-type]


CONVOLUTIONS: list[tuple[tuple[int, int, int, int], ops.Conv2d]] = [
    ((1, 3, 8, 8), conv(5)),
    ((2, 3, 9, 13), conv(17, activation="relu")),
    ((1, 1, 5, 5), conv(1, kernel=5, padding=2)),
    ((1, 16, 32, 32), conv(16, activation="relu")),
    ((2, 17, 7, 6), conv(33)),
    ((1, 32, 4, 4), conv(48, activation="relu6")),
    ((3, 20, 4, 4), conv(16)),
    ((3, 33, 2, 2), conv(64)),
    ((1, 64, 2, 2), conv(80, activation="relu")),
    ((2, 40, 14, 15), conv(35, activation="relu")),
    ((2, 20, 8, 8), conv(33)),
    ((1, 16, 8, 8), conv(32, stride=2)),
    ((2, 16, 4, 4), conv(32, stride=2)),
    ((1, 18, 16, 16), conv(32, stride=2)),
    ((2, 16, 11, 9), conv(16, stride=(2, 1))),
    ((1, 16, 11, 9), conv(16, stride=(1, 2))),
    ((1, 8, 11, 9), conv(7, stride=3)),
    ((2, 8, 12, 14), conv(9, kernel=(1, 3), padding=(0, 1, 0, 1))),
    ((1, 16, 12, 15), conv(16, kernel=(3, 2), padding=(2, 0, 1, 1))),
    ((1, 16, 9, 9), conv(16, padding=2, dilation=2)),
    ((1, 16, 9, 9), conv(16, padding=0)),
    ((1, 16, 3, 3), conv(16, padding=0)),
    ((2, 32, 8, 8), conv(64, kernel=1, padding=0, activation="relu")),
    ((1, 40, 4, 4), conv(20, kernel=1, padding=0)),
    ((2, 64, 2, 2), conv(64, kernel=1, padding=0)),
    ((1, 16, 7, 7), conv(32, kernel=1, padding=0, stride=2)),
    ((1, 7, 7, 7), conv(8, kernel=1, padding=1)),
    ((1, 16, 8, 8), conv(16, groups=16)),
    ((2, 19, 7, 9), conv(19, groups=19, stride=2, activation="relu")),
    ((1, 32, 32, 32), conv(32, groups=32, activation="relu6")),
    ((1, 16, 4, 4), conv(16, groups=16, stride=2)),
    ((1, 5, 2, 2), conv(5, groups=5, kernel=5, padding=2)),
    ((2, 8, 6, 6), conv(16, groups=8)),
    ((1, 12, 6, 6), conv(6, groups=3)),
    ((16, 3, 7, 5), conv(9, activation="relu")),
    ((32, 5, 9, 4), conv(5, groups=5, stride=2)),
    ((16, 40, 9, 7), conv(6, kernel=1, padding=0)),
    ((16, 21, 7, 6), conv(9, activation="relu")),
    ((15, 40, 5, 11), conv(6)),
    ((14, 40, 4, 3), conv(18)),
    ((30, 6, 2, 2), conv(17, activation="relu6")),
    ((9, 18, 9, 7), conv(7, stride=2)),
    ((9, 18, 9, 7), conv(7, kernel=1, padding=0, stride=2)),
]  # fmt: skip
LINEARS: list[tuple[tuple[int, int], ops.Linear]] = [
    ((1, 1), ops.Linear(1)),
    ((1, 512), ops.Linear(10)),
    ((1, 37), ops.Linear(40, "relu")),
    ((4, 64), ops.Linear(33, "relu6")),
    ((5, 19), ops.Linear(16)),
    ((9, 8), ops.Linear(7, "relu")),
    ((18, 35), ops.Linear(37, "relu")),
]
WINDOWS = [
    ((1, 3, 8, 8), (2, 2), (2, 2), (0, 0, 0, 0)),
    ((2, 17, 7, 9), (3, 3), (2, 2), (1, 1, 1, 1)),
    ((1, 16, 5, 5), (3, 2), (1, 1), (0, 1, 2, 1)),
    ((1, 33, 2, 2), (2, 2), (2, 2), (0, 0, 0, 0)),
]  # fmt: skip
IMAGES = [(1, 3, 4, 5), (2, 16, 3, 3), (1, 33, 7, 2), (1, 64, 16, 16)]


def cases(op: str, format: str) -> Iterator[Case]:
    """The problems that every row of an op and format is tried on."""
    if op == "conv2d" or op == "linear":
        for shape, each in CONVOLUTIONS if op == "conv2d" else LINEARS:
            for density in (1.0, 0.25) if format in ("csr", "bsr", "ternary") else (1.0,):
                for output in ("float32", "int8") if format in INTEGER else ("float32",):
                    yield Case(each, format, (shape,), density, output, bias=shape[0] == 1)
    elif op in ("maxpool", "avgpool"):
        for shape, kernel, stride, padding in WINDOWS:
            for include in (False, True) if op == "avgpool" else (False,):
                extra = {"count_include_pad": include} if op == "avgpool" else {}
                dtype = "int8" if format == "int8" else "float32"
                yield Case(ops.OPS[op](kernel, stride, padding, **extra), format, (shape,), output=dtype)  # type: ignore[call-arg]
    elif op == "reorder":
        for shape in IMAGES:
            for source, target in (("nchw", f"nchw{V}c"), (f"nchw{V}c", "nchw")):
                yield Case(Reorder(source, target), format, (shape,), output=format)
        for shape in (*IMAGES, (2 * V + 1, V + 1, 5, 4)) if format == "float32" else ():
            for layout in ("nchw", f"nchw{V}c"):
                yield Case(Reorder(layout, f"nchw{V}n"), format, (shape,), output=format)
                yield Case(Reorder(f"nchw{V}n", layout), format, (shape,), output=format)
        for shape in ((1, 3, 4, 4), (2, 2 * V + 1, 8, 12)) if format == "float32" else ():
            for layout in ("nchw", f"nchw{V}c"):
                yield Case(Reorder(layout, f"nchw{V}p"), format, (shape,), output=format)
                yield Case(Reorder(f"nchw{V}p", layout), format, (shape,), output=format)
    elif op == "softmax":
        yield from (Case(ops.Softmax(), format, (shape,)) for shape in ((1, 1), (2, 10), (3, 100)))
    elif op == "quantize":
        yield from (Case(ops.Quantize(0.37, z), format, (shape,), output="int8") for shape in IMAGES for z in (-128, 3))
        yield Case(ops.Quantize(0.37, -7), format, ((3, 50),), output="int8")
    elif op == "concat":
        for channels in ((3, 5), (16, 16), (32, 7), (16,)):
            inputs = tuple((2, c, 3, 4) for c in channels)
            yield Case(ops.Concat(), format, inputs, output="int8" if format == "int8" else "float32")
    elif op in ("add", "relu"):
        for shape in (*IMAGES, (3, 37)):
            for activation in ("relu", "relu6"):
                made = ops.Add(activation) if op == "add" else ops.ReLU(activation)
                yield Case(made, format, (shape,) * (2 if op == "add" else 1))
    else:
        for shape in IMAGES:
            yield Case(ops.OPS[op](), format, (shape,), output="int8" if format == "int8" else "float32")


def matrix(rng: np.random.Generator, case: Case, integer: bool) -> Array:
    """A weight matrix of the case's density; ternary ones have two values."""
    shape = case.op.weight_shape(*case.inputs)
    assert shape is not None
    values = rng.integers(-4, 5, shape).astype(np.float32) if integer else rng.standard_normal(shape).astype(np.float32)
    if case.format in ("ternary", "ternary8"):
        values = np.where(values > 0, np.float32(3 if integer else 0.71), np.float32(-2 if integer else -0.53))
    return np.asarray(values * (rng.random(shape) < case.density), np.float32)


def node(rng: np.random.Generator, case: Case, integer: bool) -> Node:
    """A node with weights for the case."""
    names = tuple(f"x{i}" for i in range(len(case.inputs)))
    shape = case.op.weight_shape(*case.inputs)
    if shape is None:
        return Node("node", case.op, names)
    rows = shape[0]

    def draw() -> Array:
        return (rng.integers(-9, 10, rows) if integer else rng.standard_normal(rows)).astype(np.float32)

    if isinstance(case.op, ops.BatchNorm):
        return Node("node", case.op, names, Dense(draw()[:, None]), draw(), draw(), np.abs(draw()))
    w = matrix(rng, case, integer)
    weight: Weight = FORMATS[case.format].encode(w)
    if isinstance(weight, Int8):
        output = Quant(1.0 + float(np.abs(w).max()) * 2.3, int(rng.integers(-128, 128)))
        grid = output if case.output == "int8" else None
        weight = type(weight).encode(w, Quant(0.11, int(rng.integers(-128, 128))), grid)
    return Node("node", case.op, names, weight, draw() if case.bias else None)


def inputs(rng: np.random.Generator, case: Case, integer: bool) -> tuple[Array, ...]:
    """Images: int8 for integer kernels, whole numbers or normal ones otherwise."""
    if case.format in INTEGER:
        return tuple(rng.integers(-128, 128, shape).astype(np.int8) for shape in case.inputs)
    draw = (lambda shape: rng.integers(-8, 9, shape)) if integer else rng.standard_normal
    return tuple(draw(shape).astype(np.float32) for shape in case.inputs)


def to_layout(x: Array, layout: str) -> Array:
    """nchw -> layout, zeros in the lanes beyond c, or beyond n."""
    if layout == "nchw":
        return x
    n, c, h, w = x.shape
    block = layout_block(layout)
    if layout.endswith("p"):
        rows, cols = patch_grid(block)
        bands = [band for part in np.split(x, rows, 2) for band in np.split(part, cols, 3)]
        return np.ascontiguousarray(np.stack(bands, -1))
    if layout.endswith("n"):
        groups = [
            np.pad(x[i : i + block], ((0, -min(block, n - i) % block), *[(0, 0)] * 3)) for i in range(0, n, block)
        ]
        return np.ascontiguousarray(np.stack([np.moveaxis(group, 0, -1) for group in groups]))
    x = np.pad(x, ((0, 0), (0, -c % block), (0, 0), (0, 0)))
    return np.ascontiguousarray(x.reshape(n, -1, block, h, w).transpose(0, 1, 3, 4, 2))


def from_layout(y: Array, layout: str, images: int, channels: int) -> Array:
    """layout -> nchw; the lanes beyond c, or beyond n, must be zeros."""
    if layout == "nchw":
        return y
    if layout.endswith("p"):
        rows, cols = patch_grid(y.shape[-1])
        return np.concatenate([np.concatenate([y[..., i * cols + j] for j in range(cols)], 3) for i in range(rows)], 2)
    if layout.endswith("n"):
        y = np.concatenate([np.moveaxis(group, -1, 0) for group in y])
        assert not y[images:].any(), "lanes beyond the last image are not zero"
        return y[:images]
    n, blocks, h, w, block = y.shape
    y = y.transpose(0, 1, 4, 2, 3).reshape(n, blocks * block, h, w)
    assert not y[:, channels:].any(), "lanes beyond the last channel are not zero"
    return y[:, :channels]


def execute(kernel: Kernel, node: Node, case: Case, xs: tuple[Array, ...], threads: int = 1) -> Array:
    """Run one row by itself; output and scratch hold 0xFF bytes (NaN, -1) before."""
    source, target = (case.op.source, case.op.target) if isinstance(case.op, Reorder) else kernel.layouts
    held = tuple(to_layout(x, source) for x in xs)
    before = tuple(x.copy() for x in held)
    dtype = np.int8 if case.output == "int8" else np.float32
    output = np.empty(layout_shape(target, case.shape), dtype)
    output.view(np.uint8)[...] = 0xFF
    room = np.full(kernel.scratch(case) + 128, 0xFF, np.uint8)
    start = -room.ctypes.data % 64
    scratch = room[start : start + kernel.scratch(case)]
    openmp.lower([Step(node, case, kernel, held, output, dict(kernel.pack(node, case)), scratch)], threads)()
    assert all(x.tobytes() == y.tobytes() for x, y in zip(held, before, strict=True)), (
        f"{kernel.name} wrote to its input"
    )
    assert (room[:start] == 0xFF).all(), f"{kernel.name} wrote in front of its scratch"
    assert (room[start + scratch.size :] == 0xFF).all(), f"{kernel.name} wrote behind its scratch"
    return from_layout(output, target, *case.shape[:2]) if len(case.shape) == 4 else output


def expected(node: Node, case: Case, xs: tuple[Array, ...]) -> Array:
    """The reference's answer in float64 where that exists."""
    if isinstance(case.op, Reorder):
        return xs[0]
    return layer(node, *(x if x.dtype == np.int8 else x.astype(np.float64) for x in xs))


def bound(node: Node, case: Case, xs: tuple[Array, ...]) -> Array:
    """gamma(terms) * the same layer on absolute values: no order of summation can miss by more."""
    if isinstance(case.op, Reorder):
        return np.zeros(case.shape)
    if isinstance(case.op, ops.Softmax):
        return np.float64(2.0**-24) * (4 * np.abs(xs[0]).max() + case.shape[1] + 12) * expected(node, case, xs)
    if isinstance(case.op, ops.BatchNorm):
        assert node.mean is not None
        assert node.weight is not None
        assert node.var is not None
        assert node.bias is not None
        column = (-1, 1, 1)
        a = np.abs(node.weight.decode()[:, 0]) / np.sqrt(node.var.astype(np.float64) + case.op.eps)
        size = (np.abs(xs[0]) + np.abs(node.mean).reshape(column)) * a.reshape(column) + np.abs(node.bias).reshape(
            column
        )
        return np.float64(8 * 2.0**-24 * 1.001) * size
    terms = 3
    op = case.op
    if isinstance(op, ops.AvgPool2d):
        terms += op.kernel[0] * op.kernel[1]
    if isinstance(op, ops.GlobalAvgPool):
        terms += case.inputs[0][2] * case.inputs[0][3]
    size = tuple(np.abs(x).astype(np.float64) for x in xs)
    if isinstance(op, ops.Conv2d | ops.Linear):
        assert node.weight is not None
        terms += node.weight.shape[1]
        plain = type(op)(**{**vars(op), "activation": None})
        positive = Node(
            "node",
            plain,
            node.inputs,
            Dense(np.abs(node.weight.decode())),
            None if node.bias is None else abs(node.bias),
        )
        return np.float64(terms * 2.0**-24 * 1.001) * layer(positive, *size)
    return np.float64(terms * 2.0**-24 * 1.001) * layer(node, *size)


def able(kernel: Kernel) -> list[Case]:
    return [case for case in cases(kernel.op, kernel.format) if kernel.refusal(case) is None]
