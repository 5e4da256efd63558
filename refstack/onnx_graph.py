"""Layers and networks of refstack as ONNX models, and what others compute with them. Needs onnx (extra `onnx`).

Float layers become the operator of the same name, with the weight decoded to dense float32, be it sparse, ternary or
half; an activation becomes a node of its own.
int8 layers become ConvInteger, MatMulInteger or QLinearConv on uint8, which is int8 plus 128: on processors without
dot-product instructions ONNX Runtime may saturate uint8 times int8, never uint8 times uint8.
Next: exporter.py
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from refstack import __version__, ops
from refstack.errors import FormatError
from refstack.formats import Array, Int8
from refstack.graph import INPUT, Graph, Node

OPSET, IR = 19, 9
"""The first operator set whose AveragePool has dilations, and the file version of that time."""

OUTPUT = "output"
"""The name of a network's output, whatever its last layer is called; its input is called `input`."""

FACTS = ("model", "technique", "point", "level", "sha256")
"""What a network's meta says that a file repeats; sha256 is that of the checkpoint."""

MAX_BYTES = 2**31 - 1
"""What one protobuf file holds."""

TYPES = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8}

PLAIN = {
    ops.GlobalAvgPool: "GlobalAveragePool", ops.Flatten: "Flatten", ops.Add: "Add", ops.Concat: "Concat",
    ops.Softmax: "Softmax",
}  # fmt: skip


class Writer:
    """Nodes and constants of a model in the making."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, values: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values, order="C"), name))  # a scalar stays one
        return name

    def emit(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=f"{kind}:{output}", **attributes))
        return output

    def shifted(self, name: str, by: int, source: str, target: int, output: str) -> str:
        """An integer tensor plus `by` in another integer type."""
        wide = self.emit("Cast", [source], f"{name}:wide:{by}", to=TensorProto.INT32)
        moved = self.emit("Add", [wide, self.constant(f"{name}:by:{by}", np.int32(by))], f"{name}:moved:{by}")
        return self.emit("Cast", [moved], output, to=target)

    def activation(self, node: Node, source: str) -> str:
        """relu or relu6 of a float tensor as the node's value; the source must not be named like it."""
        word = getattr(node.op, "activation", None)
        if word == "relu":
            return self.emit("Relu", [source], node.name)
        limits = [self.constant(f"{node.name}:{limit}", np.float32(limit)) for limit in (0, 6)]
        return self.emit("Clip", [source, *limits], node.name)


def window(op: ops.Window) -> dict[str, Any]:
    """ONNX's attributes of a window."""
    return {"kernel_shape": op.kernel, "strides": op.stride, "pads": op.padding, "dilations": op.dilation}


def write(writer: Writer, node: Node) -> None:
    """One layer. Its value has the node's name."""
    if isinstance(node.weight, Int8):
        write_int8(writer, node, node.weight)
        return
    op, names = node.op, list(node.inputs)
    fused = getattr(op, "activation", None) is not None
    target = f"{node.name}:sum" if fused else node.name
    if isinstance(op, ops.Conv2d | ops.Linear):
        assert node.weight is not None
        matrix = node.weight.decode()
        if isinstance(op, ops.Conv2d):
            matrix = matrix.reshape(op.out_channels, -1, *op.kernel)
        names.append(writer.constant(f"{node.name}:w", matrix))
        if node.bias is not None:
            names.append(writer.constant(f"{node.name}:b", node.bias))
        if isinstance(op, ops.Conv2d):
            writer.emit("Conv", names, target, group=op.groups, **window(op))
        else:
            writer.emit("Gemm", names, target, transB=1)
    elif isinstance(op, ops.BatchNorm):
        assert node.weight is not None
        gamma = node.weight.decode()[:, 0]
        beta = np.zeros_like(gamma) if node.bias is None else node.bias
        arrays = {"gamma": gamma, "beta": beta, "mean": node.mean, "var": node.var}
        names += [writer.constant(f"{node.name}:{word}", values) for word, values in arrays.items()]
        writer.emit("BatchNormalization", names, target, epsilon=op.eps)
    elif isinstance(op, ops.ReLU):
        writer.activation(node, names[0])
        return
    elif isinstance(op, ops.MaxPool2d):
        writer.emit("MaxPool", names, target, **window(op))
    elif isinstance(op, ops.AvgPool2d):
        writer.emit("AveragePool", names, target, count_include_pad=int(op.count_include_pad), **window(op))
    elif isinstance(op, ops.Quantize):
        scale = writer.constant(f"{node.name}:scale", np.float32(op.scale))
        zero = writer.constant(f"{node.name}:zero", np.int8(op.zero_point))
        writer.emit("QuantizeLinear", [*names, scale, zero], target)
    elif type(op) not in PLAIN:
        raise FormatError(f"{node.name}: {op.name} has no ONNX operator, wanted a layer of refstack.ops.OPS")
    else:
        attributes = {"axis": 1} if isinstance(op, ops.Concat | ops.Softmax) else {}
        writer.emit(PLAIN[type(op)], names, target, **attributes)
    if fused:
        writer.activation(node, target)


