"""ONNX's own test cases as problems of refstack: a node of a model, its inputs and what the standard says comes out."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case import node as case_node
from onnx.backend.test.loader import load_model_tests

from refstack import ops
from refstack.errors import RefstackError
from refstack.formats import Array, Dense, Int8, Quant
from refstack.graph import Node

OPS = (
    "Conv", "ConvInteger", "QLinearConv", "MatMulInteger", "QLinearMatMul", "Gemm", "MatMul", "MaxPool",
    "GlobalMaxPool", "AveragePool", "GlobalAveragePool", "BatchNormalization", "Relu", "Clip", "Add", "Sum", "Concat",
    "Flatten", "Softmax", "QuantizeLinear",
)  # fmt: skip
"""The ONNX operators that a layer of refstack is, wholly or in part."""


TYPES = (np.float32, np.float16, np.int8, np.uint8, np.int32, np.int64)


class Untranslatable(Exception):
    """No layer of refstack does this; the message says what is missing."""


@dataclass(frozen=True, eq=False)
class Translated:
    """A layer, its inputs, and what ONNX says comes out, in the layer's shape and dtype."""

    node: Node
    inputs: tuple[Array, ...]
    wanted: Array


@cache
def cases() -> dict[str, Any]:
    """ONNX's test cases whose model is one node of OPS (constants aside), by name."""
    for module in pkgutil.iter_modules(case_node.__path__):
        # not all, as load_model_tests(kind="node") does: that takes five seconds; batchnorm.py has also been a name
        if any(op.lower().startswith(module.name.replace("_", "")) for op in OPS):
            importlib.import_module(f"{case_node.__name__}.{module.name}")
    recorded = [case for kind in ("pytorch-converted", "pytorch-operator") for case in load_model_tests(kind=kind)]
    found = {}
    for case in (*case_node._NodeTestCases, *recorded):
        if case.model is None:
            case.model = onnx.load(Path(case.model_dir) / "model.onnx")
        kinds = [node.op_type for node in case.model.graph.node if node.op_type != "Constant"]
        if len(kinds) == 1 and kinds[0] in OPS and not case.name.endswith("_expanded"):
            found[case.name] = case
    return found


def translate(case: Any) -> Translated:
    """A test case as a layer of refstack. Untranslatable says why not."""
    graph, values = case.model.graph, {}
    for each in graph.initializer:
        values[each.name] = numpy_helper.to_array(each)
    for each in graph.node:
        if each.op_type == "Constant":
            values[each.output[0]] = numpy_helper.to_array(each.attribute[0].t)
    given, wanted = _data(case)
    values |= dict(zip([i.name for i in graph.input if i.name not in values], given, strict=True))
    (node,) = (each for each in graph.node if each.op_type != "Constant")
    opset = next(each.version for each in case.model.opset_import if each.domain in ("", "ai.onnx"))
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    inputs = [values.get(name) for name in node.input]
    for x in (*inputs, wanted[0]):
        if isinstance(x, onnx.TensorProto):
            raise Untranslatable("numbers that NumPy lacks")
        if x is not None and x.dtype not in TYPES:
            raise Untranslatable(f"{x.dtype}")
    translation = TRANSLATIONS[node.op_type]({"opset": opset, **attributes}, inputs, np.asarray(wanted[0]))
    try:
        translation.node.op.shape(*(x.shape for x in translation.inputs))
    except RefstackError as error:
        raise Untranslatable(str(error)) from None
    return translation


def _data(case: Any) -> tuple[list[Array], list[Array]]:
    """Inputs and outputs of a case's first data set, from memory or from its folder."""
    if case.data_sets is not None:
        return [list(side) for side in case.data_sets[0]]  # type: ignore[return-value]
    folder = Path(case.model_dir) / "test_data_set_0"

    def read(what: str) -> list[Array]:
        paths = sorted(folder.glob(f"{what}_*.pb"), key=lambda path: int(path.stem.split("_")[1]))
        return [numpy_helper.to_array(onnx.load_tensor(path)) for path in paths]

    return read("input"), read("output")


def _float32(*arrays: Array | None) -> None:
    for x in arrays:
        if x is not None and x.dtype != np.float32:
            raise Untranslatable(f"{x.dtype}")


def _image(x: Array) -> Array:
    """(n, c, w) and (n, c, h, w) as (n, c, h, w)."""
    if x.ndim not in (3, 4):
        raise Untranslatable(f"{x.ndim - 2} axes of pixels")
    return x[:, :, None] if x.ndim == 3 else x


