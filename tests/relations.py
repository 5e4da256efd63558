"""Metamorphic relations: two problems whose answers must be equal, or follow from each other, whatever they are.

They need no right answer, so a mistake that reference and kernel share shows here. Each relation takes a runner, a
layer, two draws of its inputs, and yields pairs that must agree: bit for bit where arithmetic is exact (integers,
powers of two, data that only move), and within both sides' bounds otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from sides import Inputs, Runner, Side, joined

from refstack import ops
from refstack.errors import ShapeError
from refstack.formats import Array, Bsr, Csr, Dense, Half, Int8, Weight
from refstack.graph import Node

Pairs = Iterator[tuple[Side, Side]]
GRID = 2.0**10  # real inputs are rounded to multiples of 1/GRID where their sum must be exact


def bare(node: Node) -> Node:
    """Without bias and activation: what is left of a convolution is linear."""
    fields = vars(node.op)
    op = type(node.op)(**{**fields, "activation": None}) if "activation" in fields else node.op
    return replace(node, op=op, bias=None)


def with_op(node: Node, **changes: Any) -> Node:
    return replace(node, op=replace(node.op, **changes))


def moved(node: Node, change: Callable[[Array], Array], rows: Array | None = None, **op: Any) -> Node:
    """The layer with a changed matrix (in what the format stores), other rows, another op."""
    weight = node.weight
    assert weight is not None
    rows = np.arange(weight.shape[0]) if rows is None else rows
    new: Weight
    if isinstance(weight, Int8):
        new = replace(weight, values=change(weight.values)[rows], scale=weight.scale[rows])
    elif isinstance(weight, Csr):  # zeros that are stored stay stored, or the sum would be another one
        stored = replace(weight, values=np.ones_like(weight.values)).decode()
        pattern = Csr.encode(change(stored)[rows] != 0)
        new = replace(pattern, values=change(weight.decode())[rows][np.nonzero(pattern.decode())])
    elif isinstance(weight, Bsr):
        new = Bsr.encode(change(weight.decode())[rows], weight.block)
    else:
        new = type(weight).encode(change(weight.decode())[rows])
    return replace(with_op(node, **op), weight=new, bias=None if node.bias is None else node.bias[rows])


def taps(node: Node) -> tuple[int, ...]:
    """(k, c/g, r, s): the shape in which a convolution's matrix is a stack of filters."""
    assert node.weight is not None
    (k, cols), (r, s) = node.weight.shape, node.op.kernel  # type: ignore[attr-defined]
    return k, cols // (r * s), r, s


def on_filters(node: Node, change: Callable[[Array], Array], **op: Any) -> Node:
    """The convolution with its filters, as (k, c/g, r, s), changed."""
    return moved(node, lambda m: change(m.reshape(taps(node))).reshape(len(m), -1), **op)