def write_int8(writer: Writer, node: Node, weight: Int8) -> None:
    """float32(sum + bias) * unit, or QLinearConv; a linear layer that gives int8 is a convolution of one pixel."""
    op, name = node.op, node.name
    assert isinstance(op, ops.Conv2d | ops.Linear)
    x = writer.shifted(f"{name}:x", 128, node.inputs[0], TensorProto.UINT8, f"{name}:x")
    zero = writer.constant(f"{name}:zero", np.uint8(weight.input.zero_point + 128))
    middle = writer.constant(f"{name}:middle", np.uint8(128))
    values = (weight.values.astype(np.int16) + 128).astype(np.uint8)
    bias = weight.integer_bias(node.bias)
    pixels = (1, 1) if isinstance(op, ops.Conv2d) else ()
    if weight.output is None:
        if isinstance(op, ops.Conv2d):
            w = writer.constant(f"{name}:w", values.reshape(op.out_channels, -1, *op.kernel))
            acc = writer.emit("ConvInteger", [x, w, zero, middle], f"{name}:acc", group=op.groups, **window(op))
        else:
            acc = writer.emit("MatMulInteger", [x, writer.constant(f"{name}:w", values.T), zero, middle], f"{name}:acc")
        summed = writer.emit("Add", [acc, writer.constant(f"{name}:b", bias.reshape(-1, *pixels))], f"{name}:biased")
        real = writer.emit("Cast", [summed], f"{name}:real", to=TensorProto.FLOAT)
        unit = writer.constant(f"{name}:unit", weight.unit.reshape(-1, *pixels))
        scaled = writer.emit("Mul", [real, unit], f"{name}:sum" if op.activation else name)
        if op.activation:
            writer.activation(node, scaled)
        return
    window_, groups = (window(op), op.groups) if isinstance(op, ops.Conv2d) else ({"kernel_shape": (1, 1)}, 1)
    kernel = op.kernel if isinstance(op, ops.Conv2d) else (1, 1)
    if isinstance(op, ops.Linear):
        x = writer.emit("Unsqueeze", [x, writer.constant(f"{name}:axes", np.array([2, 3]))], f"{name}:image")
    arguments = {
        "xs": np.float32(weight.input.scale), "xz": np.uint8(weight.input.zero_point + 128),
        "w": values.reshape(len(values), -1, *kernel), "ws": weight.scale, "wz": np.full(len(values), 128, np.uint8),
        "ys": np.float32(weight.output.scale), "yz": np.uint8(weight.output.zero_point + 128), "b": bias,
    }  # fmt: skip
    constants = [writer.constant(f"{name}:{word}", array) for word, array in arguments.items()]
    y = writer.emit("QLinearConv", [x, *constants], f"{name}:y", group=groups, **window_)
    limits = [np.uint8(limit + 128) for limit in weight.limits(op.activation)]
    y = writer.emit("Clip", [y, *(writer.constant(f"{name}:l{i}", v) for i, v in enumerate(limits))], f"{name}:clipped")
    if isinstance(op, ops.Linear):
        y = writer.emit("Squeeze", [y, writer.constant(f"{name}:axes2", np.array([2, 3]))], f"{name}:vector")
    writer.shifted(f"{name}:out", -128, y, TensorProto.INT8, name)