def _pair(values: list[int] | None, default: int = 1) -> tuple[int, int]:
    values = list(values or [default, default])
    return (default, values[0]) if len(values) == 1 else (values[0], values[1])


def _window(attributes: Mapping[str, Any], x: Array, kernel: tuple[int, int]) -> dict[str, Any]:
    """kernel, stride, padding and dilation of an image op. Rounding the size up is padding more at the end."""
    stride, dilation = _pair(attributes.get("strides")), _pair(attributes.get("dilations"))
    given = list(attributes.get("pads", [0, 0, 0, 0]))
    before, after = ((0, given[0]), (0, given[1])) if len(given) == 2 else (tuple(given[:2]), tuple(given[2:]))
    auto, ceil = attributes.get("auto_pad", b"NOTSET"), attributes.get("ceil_mode", 0)
    padding = [0, 0, 0, 0]
    for axis in (0, 1):
        size, reach = x.shape[2 + axis], dilation[axis] * (kernel[axis] - 1) + 1
        start, end = before[axis], after[axis]
        if auto in (b"SAME_UPPER", b"SAME_LOWER"):
            total = max((-(-size // stride[axis]) - 1) * stride[axis] + reach - size, 0)
            start = (total + (auto == b"SAME_LOWER")) // 2
            end = total - start
        if ceil:
            count = -(-(size + start + end - reach) // stride[axis]) + 1
            if (count - 1) * stride[axis] >= size + start:
                count -= 1  # a window that starts in the padding behind the image is left out
            end = max(end, (count - 1) * stride[axis] + reach - size - start)
        padding[axis], padding[2 + axis] = start, end
    return {"kernel": kernel, "stride": stride, "padding": tuple(padding), "dilation": dilation}


def _node(op: ops.Op, *arguments: Any) -> Node:
    return Node("y", op, ("x0", "x1")[: max(1, op.arity)], *arguments)


def conv(attributes: Mapping[str, Any], inputs: list[Any], wanted: Array) -> Translated:
    x, w, b = (*inputs, None)[:3]
    _float32(x, w, b)
    x, w = _image(x), _image(w)
    op = ops.Conv2d(**_window(attributes, x, w.shape[2:]), out_channels=len(w), groups=attributes.get("group", 1))
    return Translated(_node(op, Dense.encode(w.reshape(len(w), -1)), b), (x,), _image(wanted))


def signed(values: Array, zero_point: Any) -> tuple[Array, int]:
    """int8 values and their zero point: uint8 minus 128 is the same grid."""
    zero = int(np.asarray(0 if zero_point is None else zero_point).reshape(-1)[0])
    if np.asarray(zero_point if zero_point is not None else 0).size > 1:
        raise Untranslatable("a zero point for each row")
    if values.dtype == np.uint8:
        return (values.astype(np.int16) - 128).astype(np.int8), zero - 128
    return values, zero


def int8_weight(w: Array, w_zero: Any, scale: Any, x_scale: Any, x_zero: int, output: Quant | None) -> Int8:
    """w (rows, ...) minus its zero point, as symmetric int8."""
    zeros = np.broadcast_to(np.asarray(0 if w_zero is None else w_zero, np.int16).reshape(-1), len(w))
    values = w.astype(np.int16) - zeros.reshape(-1, *(1,) * (w.ndim - 1))
    if np.abs(values).max() > 127:
        raise Untranslatable("a weight that is more than 127 from its zero point")
    matrix = values.astype(np.int8).reshape(len(w), -1)
    scales = np.broadcast_to(np.asarray(scale, np.float32).reshape(-1), len(w)).copy()
    return Int8(matrix, scales, Quant(float(np.asarray(x_scale).reshape(())), x_zero), output)


def conv_integer(attributes: Mapping[str, Any], inputs: list[Any], wanted: Array) -> Translated:
    """The sums themselves: all scales 1, float32 out, exact below 2**24."""
    x, w, x_zero, w_zero = (*inputs, None, None)[:4]
    x, x_zero = signed(x, x_zero)
    op = ops.Conv2d(**_window(attributes, x, w.shape[2:]), out_channels=len(w), groups=attributes.get("group", 1))
    return Translated(_node(op, int8_weight(w, w_zero, 1, 1, x_zero, None)), (x,), wanted.astype(np.float32))


def conv_quantized(attributes: Mapping[str, Any], inputs: list[Any], wanted: Array) -> Translated:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = inputs[:8]
    if len(inputs) > 8:
        raise Untranslatable("an int32 bias")
    (x, x_zero), (wanted, y_zero) = signed(x, x_zero), signed(wanted, y_zero)
    op = ops.Conv2d(**_window(attributes, x, w.shape[2:]), out_channels=len(w), groups=attributes.get("group", 1))
    weight = int8_weight(w, w_zero, w_scale, x_scale, x_zero, Quant(float(y_scale), y_zero))
    return Translated(_node(op, weight), (x,), wanted)


def matmul_integer(attributes: Mapping[str, Any], inputs: list[Any], wanted: Array) -> Translated:
    a, b, a_zero, b_zero = (*inputs, None, None)[:4]
    a, a_zero = signed(a, a_zero)
    weight = int8_weight(b.T, b_zero, 1, 1, a_zero, None)
    return Translated(_node(ops.Linear(len(b.T)), weight), (a,), wanted.astype(np.float32))


def matmul_quantized(attributes: Mapping[str, Any], inputs: list[Any], wanted: Array) -> Translated:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = inputs
    if b.ndim != 2:
        raise Untranslatable("a matrix for each image")
    (a, a_zero), (wanted, y_zero) = signed(a, a_zero), signed(wanted, y_zero)
    weight = int8_weight(b.T, b_zero, b_scale, a_scale, a_zero, Quant(float(np.asarray(y_scale).reshape(())), y_zero))
    return Translated(_node(ops.Linear(len(b.T)), weight), (a,), wanted)


def gemm(attributes: Mapping[str, Any], inputs: list[Any], wanted: Array) -> Translated:
    """alpha * a @ b + beta * c is a linear layer with weight (alpha * b).T, if c is one row."""
    a, b, c = (*inputs, None)[:3]
    _float32(a, b, c)
    if b.ndim != 2 or a.ndim != 2:
        raise Untranslatable("a matrix for each image")
    a, b = a.T if attributes.get("transA") else a, b.T if attributes.get("transB") else b
    if c is not None:
        if c.ndim == 2 and len(c) > 1:
            raise Untranslatable("a bias for each image")
        c = np.broadcast_to(c * np.float32(attributes.get("beta", 1)), (1, b.shape[1])).reshape(-1).copy()
    weight = Dense.encode((b * np.float32(attributes.get("alpha", 1))).T)
    return Translated(_node(ops.Linear(b.shape[1]), weight, c), (np.ascontiguousarray(a),), wanted)


def pool(kind: type[ops.MaxPool2d] | type[ops.AvgPool2d], whole: bool = False) -> Callable[..., Translated]:
    def translation(attributes: Mapping[str, Any], inputs: list[Any], wanted: Array) -> Translated:
        x = _image(inputs[0])
        kernel = x.shape[2:] if whole else _pair(attributes["kernel_shape"])
        given, dtype = _window(attributes, x, kernel), x.dtype
        if kind is ops.AvgPool2d:
            _float32(x)
            counted = bool(attributes.get("count_include_pad", 0))
            declared = _window({**attributes, "ceil_mode": 0}, x, kernel)
            if counted and given["padding"] != declared["padding"]:
                raise Untranslatable("padding that counts beside padding that does not")
            given["count_include_pad"] = counted
        wanted = _image(wanted)
        if dtype == np.uint8:
            (x, _), (wanted, _) = signed(x, 0), signed(wanted, 0)
        return Translated(_node(kind(**given)), (x,), wanted)

    return translation


def globalavgpool(attributes: Mapping[str, Any], inputs: list[Any], wanted: Array) -> Translated:
    return Translated(_node(ops.GlobalAvgPool()), (_image(inputs[0]),), _image(wanted))


def batchnorm(attributes: Mapping[str, Any], inputs: list[Any], wanted: Array) -> Translated:
    if attributes.get("training_mode"):
        raise Untranslatable("training")
    x, gamma, beta, mean, var = inputs
    planes = (*x.shape[:2], 1, -1)  # pixels have no places here
    op = ops.BatchNorm(attributes.get("epsilon", 1e-5))
    return Translated(
        _node(op, Dense.encode(gamma[:, None]), beta, mean, var), (x.reshape(planes),), wanted.reshape(planes)
    )


def relu(attributes: Mapping[str, Any], inputs: list[Any], wanted: Array) -> Translated:
    _float32(*inputs)
    return Translated(_node(ops.ReLU()), (inputs[0].reshape(1, -1),), wanted.reshape(1, -1))


def clip(attributes: Mapping[str, Any], inputs: list[Any], wanted: Array) -> Translated:
    x, low, high = (*inputs, None, None)[:3]
    _float32(x)
    low = attributes.get("min", -math.inf) if low is None else float(low)
    high = attributes.get("max", math.inf) if high is None else float(high)
    if (low, high) not in ((0, math.inf), (0, 6)):
        raise Untranslatable(f"limits {low:g} and {high:g}")
    op = ops.ReLU("relu6" if high == 6 else "relu")
    return Translated(_node(op), (x.reshape(1, -1),), wanted.reshape(1, -1))


def add(attributes: Mapping[str, Any], inputs: list[Any], wanted: Array) -> Translated:
    _float32(*inputs)
    if len(inputs) != 2 or inputs[0].shape != inputs[1].shape:
        raise Untranslatable(f"sum of {' and '.join(str(x.shape) for x in inputs)}")
    return Translated(_node(ops.Add()), tuple(x.reshape(1, -1) for x in inputs), wanted.reshape(1, -1))


def concat(attributes: Mapping[str, Any], inputs: list[Any], wanted: Array) -> Translated:
    """Along any axis: the axes before it are images, those behind it pixels."""
    axis = attributes.get("axis", 1) % wanted.ndim

    def image(x: Array) -> Array:
        return x.reshape(math.prod(x.shape[:axis]), x.shape[axis], 1, math.prod(x.shape[axis + 1 :]))

    node = Node("y", ops.Concat(), tuple(f"x{i}" for i in range(len(inputs))))
    return Translated(node, tuple(image(x) for x in inputs), image(wanted))


def flatten(attributes: Mapping[str, Any], inputs: list[Any], wanted: Array) -> Translated:
    """At any axis: what lies before it are images."""
    (x,) = inputs
    axis = attributes.get("axis", 1)
    axis += x.ndim if axis < 0 else 0
    behind = (*x.shape[axis:], 1, 1)
    return Translated(_node(ops.Flatten()), (x.reshape(math.prod(x.shape[:axis]), *behind[:2], -1),), wanted)


def softmax(attributes: Mapping[str, Any], inputs: list[Any], wanted: Array) -> Translated:
    """Along any axis. Before version 13 all axes behind it belonged to it."""
    (x,) = inputs
    _float32(x)
    if attributes["opset"] < 13:
        rows = (math.prod(x.shape[: attributes.get("axis", 1)]), -1)
        return Translated(_node(ops.Softmax()), (x.reshape(rows),), wanted.reshape(rows))
    axis = attributes.get("axis", -1)

    def rows_of(values: Array) -> Array:
        moved = np.moveaxis(values, axis, -1)
        return np.ascontiguousarray(moved.reshape(-1, moved.shape[-1]))

    return Translated(_node(ops.Softmax()), (rows_of(x),), rows_of(wanted))


def quantize(attributes: Mapping[str, Any], inputs: list[Any], wanted: Array) -> Translated:
    x, scale, zero_point = (*inputs, None)[:3]
    if wanted.dtype not in (np.uint8, np.int8):
        raise Untranslatable(f"{wanted.dtype}")
    if np.size(scale) > 1:
        raise Untranslatable("a scale for each channel")
    wanted, zero = signed(wanted, zero_point)
    return Translated(_node(ops.Quantize(float(scale), zero)), (x.reshape(1, -1),), wanted.reshape(1, -1))


TRANSLATIONS: dict[str, Callable[..., Translated]] = {
    "Conv": conv, "ConvInteger": conv_integer, "QLinearConv": conv_quantized, "MatMulInteger": matmul_integer,
    "QLinearMatMul": matmul_quantized, "Gemm": gemm, "MatMul": gemm, "MaxPool": pool(ops.MaxPool2d),
    "GlobalMaxPool": pool(ops.MaxPool2d, whole=True), "AveragePool": pool(ops.AvgPool2d),
    "GlobalAveragePool": globalavgpool, "BatchNormalization": batchnorm, "Relu": relu, "Clip": clip, "Add": add,
    "Sum": add, "Concat": concat, "Flatten": flatten, "Softmax": softmax, "QuantizeLinear": quantize,
}  # fmt: skip
