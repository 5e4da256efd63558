"""The registry: one row describes a kernel; its test, benchmark, documentation and use follow from that row.

A backend lists its rows in order of preference. A row's `needs` are predicates over a case that answer None or a
reason in plain words; `select` takes the first row without a reason and keeps the reasons of the others.
Kernel names are op.format.backend.variant, e.g. conv2d.csr.openmp.planar; one glob works everywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from refstack import ops
from refstack.errors import NoKernelError, UsageError
from refstack.formats import Array
from refstack.graph import Node
from refstack.ops import Op, Shape

Need = Callable[["Case"], str | None]


@dataclass(frozen=True)
class Reorder(Op):
    """Copy between layouts: the planner inserts it where neighbours disagree; no graph holds one."""

    name: ClassVar[str] = "reorder"
    source: str = "nchw"
    target: str = "nchw"

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]


def layout_shape(layout: str, shape: Shape) -> Shape:
    """Shape of the array that holds a (n, c, h, w) value in a layout.

    nchw        (n, c, h, w)                    the public layout; vectors (n, c) only ever use it
    nhwc        (n, h, w, c)
    nchw16c     (n, ceil(c/16), h, w, 16)       any block size; channels beyond c are written as zeros
    nchw16n     (ceil(n/16), c, h, w, 16)       the same of images
    nchw16p     (n, c, h/4, w/4, 16)            one pixel of each of the 4 x 4 patches of an image (patch_grid)
    """
    if layout == "nchw":
        return shape
    n, c, h, w = shape
    if layout == "nhwc":
        return n, h, w, c
    block = layout_block(layout)
    if of_patches(layout):
        rows, cols = patch_grid(block)
        return n, c, h // rows, w // cols, block
    return (-(-n // block), c, h, w, block) if of_images(layout) else (n, -(-c // block), h, w, block)


def same_bytes(one: str, other: str, shape: Shape) -> bool:
    """Whether two layouts hold a value in the same bytes: one pixel of whole blocks of channels, or of each patch."""
    one, other = (
        "nchw" if of_patches(layout) and shape[2:] == patch_grid(layout_block(layout)) else layout
        for layout in (one, other)
    )
    if any(of_images(layout) or of_patches(layout) for layout in (one, other)):
        return one == other
    sizes = {math.prod(layout_shape(layout, shape)) for layout in (one, other)}
    return len(sizes) == 1 and (one == other or math.prod(shape[2:]) == 1)


def from_nchw(x: Array, layout: str) -> Array:
    """The array that holds the nchw value x in a layout; channels or images beyond the last one are zeros."""
    if layout == "nchw":
        return x
    if layout == "nhwc":
        return x.transpose(0, 2, 3, 1)
    (n, c, h, w), block = x.shape, layout_block(layout)
    if of_images(layout):
        padded = np.pad(x, ((0, -n % block), (0, 0), (0, 0), (0, 0)))
        return padded.reshape(-1, block, c, h, w).transpose(0, 2, 3, 4, 1)
    if of_patches(layout):
        rows, cols = patch_grid(block)
        patches = x.reshape(n, c, rows, h // rows, cols, w // cols)
        return patches.transpose(0, 1, 3, 5, 2, 4).reshape(layout_shape(layout, x.shape))
    padded = np.pad(x, ((0, 0), (0, -c % block), (0, 0), (0, 0)))
    return padded.reshape(n, -1, block, h, w).transpose(0, 1, 3, 4, 2)


def to_nchw(array: Array, layout: str, shape: Shape) -> Array:
    """The nchw value of this shape that an array in a layout holds."""
    if layout == "nchw":
        return array
    if layout == "nhwc":
        return array.transpose(0, 3, 1, 2)
    n, c, h, w = shape
    if of_images(layout):
        return array.transpose(0, 4, 1, 2, 3).reshape(-1, c, h, w)[:n]
    if of_patches(layout):
        _, _, p, q, block = array.shape
        return array.reshape(n, c, p, q, *patch_grid(block)).transpose(0, 1, 4, 2, 5, 3).reshape(shape)
    return array.transpose(0, 1, 4, 2, 3).reshape(n, -1, h, w)[:, :c]


def layout_block(layout: str) -> int:
    """16 for nchw16c, nchw16n and nchw16p; UsageError for a word that is no blocked layout."""
    match = re.fullmatch(r"nchw(\d+)[cnp]", layout)
    if not match:
        raise UsageError(f"unknown layout {layout!r}, wanted nchw, nhwc, nchw<block>c, nchw<block>n or nchw<block>p")
    return int(match[1])


def of_images(layout: str) -> bool:
    """Whether a block is one of images: nchw16n."""
    return layout.endswith("n")


def of_patches(layout: str) -> bool:
    """Whether a block is one of patches: nchw16p."""
    return layout.endswith("p")


def patch_grid(block: int) -> tuple[int, int]:
    """Rows and columns of the patches of an image, as square as powers of two are: 4 x 4, 2 x 4, 2 x 2."""
    rows = math.gcd(block, 1 << (block.bit_length() - 1) // 2)
    return rows, block // rows


def misfit(layout: str, shape: Shape, step: tuple[int, int] = (1, 1)) -> str | None:
    """Why a layout cannot hold a value, or None: images that do not fall into its patches, each of whole steps."""
    if not of_patches(layout):
        return None
    (h, w), (rows, cols) = shape[2:], patch_grid(layout_block(layout))
    tall, wide = rows * step[0], cols * step[1]
    return f"image is {h}x{w}, {layout} needs multiples of {tall}x{wide} here" if h % tall or w % wide else None


@dataclass(frozen=True)
class Case:
    """One problem: op, format (a weight's, or float32/int8 for layers without weights), input shapes, density.

    `output` is the output's dtype word: int8 for layers that requantize.
    """

    op: Op
    format: str
    inputs: tuple[Shape, ...]
    density: float = 1.0
    output: str = "float32"
    bias: bool = True

    @property
    def shape(self) -> Shape:
        """The output's shape."""
        return self.op.shape(*self.inputs)

    @property
    def word(self) -> str:
        """One line that names the problem: conv2d.csr:n1c64h16w16_k128r3s3_st1pd1g1_d0.10"""
        sizes = "x".join("".join(f"{a}{v}" for a, v in zip("nchw", s, strict=False)) for s in self.inputs)
        parts = [sizes]
        op = self.op
        if isinstance(op, ops.Conv2d):
            parts.append(f"k{op.out_channels}r{op.kernel[0]}s{op.kernel[1]}")
        elif isinstance(op, ops.Window):
            parts.append(f"r{op.kernel[0]}s{op.kernel[1]}")
        elif isinstance(op, ops.Linear):
            parts.append(f"k{op.out_features}")
        if isinstance(op, ops.Window):
            window = f"st{_short(op.stride)}pd{_short(op.padding)}"
            window += f"dl{_short(op.dilation)}" if op.dilation != (1, 1) else ""
            parts.append(window + (f"g{op.groups}" if isinstance(op, ops.Conv2d) else ""))
        if self.density < 1:
            parts.append(f"d{self.density:.2f}")
        if getattr(op, "activation", None):
            parts.append(str(op.activation))  # type: ignore[attr-defined]
        if getattr(op, "count_include_pad", False):
            parts.append("includepad")
        if isinstance(op, Reorder):
            parts.append(f"{op.source}-{op.target}")
        if isinstance(op, ops.Quantize):
            parts.append(f"scale{op.scale!r},{op.zero_point}")
        if isinstance(op, ops.BatchNorm):
            parts.append(f"eps{op.eps!r}")
        if self.output != "float32":
            parts.append(f"to-{self.output}")
        if not self.bias:
            parts.append("nobias")
        return f"{op.name}.{self.format}:" + "_".join(parts)


def _short(values: tuple[int, ...]) -> str:
    return str(values[0]) if len(set(values)) == 1 else ",".join(map(str, values))


_NUMBERS = r"(\d+(?:,\d+)*)"
_REAL = r"([0-9.e+-]+)"
_PART = re.compile(
    rf"(?:k(?P<k>\d+))?(?:r(?P<r>\d+)s(?P<s>\d+))?"
    rf"|st(?P<st>{_NUMBERS})pd(?P<pd>{_NUMBERS})(?:dl(?P<dl>{_NUMBERS}))?(?:g(?P<g>\d+))?"
    rf"|d(?P<density>{_REAL})|scale(?P<scale>{_REAL}),(?P<zero>-?\d+)|eps(?P<eps>{_REAL})"
    r"|(?P<activation>relu6?)|(?P<includepad>includepad)|to-(?P<output>int8)|(?P<nobias>nobias)"
    r"|(?P<source>nhwc|nchw(?:\d+[cnp])?)-(?P<target>nhwc|nchw(?:\d+[cnp])?)"
)


def parse_case(word: str) -> Case:
    """The case that a word names: parse_case(case.word) == case, but for what two digits of density leave out.

    Raises      UsageError  naming the part that is not understood; ShapeError  sizes that do not fit each other
    """
    name, _, rest = word.partition(":")
    op, _, format = name.partition(".")
    kinds: dict[str, type[Op]] = {**ops.OPS, Reorder.name: Reorder}
    sizes, *parts = rest.split("_")
    if op not in kinds or not format or not rest:
        raise UsageError(f"case {word!r}: {name!r} is no op.format, for example conv2d.dense:n1c3h8w8_k4r3s3_st1pd1g1")
    inputs = []
    for size in sizes.split("x"):
        match = re.fullmatch(r"n(\d+)c(\d+)(?:h(\d+)w(\d+))?", size)
        if not match:
            raise UsageError(f"case {word!r}: {size!r} is no input shape, wanted n1c3h8w8 or n1c3")
        inputs.append(tuple(int(number) for number in match.groups() if number is not None))
    said: dict[str, str] = {}
    for part in parts:
        match = _PART.fullmatch(part)
        if not part or not match:
            raise UsageError(f"case {word!r}: part {part!r} is not understood")
        said |= {field: value for field, value in match.groupdict().items() if value is not None}
    try:
        case = Case(
            kinds[op](**_attributes(kinds[op], said)), format, tuple(inputs), float(said.get("density", 1)),
            said.get("output", "float32"), "nobias" not in said,
        )  # fmt: skip
    except (TypeError, ValueError, KeyError) as error:
        raise UsageError(f"case {word!r}: {op} lacks or does not take a part ({error})") from None
    if 0 <= kinds[op].arity != len(inputs):
        raise UsageError(f"case {word!r}: {op} takes {kinds[op].arity} inputs, got {len(inputs)}")
    case.shape  # noqa: B018  sizes that do not fit are refused here
    return case


def _attributes(op: type[Op], said: Mapping[str, str]) -> dict[str, Any]:
    """A word's parts as the op's arguments. A part that is missing is a KeyError, but for those with a default."""
    found: dict[str, Any] = {}

    def several(field: str, count: int, default: str | None = None) -> tuple[int, ...]:
        values = [int(v) for v in (said[field] if default is None else said.get(field, default)).split(",")]
        return tuple(values * count if len(values) == 1 else values)

    if issubclass(op, ops.Window):
        found = {"kernel": (int(said["r"]), int(said["s"])), "stride": several("st", 2), "padding": several("pd", 4)}
        found["dilation"] = several("dl", 2, "1")
    if issubclass(op, ops.Conv2d):
        found |= {"out_channels": int(said["k"]), "groups": int(said["g"])}
    if issubclass(op, ops.Linear):
        found["out_features"] = int(said["k"])
    if issubclass(op, ops.Conv2d | ops.Linear | ops.Add | ops.ReLU):
        found["activation"] = said.get("activation")
    if issubclass(op, ops.AvgPool2d):
        found["count_include_pad"] = "includepad" in said
    if issubclass(op, ops.Quantize):
        found |= {"scale": float(said["scale"]), "zero_point": int(said["zero"])}
    if issubclass(op, ops.BatchNorm):
        found["eps"] = float(said["eps"])
    if issubclass(op, Reorder):
        found |= {"source": said["source"], "target": said["target"]}
    return found


def case_of(node: Node, inputs: tuple[Shape, ...], dtype: type[np.generic], output: type[np.generic]) -> Case:
    """The case that a node is, given its inputs' shapes and dtype and its output's dtype."""
    weight = node.weight
    return Case(
        node.op,
        weight.format if weight is not None else np.dtype(dtype).name,
        inputs,
        weight.density if weight is not None and weight.sparse else 1.0,
        np.dtype(output).name,
        node.bias is not None,
    )


@dataclass(frozen=True)
class Kernel:
    """One row.

    run         what the backend calls: a function for NumPy rows, a C symbol for OpenMP rows
    needs       predicates Case -> None | reason
    layouts     (input, output); every input of a node has the same layout
    pack        (node, case) -> the weight's arrays as the kernel reads them, bias included; done once, at planning
    scratch     case -> bytes of working memory, valid during one call
    blocks      sizes at which the code takes another path (vector width, register tile ..): tests go around them
    exact       integer data below 2**24 gives the exact integer result
    algorithm   whose error bound it is held to: direct (each product once, in any order), winograd2, winograd4
    nonfinite   what NaN and infinities in x do: "exact", what the reference says; "spreads", the same and more of them
    joins       taken instead of rows before it where the next layer chosen by its case alone reads what it writes
    in_place    the output may be the very array of an input of its size: a number is read before it is written over
    """

    op: str
    format: str
    backend: str
    variant: str
    run: Any
    needs: tuple[Need, ...] = ()
    layouts: tuple[str, str] = ("nchw", "nchw")
    pack: Callable[[Node, Case], Mapping[str, Array]] = lambda node, case: {}
    scratch: Callable[[Case], int] = lambda case: 0
    blocks: tuple[int, ...] = ()
    exact: bool = True
    algorithm: str = "direct"
    nonfinite: str = "exact"
    joins: bool = False
    in_place: bool = False
    summary: str = ""

    @property
    def name(self) -> str:
        """op.format.backend.variant"""
        return f"{self.op}.{self.format}.{self.backend}.{self.variant}"

    def refusal(self, case: Case) -> str | None:
        """Why this row cannot run the case, or None."""
        return next((reason for need in self.needs if (reason := need(case)) is not None), None)


@dataclass(frozen=True)
class Choice:
    """The row that runs a case, and whether it was preferred to the first that can."""

    kernel: Kernel
    tuned: bool = False


def candidates(case: Case, rows: Sequence[Kernel]) -> tuple[list[Kernel], list[tuple[str, str]]]:
    """The rows that can run the case in order of preference, and (name, reason) of those that cannot."""
    able, refused = [], []
    for row in rows:
        if (row.op, row.format) != (case.op.name, case.format):
            continue
        reason = row.refusal(case)
        if reason is None:
            able.append(row)
        else:
            refused.append((row.name, reason))
    return able, refused


def select(case: Case, rows: Sequence[Kernel], preferred: str | None = None) -> Choice:
    """The first row that can run the case, or the one of the preferred name if it is among those that can.

    Raises      NoKernelError   listing every refusal
    """
    able, refused = candidates(case, rows)
    if not able:
        backends = tuple(dict.fromkeys(row.backend for row in rows))
        lines = [f"  {name:<34} {reason}" for name, reason in refused] or [
            "  no row is registered for this op and format"
        ]
        raise NoKernelError(
            f"nothing can run {case.word} with backends={backends}\n" + "\n".join(lines)
            + '\n  try     add "numpy" to the backends'
        )  # fmt: skip
    kernel = next((row for row in able if row.name == preferred), able[0])
    return Choice(kernel, kernel is not able[0])
