"""What a layer computes: frozen attributes, a shape rule, a count of multiply-adds. No arrays.

Axis letters, everywhere in refstack and in this order:
    n images   c in-channels   h w input   k out-channels   r s filter height and width
    p q output height and width   g groups;   strides st, padding pd (top, left, bottom, right), dilation dl

Shapes are (n, c, h, w) for images and (n, c) for vectors. Attribute names follow PyTorch.
Next: reference/window.py
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from refstack.errors import ShapeError, UsageError

Shape = tuple[int, ...]
Activation = Literal["relu", "relu6"]


@dataclass(frozen=True)
class Op:
    """Base: one layer's attributes. `name` is the word used in cases, kernels and errors."""

    name: ClassVar[str]
    arity: ClassVar[int] = 1

    def __post_init__(self) -> None:
        activation = getattr(self, "activation", None)
        if activation not in (None, *get_args(Activation)):
            raise UsageError(f"{self.name}: activation {activation!r}, wanted None, relu or relu6")

    def shape(self, *inputs: Shape) -> Shape:
        """Shape of the output for these input shapes; ShapeError when they do not fit."""
        raise TypeError(f"{type(self).__name__} has no shape rule")

    def macs(self, *inputs: Shape) -> int:
        """Multiply-adds of weights with activations (padding counted, bias and batch-norm not)."""
        return 0

    def weight_shape(self, *inputs: Shape) -> tuple[int, int] | None:
        """Shape of the weight matrix, None when the layer has none."""
        return None


def _image(op: Op, shape: Shape) -> tuple[int, int, int, int]:
    if len(shape) != 4:
        raise ShapeError(f"{op.name}: input has shape {shape}, wanted (n, c, h, w)")
    return shape


def output_size(size: int, window: int, stride: int, before: int, after: int, dilation: int = 1) -> int:
    """p = (h + pd_before + pd_after - dl*(r-1) - 1) // st + 1, for one axis."""
    room = size + before + after - dilation * (window - 1) - 1
    if room < 0:
        raise ShapeError(
            f"window of {window} (dilation {dilation}) does not fit into {size} pixels padded by {before}+{after}"
        )
    return room // stride + 1


@dataclass(frozen=True)
class Window(Op):
    """What convolution and pooling share: a window that slides over the image."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, left, bottom, right
    dilation: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, least in (("kernel", 1), ("stride", 1), ("padding", 0), ("dilation", 1)):
            values = getattr(self, field)
            if len(values) != (4 if field == "padding" else 2) or any(v < least for v in values):
                raise ShapeError(f"{self.name}: {field} is {values}, every value must be at least {least}")

    def output_plane(self, h: int, w: int) -> tuple[int, int]:
        """(p, q) for an (h, w) input."""
        (r, s), (sh, sw), (top, left, bottom, right), (dh, dw) = self.kernel, self.stride, self.padding, self.dilation
        return output_size(h, r, sh, top, bottom, dh), output_size(w, s, sw, left, right, dw)

    def sighted_plane(self, h: int, w: int) -> tuple[int, int]:
        """(p, q), and ShapeError if some window covers padding alone (dilation may step over a small image)."""
        places = self.output_plane(h, w)
        for size, count, window, st, dl, pd in zip(
            (h, w), places, self.kernel, self.stride, self.dilation, self.padding[:2], strict=True
        ):
            last = (count - 1) * st - pd
            # a window that starts before the image needs its first tap at or after pixel 0 to exist and to lie inside
            taps = ((start, -(start // dl)) for start in range(-pd, min(0, last + 1), st))
            if last >= size or any(tap >= window or start + tap * dl >= size for start, tap in taps):
                r, s = self.kernel
                raise ShapeError(f"{self.name}: padding {self.padding} leaves windows of {r}x{s} with no pixel at all")
        return places


@dataclass(frozen=True)
class Conv2d(Window):
    """Slide out_channels filters over n images; groups = c is depthwise."""

    name: ClassVar[str] = "conv2d"
    out_channels: int = 1
    groups: int = 1
    activation: Activation | None = None

    def shape(self, *inputs: Shape) -> Shape:
        n, c, h, w = _image(self, inputs[0])
        if self.out_channels < 1:
            raise ShapeError(f"conv2d: out_channels is {self.out_channels}, must be at least 1")
        if self.groups < 1 or c % self.groups or self.out_channels % self.groups:
            raise ShapeError(f"conv2d: groups={self.groups} must divide c={c} and k={self.out_channels}")
        return (n, self.out_channels, *self.output_plane(h, w))

    def weight_shape(self, *inputs: Shape) -> tuple[int, int]:
        return self.out_channels, inputs[0][1] // self.groups * math.prod(self.kernel)

    def macs(self, *inputs: Shape) -> int:
        n, _, p, q = self.shape(*inputs)
        return n * p * q * math.prod(self.weight_shape(*inputs))


@dataclass(frozen=True)
class Linear(Op):
    """y = W x + b on vectors."""

    name: ClassVar[str] = "linear"
    out_features: int
    activation: Activation | None = None

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs[0]) != 2:
            raise ShapeError(f"linear: input has shape {inputs[0]}, wanted (n, c); put a Flatten before it")
        if self.out_features < 1:
            raise ShapeError(f"linear: out_features is {self.out_features}, must be at least 1")
        return inputs[0][0], self.out_features

    def weight_shape(self, *inputs: Shape) -> tuple[int, int]:
        return self.out_features, inputs[0][1]

    def macs(self, *inputs: Shape) -> int:
        return inputs[0][0] * inputs[0][1] * self.out_features


@dataclass(frozen=True)
class BatchNorm(Op):
    """y = weight * (x - mean) / sqrt(var + eps) + bias, a channel at a time (inference form)."""

    name: ClassVar[str] = "batchnorm"
    eps: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.eps < math.inf:
            raise ShapeError(f"batchnorm: eps is {self.eps}, must be positive")

    def shape(self, *inputs: Shape) -> Shape:
        return _image(self, inputs[0])

    def weight_shape(self, *inputs: Shape) -> tuple[int, int]:
        return inputs[0][1], 1


@dataclass(frozen=True)
class ReLU(Op):
    """max(x, 0), and min(that, 6) for relu6."""

    name: ClassVar[str] = "relu"
    activation: Activation = "relu"

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]


@dataclass(frozen=True)
class MaxPool2d(Window):
    """The largest value of each window; padding never wins."""

    name: ClassVar[str] = "maxpool"

    def shape(self, *inputs: Shape) -> Shape:
        n, c, h, w = _image(self, inputs[0])
        return (n, c, *self.sighted_plane(h, w))


@dataclass(frozen=True)
class AvgPool2d(Window):
    """The mean of each window; padded pixels count as zeros only if count_include_pad."""

    name: ClassVar[str] = "avgpool"
    count_include_pad: bool = False

    def shape(self, *inputs: Shape) -> Shape:
        n, c, h, w = _image(self, inputs[0])
        return (n, c, *self.sighted_plane(h, w))


@dataclass(frozen=True)
class GlobalAvgPool(Op):
    """The mean of each channel's plane: (n, c, h, w) -> (n, c, 1, 1)."""

    name: ClassVar[str] = "globalavgpool"

    def shape(self, *inputs: Shape) -> Shape:
        n, c, h, w = _image(self, inputs[0])
        if h * w == 0:
            raise ShapeError(f"globalavgpool: the plane is empty, shape {inputs[0]}")
        return n, c, 1, 1