def scaled(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """f(2**k x) = 2**k f(x), and for sums f(-x) = -f(x) and the same for the weights."""
    node, factor = bare(node) if not isinstance(node.op, ops.ReLU) else with_op(node, activation="relu"), 2.0**12
    factors = [2.0 ** int(rng.integers(-8, 12)), factor]
    if isinstance(node.op, ops.Conv2d | ops.Linear | ops.AvgPool2d | ops.GlobalAvgPool):
        factors.append(-1.0)
    y = run(node, *x).exactly()
    for by in factors:
        yield run(node, *(each * np.float32(by) for each in x)).exactly(), y * by
    if node.weight is not None:
        by = -1.0 if isinstance(node.weight, Half) else factor  # float16 has no room for more
        yield run(moved(node, lambda m: m * np.float32(by)), *x).exactly(), y * by


def additive(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """f(x + z) = f(x) + f(z)."""
    node = bare(node)
    a, b = (np.round(each[0] * GRID) / np.float32(GRID) for each in (x, z))
    yield run(node, a + b), run(node, a) + run(node, b)


def batched(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """Images do not see each other: f of a batch is the batch of f."""
    both = tuple(np.concatenate((b, a)) for a, b in zip(x, z, strict=True))
    yield run(node, *both), joined((run(node, *z), run(node, *x)))


def filters(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """Filters in another order (within their group) give channels in that order."""
    assert node.weight is not None
    groups, k = getattr(node.op, "groups", 1), node.weight.shape[0]
    order = np.concatenate([rng.permutation(part) for part in np.arange(k).reshape(groups, -1)])
    yield run(moved(node, lambda m: m, order), *x), run(node, *x).at(lambda a: a[:, order])


def channels(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """Input channels in another order (within their group), with their weights, change nothing."""
    groups, c = getattr(node.op, "groups", 1), x[0].shape[1]
    within = rng.permutation(c // groups)
    order = (np.arange(groups)[:, None] * (c // groups) + within).ravel()
    assert node.weight is not None
    rows = node.weight.shape[0]
    changed = moved(node, lambda m: m.reshape(rows, len(within), -1)[:, within].reshape(rows, -1))
    yield run(changed, x[0][:, order]), run(node, *x)


def split(node: Node, x: Array, z: Array) -> tuple[Node, Array]:
    """A convolution of at least two groups, and its input: two of one group side by side, if there is but one."""
    if node.op.groups > 1:  # type: ignore[attr-defined]
        return node, x
    k = node.op.out_channels  # type: ignore[attr-defined]
    rows = np.concatenate((np.arange(k), np.arange(k)[::-1]))
    return moved(node, lambda m: m, rows, out_channels=2 * k, groups=2), np.concatenate((x, z), axis=1)


def lanes(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """Channels that do not mix, or whole groups, in another order give answers in that order."""
    if isinstance(node.op, ops.Conv2d):
        node, image = split(node, x[0], z[0])
        groups = rng.permutation(node.op.groups)  # type: ignore[attr-defined]
        rows = np.arange(node.op.out_channels).reshape(len(groups), -1)[groups].ravel()  # type: ignore[attr-defined]
        order = np.arange(image.shape[1]).reshape(len(groups), -1)[groups].ravel()
        yield run(moved(node, lambda m: m, rows), image[:, order]), run(node, image).at(lambda a: a[:, rows])
        return
    order = rng.permutation(x[0].shape[1])
    changed = node
    if isinstance(node.op, ops.BatchNorm):
        changed = replace(moved(node, lambda m: m, order), mean=node.mean[order], var=node.var[order])  # type: ignore[index]
    if isinstance(node.op, ops.Concat):
        inputs = (x[0][:, order], *x[1:])
        order = np.concatenate((order, np.arange(len(order), sum(each.shape[1] for each in x))))
    else:
        inputs = tuple(each[:, order] for each in x)
    yield run(changed, *inputs), run(node, *x).at(lambda a: a[:, order])


def translated(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """Lines added in front move the answer, except where windows reach into the padding in front."""
    image, op = x[0], node.op
    y = run(node, image)
    for axis in (2, 3):
        step, front = op.stride[axis - 2], op.padding[axis - 2]  # type: ignore[attr-defined]
        lines = np.take(z[0], np.arange(step) % z[0].shape[axis], axis)
        longer = run(node, np.concatenate((lines, image), axis))
        first, size = -(-front // step), y.y.shape[axis]
        yield (longer.at(lambda a, i=axis, f=first, n=size: np.take(a, np.arange(f + 1, n + 1), i)),  # type: ignore[misc]
               y.at(lambda a, i=axis, f=first, n=size: np.take(a, np.arange(f, n), i)))  # type: ignore[misc]  # fmt: skip


def padded(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """Padding is a frame of what stands for nothing."""
    op, image = node.op, x[0]
    if isinstance(op, ops.AvgPool2d):
        node = with_op(node, count_include_pad=True)
    nothing = 0 if node.weight is None else node.weight.zero
    if isinstance(op, ops.MaxPool2d):
        nothing = -128 if image.dtype == np.int8 else -np.inf
    top, left, bottom, right = op.padding  # type: ignore[attr-defined]
    frame = ((0, 0), (0, 0), (top, bottom), (left, right))
    framed = np.pad(image, frame, constant_values=nothing)
    yield run(with_op(node, padding=(0, 0, 0, 0)), framed), run(node, image)


def ringed(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """A ring of zeros around every filter and as much padding more change nothing; in csr, not a bit, as long as all
    channels fit a kernel's buffer, as those of a small image or two do: sums are cut up in the same way then."""
    (r, s), (dh, dw), (top, left, bottom, right) = node.op.kernel, node.op.dilation, node.op.padding  # type: ignore[attr-defined]
    larger = on_filters(
        node, lambda w: np.pad(w, ((0, 0), (0, 0), (1, 1), (1, 1))),
        kernel=(r + 2, s + 2), padding=(top + dh, left + dw, bottom + dh, right + dw),
    )  # fmt: skip
    both = run(larger, *x), run(node, *x)
    if isinstance(node.weight, Csr) and len(x[0]) <= 2 and x[0][0].size <= 500:
        both = both[0].exactly(), both[1].exactly()  # the same entries in the same order
    yield both


def spread(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """Dilation is a filter with zeros between its taps."""
    (r, s), (dh, dw), (top, left, bottom, right) = node.op.kernel, node.op.dilation, node.op.padding  # type: ignore[attr-defined]
    if (dh, dw) == (1, 1):
        dh, dw = 2, 3
        node = with_op(node, dilation=(dh, dw), padding=(top, left, bottom + r - 1, right + 2 * (s - 1)))
    reach = ((r - 1) * dh + 1, (s - 1) * dw + 1)

    def insert(w: Array) -> Array:
        out = np.zeros((*w.shape[:2], *reach), w.dtype)
        out[:, :, ::dh, ::dw] = w
        return out

    yield run(node, *x), run(on_filters(node, insert, kernel=reach, dilation=(1, 1)), *x)


def strided(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """A stride leaves out answers of stride 1."""
    if node.op.stride == (1, 1):  # type: ignore[attr-defined]
        node = with_op(node, stride=(2, 3))
    (sh, sw), image = node.op.stride, x[0]  # type: ignore[attr-defined]
    try:
        every = run(with_op(node, stride=(1, 1)), image)
    except ShapeError:
        return  # between two strides a window of dilated pooling may see no pixel at all
    yield run(node, image), every.at(lambda a: a[:, :, ::sh, ::sw])


def grouped(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """Groups are one group whose matrix has zeros off its blocks."""
    node, image = split(node, x[0], z[0])
    groups = node.op.groups  # type: ignore[attr-defined]

    def blocks(m: Array) -> Array:
        rows, cols = len(m) // groups, m.shape[1]
        out = np.zeros((len(m), groups * cols), m.dtype)
        for g in range(groups):
            out[g * rows : (g + 1) * rows, g * cols : (g + 1) * cols] = m[g * rows : (g + 1) * rows]
        return out

    yield run(node, image), run(moved(node, blocks, groups=1), image)


def unfolded(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """A convolution is a linear layer on its windows."""
    op, image = node.op, x[0]
    assert isinstance(op, ops.Conv2d)
    assert node.weight is not None
    (n, c, _, _), (_, k, p, q) = image.shape, op.shape(image.shape)
    top, left, bottom, right = op.padding
    frame = np.pad(image, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=node.weight.zero)
    columns = np.empty((n, p, q, c, *op.kernel), image.dtype)
    for i, j in np.ndindex(p, q):
        down, across = i * op.stride[0], j * op.stride[1]
        window = frame[:, :, down :: op.dilation[0], across :: op.dilation[1]]
        columns[:, i, j] = window[:, :, : op.kernel[0], : op.kernel[1]]
    y, per = run(node, image), k // op.groups
    for g in {0, op.groups - 1}:
        part = moved(node, lambda m: m, np.arange(g * per, (g + 1) * per))
        linear = replace(part, op=ops.Linear(per, op.activation))
        own = columns[:, :, :, g * (c // op.groups) : (g + 1) * (c // op.groups)].reshape(n * p * q, -1)
        rows = run(linear, np.ascontiguousarray(own))
        yield (y.at(lambda a, g=g: a[:, g * per : (g + 1) * per]),  # type: ignore[misc]
               rows.at(lambda a: a.reshape(n, p, q, per).transpose(0, 3, 1, 2)))  # fmt: skip


def pointwise(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """A linear layer is a convolution of one pixel."""
    assert isinstance(node.op, ops.Linear)
    conv = replace(node, op=ops.Conv2d((1, 1), out_channels=node.op.out_features, activation=node.op.activation))
    yield run(node, *x), run(conv, x[0][:, :, None, None]).at(lambda a: a[:, :, 0, 0])


def decoded(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """A format is the dense matrix that it stands for (on finite inputs); a dense matrix may be stored as csr."""
    assert node.weight is not None
    other = Csr.encode(node.weight.decode()) if isinstance(node.weight, Dense) else Dense.encode(node.weight.decode())
    yield run(node, *x), run(replace(node, weight=other), *x)


def transposed(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """Height and width change places, in the image, the window and the answer."""
    changed = node
    if isinstance(node.op, ops.Window):
        op, (top, left, bottom, right) = node.op, node.op.padding
        turned = {"kernel": op.kernel[::-1], "stride": op.stride[::-1], "dilation": op.dilation[::-1],
                  "padding": (left, top, right, bottom)}  # fmt: skip
        changed = with_op(node, **turned)
        if node.weight is not None:
            changed = on_filters(node, lambda w: w.swapaxes(2, 3), **turned)
    yield run(changed, *(each.swapaxes(2, 3) for each in x)), run(node, *x).at(lambda a: a.swapaxes(2, 3))


def idempotent(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """What is clipped already stays."""
    yield run(node, (once := run(node, *x)).y.astype(np.float32)), once


def composed(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """The largest of 2x2 largest of 2x2 is the largest of 3x3."""
    size = [max(each, 3) for each in x[0].shape[2:]]
    image = np.resize(x[0], (*x[0].shape[:2], *size))
    pool = replace(node, op=ops.MaxPool2d((2, 2)))
    once = run(pool, image)
    yield run(pool, once.y.astype(image.dtype)), run(replace(node, op=ops.MaxPool2d((3, 3))), image)


def shifted(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """softmax(x + a) = softmax(x)."""
    image = np.round(x[0].clip(-64, 64) * GRID) / np.float32(GRID)
    yield run(node, image + np.float32(rng.choice((4.0, 32.0)))), run(node, image)


def repeated(run: Runner, node: Node, x: Inputs, z: Inputs, rng: np.random.Generator) -> Pairs:
    """x, z, x in the same buffers, then z in fresh ones: the answers are those of x and z."""
    call = run.prepare(node, x)
    a, b, again = (run.side(node, inputs, call).exactly() for inputs in (x, z, x))
    yield again, a
    yield b, run(node, *z).exactly()


SUMS = ("conv2d", "linear")
WINDOWS = ("conv2d", "maxpool", "avgpool")
FLOAT = ("dense", "csr", "bsr", "half", "ternary", "float32")
INT = ("int8", "ternary8")
Relation = Callable[[Runner, Node, Inputs, Inputs, np.random.Generator], Pairs]

RELATIONS: dict[str, tuple[Relation, tuple[str, ...], tuple[str, ...]]] = {
    "scaled": (scaled, (*SUMS, "avgpool", "globalavgpool", "maxpool", "relu", "add", "concat", "flatten"), FLOAT),
    "additive": (additive, (*SUMS, "avgpool", "globalavgpool"), FLOAT),
    "batched": (batched, (*ops.OPS, "reorder"), FLOAT + INT),
    "filters": (filters, SUMS, FLOAT + INT),
    "channels": (channels, SUMS, FLOAT + INT),
    "lanes": (lanes, tuple(op for op in (*ops.OPS, "reorder") if op not in ("linear", "flatten")), FLOAT + INT),
    "translated": (translated, WINDOWS, FLOAT + INT),
    "padded": (padded, WINDOWS, FLOAT + INT),
    "ringed": (ringed, ("conv2d",), FLOAT + INT),
    "spread": (spread, ("conv2d",), FLOAT + INT),
    "strided": (strided, WINDOWS, FLOAT + INT),
    "grouped": (grouped, ("conv2d",), FLOAT + INT),
    "unfolded": (unfolded, ("conv2d",), FLOAT + INT),
    "pointwise": (pointwise, ("linear",), FLOAT + INT),
    "decoded": (decoded, SUMS, FLOAT),
    "transposed": (transposed, tuple(op for op in (*ops.OPS, "reorder") if op not in ("linear", "softmax", "flatten")),
                   FLOAT + INT),
    "idempotent": (idempotent, ("relu",), FLOAT),
    "composed": (composed, ("maxpool",), FLOAT + INT),
    "shifted": (shifted, ("softmax",), FLOAT),
    "repeated": (repeated, (*ops.OPS, "reorder"), FLOAT + INT),
}  # fmt: skip
"""name -> (relation, the ops and the formats that it holds for)."""


def applies(name: str, op: str, format: str) -> bool:
    """Whether a relation says something about an op in a format."""
    _, ops_, formats = RELATIONS[name]
    return op in ops_ and format in formats


def violation(name: str, run: Runner, node: Node, x: Inputs, z: Inputs, seed: int = 0) -> tuple[str, int]:
    """In words where a relation does not hold, or nothing; and how many numbers were compared."""
    compared = 0
    for left, right in RELATIONS[name][0](run, node, x, z, np.random.default_rng(seed)):
        if left.y.shape != right.y.shape:
            return f"{name}: shapes {left.y.shape} and {right.y.shape}", compared
        with np.errstate(invalid="ignore"):
            wrong = ~((left.y == right.y) | (np.abs(left.y - right.y) <= left.limit + right.limit))
        compared += wrong.size
        if wrong.any():
            where = tuple(int(i) for i in np.argwhere(wrong)[0])
            most = left.limit[where] + right.limit[where]
            both = f"{left.y[where]!r} and {right.y[where]!r}, {most:.3g} apart at most"
            return f"{name}: {int(wrong.sum())} of {wrong.size} differ, the first at {where}: {both}", compared
    return "", compared