Form = Callable[[Writer, Node], None]
Described = Mapping[str, tuple[Sequence[int | str], str]]
"""name -> (shape, float32 or int8); a word in a shape is a size that the caller chooses."""


def model(nodes: Iterable[Node], inputs: Described, outputs: Described, form: Form = write) -> onnx.ModelProto:
    """Nodes in order as one model. An output that no node gives is the last node's value.

    Args        form    writes a node into the model
    """
    writer, last = Writer(), ""
    values = set(inputs)
    for node in nodes:
        form(writer, node)
        values.add(last := node.name)
    for name in outputs:
        if name not in values:
            writer.emit("Identity", [last], name)

    def described(values: Described) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(name, TYPES[dtype], shape) for name, (shape, dtype) in values.items()]

    graph = helper.make_graph(writer.nodes, "refstack", described(inputs), described(outputs), writer.constants)
    written = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    written.producer_name, written.producer_version = "refstack", __version__
    return written


def network(graph: Graph, batch: int | None = None, form: Form = write) -> onnx.ModelProto:
    """A whole network, from `input` (batch, c, h, w) to `output`; without `batch` that size is the caller's.

    Raises      FormatError     more weights than an ONNX file holds, an op that ONNX has not, a layer before the last
                                that is called like the output
    """
    if any(node.name == OUTPUT for node in graph.nodes[:-1]):
        raise FormatError(f"{graph.name}: a layer before the last is called {OUTPUT!r}; rename it")
    if 4 * graph.params > MAX_BYTES:
        raise FormatError(
            f"{graph.name}: {graph.params} parameters are {4 * graph.params} bytes of float32, an ONNX file holds "
            f"{MAX_BYTES}; shrink it first (`refstack compress -t channel`)"
        )
    shapes, dtypes = graph.shapes(batch or 1), graph.dtypes()

    def described(name: str) -> tuple[Sequence[int | str], str]:
        return (batch or "batch", *shapes[name][1:]), np.dtype(dtypes[name]).name

    written = model(graph, {INPUT: described(INPUT)}, {OUTPUT: described(graph.output)}, form)
    facts = {"model": graph.name, **{key: graph.meta[key] for key in FACTS if graph.meta.get(key) is not None}}
    helper.set_model_props(written, {key: str(value) for key, value in facts.items()} | {"graph": graph.sha256()})
    return written


def watched(content: bytes, names: Iterable[str]) -> onnx.ModelProto:
    """A model as it stands in a file, proved sound by ONNX's checker, with inner values as outputs beside its own.

    Raises      FormatError     ONNX's checker refuses it
    """
    read = onnx.load_from_string(content)
    try:
        onnx.checker.check_model(read, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise FormatError(f"ONNX's checker refuses the model: {error}; other names of nodes may help") from None
    own = {each.name for each in read.graph.output}
    read.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in own)
    return read


def weight_of(model: onnx.ModelProto, node: Node) -> Array:
    """What a model holds as a layer's weight, in the form of `weight.decode()`, of int8 in that of `weight.values`."""
    (constant,) = (each for each in model.graph.initializer if each.name == f"{node.name}:w")
    held: Array = numpy_helper.to_array(constant)
    if not isinstance(node.weight, Int8):
        return held.reshape(len(held), -1)
    held = held.astype(np.int16) - 128
    return held.T if held.ndim == 2 else held.reshape(len(held), -1)


def run(model: onnx.ModelProto, inputs: Mapping[str, Array], threads: int = 1) -> dict[str, Array]:
    """What ONNX Runtime computes on the processor, by the names of the outputs."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors: it warns of constants that its own optimizer no longer needs
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def evaluate(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The same by ONNX's own reference, which is there wherever onnx is, and slow."""
    from onnx.reference import ReferenceEvaluator

    names = [output.name for output in model.graph.output]
    return dict(zip(names, ReferenceEvaluator(model).run(names, dict(inputs)), strict=True))