@dataclass(frozen=True)
class Add(Op):
    """Residual addition x0 + x1, then the activation."""

    name: ClassVar[str] = "add"
    arity: ClassVar[int] = 2
    activation: Activation | None = None

    def shape(self, *inputs: Shape) -> Shape:
        if inputs[0] != inputs[1]:
            raise ShapeError(f"add: shapes {inputs[0]} and {inputs[1]} differ")
        return inputs[0]


@dataclass(frozen=True)
class Concat(Op):
    """Join along the channels."""

    name: ClassVar[str] = "concat"
    arity: ClassVar[int] = -1  # any number, at least one

    def shape(self, *inputs: Shape) -> Shape:
        first = inputs[0]
        if any(len(s) != len(first) or s[:1] + s[2:] != first[:1] + first[2:] for s in inputs):
            raise ShapeError(f"concat: shapes {inputs} may differ in channels only")
        return (first[0], sum(s[1] for s in inputs), *first[2:])


@dataclass(frozen=True)
class Flatten(Op):
    """(n, c, h, w) -> (n, c*h*w)."""

    name: ClassVar[str] = "flatten"

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0][0], math.prod(inputs[0][1:])


@dataclass(frozen=True)
class Softmax(Op):
    """exp(x - max x) / sum of the same, over the features of one image."""

    name: ClassVar[str] = "softmax"

    def shape(self, *inputs: Shape) -> Shape:
        if len(inputs[0]) != 2:
            raise ShapeError(f"softmax: input has shape {inputs[0]}, wanted (n, c)")
        return inputs[0]


@dataclass(frozen=True)
class Quantize(Op):
    """float32 -> int8:  q = clamp(round_half_even(x / scale) + zero_point, -128, 127), computed in float64."""

    name: ClassVar[str] = "quantize"
    scale: float = 1.0
    zero_point: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.scale < math.inf) or not -128 <= self.zero_point <= 127:
            raise ShapeError(f"quantize: scale {self.scale} must be positive, zero point {self.zero_point} an int8")

    def shape(self, *inputs: Shape) -> Shape:
        return inputs[0]


OPS: dict[str, type[Op]] = {
    op.name: op
    for op in (
        Conv2d, Linear, BatchNorm, ReLU, MaxPool2d, AvgPool2d, GlobalAvgPool, Add, Concat, Flatten, Softmax, Quantize,
    )
}  # fmt: skip
