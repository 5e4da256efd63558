"""LiteRT (TensorFlow Lite) with XNNPACK, its default on processors, in float32.

The flatbuffer is made by TensorFlow's own converter from a function that follows the ONNX file node by node, channels
last as TensorFlow has them; the input is given in that order.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

CHANNELS_LAST = True


def convert(model: str, folder: str) -> Path:
    """ONNX to a flatbuffer."""
    import onnx
    import tensorflow as tf
    from onnx import numpy_helper

    graph = onnx.load(model).graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    n, c, h, w = (each.dim_value for each in graph.input[0].type.tensor_type.shape.dim)

    @tf.function(input_signature=[tf.TensorSpec((n, h, w, c), tf.float32)])
    def network(x: Any) -> Any:
        values = {graph.input[0].name: x}
        for node in graph.node:
            read = [constants.get(name, values.get(name)) for name in node.input]
            values[node.output[0]] = step(node, read)
        return values[graph.output[0].name]

    path = Path(folder, "model.tflite")
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([network.get_concrete_function()]).convert())
    return path


def step(node: Any, read: list[Any]) -> Any:
    """One node on tensors (n, h, w, c). ValueError for an operator that networks here have not."""
    import onnx
    import tensorflow as tf

    facts = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    x, *rest = read
    if node.op_type == "Conv":
        w, *b = rest
        strides = facts["strides"]
        x, padding = padded(x, facts)
        if facts["group"] == 1:
            y = tf.nn.conv2d(x, w.transpose(2, 3, 1, 0), strides, padding, dilations=facts["dilations"])
        elif facts["group"] == x.shape[-1] == w.shape[0]:
            y = tf.nn.depthwise_conv2d(
                x, w.transpose(2, 3, 0, 1), [1, *strides, 1], padding, dilations=facts["dilations"]
            )
        else:
            raise ValueError(f"no operator for {facts['group']} groups")
        return tf.nn.bias_add(y, *b) if b else y
    if node.op_type == "Gemm":
        return sum(rest[1:], tf.matmul(x, rest[0], transpose_b=True))
    if node.op_type == "MaxPool" and not any(facts["pads"]):
        return tf.nn.max_pool2d(x, facts["kernel_shape"], facts["strides"], "VALID")
    if node.op_type == "GlobalAveragePool":
        return tf.reduce_mean(x, (1, 2), keepdims=True)
    if node.op_type == "Flatten":
        return tf.reshape(tf.transpose(x, (0, 3, 1, 2)), (x.shape[0], -1))
    if node.op_type == "Clip" and [float(each) for each in rest] == [0, 6]:
        return tf.nn.relu6(x)
    plain = {"Relu": tf.nn.relu, "Add": tf.add, "Identity": tf.identity}
    if node.op_type not in plain:
        raise ValueError(f"no operator for {node.op_type} with {facts}")
    return plain[node.op_type](*read)


def padded(x: Any, facts: dict[str, Any]) -> tuple[Any, str]:
    """The operator's own padding where that is the same, else zeros around the tensor, which XNNPACK fuses."""
    import tensorflow as tf

    top, left, bottom, right = facts["pads"]
    spread = [d * (k - 1) for d, k in zip(facts["dilations"], facts["kernel_shape"], strict=True)]
    if facts["strides"] == [1, 1] and [top + bottom, left + right] == spread and top == bottom and left == right:
        return x, "SAME"
    return tf.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))), "VALID"


def load(model: str, threads: int, setting: str) -> Callable[[Any], Any]:
    """An interpreter with its tensors allocated."""
    from ai_edge_litert.interpreter import Interpreter

    net = Interpreter(model, num_threads=threads)
    net.allocate_tensors()
    (feed,), (fetch,) = net.get_input_details(), net.get_output_details()

    def run(x: Any) -> Any:
        net.set_tensor(feed["index"], x)
        net.invoke()
        return net.get_tensor(fetch["index"])

    return run
