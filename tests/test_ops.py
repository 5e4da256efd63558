"""Shape rules against counted window positions, counts of multiply-adds, and every refusal by its message."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import Drawn

from refstack import ops
from refstack.errors import ShapeError, UsageError
from refstack.ops import OPS, Op, Shape, output_size
from refstack.verification import families

sizes = st.integers(0, 12)


@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4), sizes, sizes, st.integers(1, 4))
def test_output_size(size: int, window: int, stride: int, before: int, after: int, dilation: int) -> None:
    """Everywhere, padding beyond the window and strides beyond the image included."""
    wanted = oracle.count_positions(size, window, stride, before, after, dilation)
    if wanted:
        assert output_size(size, window, stride, before, after, dilation) == wanted
    else:
        with pytest.raises(
            ShapeError, match=rf"window of {window} \(dilation {dilation}\) does not fit into {size} pix"
        ):
            output_size(size, window, stride, before, after, dilation)


@given(st.data())
def test_conv2d_shape_and_macs(data: st.DataObject) -> None:
    """The output's shape by the oracle's convolution of ones, multiply-adds by counting what it would add."""
    op, ((n, c, h, w),) = families.conv_general(Drawn(data.draw), (2,))
    assert isinstance(op, ops.Conv2d)
    (r, s), (top, left, bottom, right) = op.kernel, op.padding
    p = oracle.count_positions(h, r, op.stride[0], top, bottom, op.dilation[0])
    q = oracle.count_positions(w, s, op.stride[1], left, right, op.dilation[1])
    assert op.shape((n, c, h, w)) == (n, op.out_channels, p, q)
    assert op.weight_shape((n, c, h, w)) == (op.out_channels, c // op.groups * r * s)
    per_filter = sum(1 for _ in range(c // op.groups) for _ in range(r) for _ in range(s))
    assert op.macs((n, c, h, w)) == n * op.out_channels * p * q * per_filter


def test_macs_of_known_layers() -> None:
    """VGG-16's first convolution and ResNet-18's classifier on 32x32 images."""
    assert ops.Conv2d((3, 3), padding=(1, 1, 1, 1), out_channels=64).macs((1, 3, 32, 32)) == 1_769_472
    assert ops.Linear(10).macs((1, 512)) == 5120
    depthwise = ops.Conv2d((3, 3), padding=(1, 1, 1, 1), out_channels=32, groups=32)
    assert depthwise.macs((2, 32, 16, 16)) == 2 * 32 * 16 * 16 * 9
    assert ops.ReLU().macs((1, 64, 8, 8)) == 0


@pytest.mark.parametrize(
    ("op", "inputs", "shape"),
    [
        (ops.Linear(7), ((3, 4),), (3, 7)),
        (ops.BatchNorm(), ((2, 3, 4, 5),), (2, 3, 4, 5)),
        (ops.ReLU(), ((2, 3),), (2, 3)),
        (ops.MaxPool2d((2, 2), (2, 2)), ((1, 3, 5, 4),), (1, 3, 2, 2)),
        (ops.AvgPool2d((3, 3), (2, 2), (1, 1, 1, 1)), ((1, 3, 7, 8),), (1, 3, 4, 4)),
        (ops.GlobalAvgPool(), ((2, 3, 4, 5),), (2, 3, 1, 1)),
        (ops.Add(), ((1, 2), (1, 2)), (1, 2)),
        (ops.Concat(), ((1, 2, 4, 4), (1, 3, 4, 4), (1, 1, 4, 4)), (1, 6, 4, 4)),
        (ops.Concat(), ((1, 2), (1, 3)), (1, 5)),
        (ops.Flatten(), ((2, 3, 4, 5),), (2, 60)),
        (ops.Softmax(), ((2, 3),), (2, 3)),
        (ops.Quantize(), ((2, 3, 4, 5),), (2, 3, 4, 5)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_shapes(op: Op, inputs: tuple[Shape, ...], shape: Shape) -> None:
    assert op.shape(*inputs) == shape
    assert all(type(size) is int for size in op.shape(*inputs))


IMAGE = (1, 4, 8, 8)
REFUSALS: dict[str, tuple[Any, str]] = {
    "conv2d vector": (lambda: ops.Conv2d((1, 1)).shape((1, 4)), r"conv2d: input has shape \(1, 4\), wanted \(n, c, h"),
    "conv2d groups and c": (lambda: ops.Conv2d((1, 1), groups=3, out_channels=3).shape(IMAGE),
                            "conv2d: groups=3 must divide c=4 and k=3"),
    "conv2d groups and k": (lambda: ops.Conv2d((1, 1), groups=2, out_channels=3).shape(IMAGE),
                            "conv2d: groups=2 must divide c=4 and k=3"),
    "conv2d no groups": (lambda: ops.Conv2d((1, 1), groups=0).shape(IMAGE), "conv2d: groups=0 must divide"),
    "conv2d no filters": (lambda: ops.Conv2d((1, 1), out_channels=0).shape(IMAGE),
                          "conv2d: out_channels is 0, must be at least 1"),
    "conv2d window": (lambda: ops.Conv2d((9, 1)).shape(IMAGE), r"window of 9 \(dilation 1\) does not fit into 8"),
    "conv2d dilated": (lambda: ops.Conv2d((3, 3), dilation=(1, 4)).shape(IMAGE), r"window of 3 \(dilation 4\)"),
    "kernel": (lambda: ops.Conv2d((0, 1)), r"conv2d: kernel is \(0, 1\), every value must be at least 1"),
    "kernel length": (lambda: ops.MaxPool2d((2,)), r"maxpool: kernel is \(2,\), every value must be at least 1"),
    "stride": (lambda: ops.AvgPool2d((2, 2), stride=(0, 1)), r"avgpool: stride is \(0, 1\), every value must"),
    "padding": (lambda: ops.Conv2d((1, 1), padding=(0, 0, -1, 0)), r"padding is \(0, 0, -1, 0\), .* at least 0"),
    "padding length": (lambda: ops.Conv2d((1, 1), padding=(1, 1)), r"padding is \(1, 1\)"),
    "dilation": (lambda: ops.Conv2d((1, 1), dilation=(1, 0)), r"dilation is \(1, 0\), every value must be at least 1"),
    "linear image": (lambda: ops.Linear(2).shape(IMAGE), r"linear: input has shape .*, wanted \(n, c\); put a Flatten"),
    "linear no features": (lambda: ops.Linear(0).shape((1, 4)), "linear: out_features is 0, must be at least 1"),
    "batchnorm vector": (lambda: ops.BatchNorm().shape((1, 4)), "batchnorm: input has shape"),
    "batchnorm eps": (lambda: ops.BatchNorm(0.0), "batchnorm: eps is 0.0, must be positive"),
    "batchnorm nan": (lambda: ops.BatchNorm(float("nan")), "batchnorm: eps is nan, must be positive"),
    "maxpool blind": (lambda: ops.MaxPool2d((2, 2), padding=(2, 0, 0, 0)).shape(IMAGE),
                      r"maxpool: padding \(2, 0, 0, 0\) leaves windows of 2x2 with no pixel at all"),
    "avgpool blind": (lambda: ops.AvgPool2d((2, 2), padding=(0, 0, 0, 2)).shape(IMAGE),
                      r"avgpool: padding \(0, 0, 0, 2\) leaves windows of 2x2 with no pixel at all"),
    "stepped over": (lambda: ops.MaxPool2d((2, 1), padding=(1, 0, 2, 0), dilation=(3, 1)).shape((1, 1, 1, 1)),
                     "leaves windows of 2x1 with no pixel at all"),
    "pool vector": (lambda: ops.MaxPool2d((1, 1)).shape((1, 4)), "maxpool: input has shape"),
    "globalavgpool": (lambda: ops.GlobalAvgPool().shape((1, 4, 0, 8)), r"globalavgpool: the plane is empty, shape"),
    "add": (lambda: ops.Add().shape((1, 2), (1, 3)), r"add: shapes \(1, 2\) and \(1, 3\) differ"),
    "concat": (lambda: ops.Concat().shape((1, 2, 4, 4), (1, 2, 4, 5)), "concat: shapes .* may differ in channels only"),
    "concat ranks": (lambda: ops.Concat().shape((1, 2, 4, 4), (1, 2)), "concat: shapes .* may differ in channels only"),
    "softmax": (lambda: ops.Softmax().shape(IMAGE), r"softmax: input has shape .*, wanted \(n, c\)"),
    "quantize scale": (lambda: ops.Quantize(0.0), "quantize: scale 0.0 must be positive, zero point 0 an int8"),
    "quantize nan": (lambda: ops.Quantize(float("nan")), "quantize: scale nan must be positive"),
    "quantize zero point": (lambda: ops.Quantize(1.0, 128), "quantize: .* zero point 128 an int8"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSALS.values(), ids=REFUSALS)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        call()


@given(st.data())
def test_pooling_refuses_exactly_the_windows_without_pixels(data: st.DataObject) -> None:
    """One axis, drawn freely: refused if and only if the oracle finds a window that covers nothing."""
    draw = data.draw
    size, window, stride, dilation = (draw(st.integers(1, high)) for high in (5, 3, 3, 4))
    before, after = draw(st.integers(0, 8)), draw(st.integers(0, 8))
    op = ops.MaxPool2d((1, window), (1, stride), (0, before, 0, after), (1, dilation))
    try:
        oracle.maxpool([[[[0] * size]]], op.kernel, op.stride, op.padding, op.dilation)
    except ValueError:  # max() of nothing
        with pytest.raises(ShapeError, match="no pixel at all"):
            op.shape((1, 1, 1, size))
        return
    if oracle.count_positions(size, window, stride, before, after, dilation):
        op.shape((1, 1, 1, size))
    else:
        with pytest.raises(ShapeError, match="does not fit"):
            op.shape((1, 1, 1, size))


def test_every_op_is_listed_under_its_name() -> None:
    assert {op.name: op for op in OPS.values()} == OPS
    assert set(OPS) == {
        "conv2d", "linear", "batchnorm", "relu", "maxpool", "avgpool",
        "globalavgpool", "add", "concat", "flatten", "softmax", "quantize",
    }  # fmt: skip


def test_every_op_is_drawn() -> None:
    """A new layer without a drawing would go untested."""
    assert set(families.FAMILIES) == {*OPS, "reorder"}


def test_ops_are_values() -> None:
    assert ops.Conv2d((3, 3)) == ops.Conv2d((3, 3))
    assert len({ops.ReLU(), ops.ReLU(), ops.ReLU("relu6")}) == 2
    with pytest.raises(AttributeError):
        ops.ReLU().activation = "relu6"  # type: ignore[misc]


@pytest.mark.parametrize("op", [ops.Conv2d((1, 1)), ops.Linear(1), ops.Add()])
def test_an_unknown_activation_is_refused(op: ops.Op) -> None:
    with pytest.raises(UsageError, match=f"{op.name}: activation 'tanh', wanted None, relu or relu6"):
        replace(op, activation="tanh")  # type: ignore[call-arg]
