"""PyTorch: compiled with its weights frozen, or eager with channels last, whichever is faster; float32 arithmetic.

The module is built from the ONNX file, a PyTorch layer for every node.
"""

from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import nn


class Network(nn.Module):
    """Walks the nodes in order."""

    def __init__(self, graph: Any) -> None:
        super().__init__()
        constants = {each.name: torch.tensor(numpy_helper.to_array(each)) for each in graph.initializer}
        self.steps = [
            (node.op_type, [n for n in node.input if n not in constants], node.output[0]) for node in graph.node
        ]
        self.layers = nn.ModuleList(layer(node, constants) for node in graph.node)
        self.feed, self.fetch = graph.input[0].name, graph.output[0].name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = {self.feed: x}
        for (kind, inputs, output), each in zip(self.steps, self.layers, strict=True):
            read = [values[name] for name in inputs]
            values[output] = read[0] + read[1] if kind == "Add" else each(read[0])
        return values[self.fetch]


def layer(node: Any, constants: dict[str, torch.Tensor]) -> nn.Module:
    """What computes a node. ValueError for an operator that networks here have not."""
    facts = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    weights = [constants[name] for name in node.input if name in constants]
    pads = facts.get("pads", [0] * 4)
    padding, even = tuple(pads[:2]), pads[:2] == pads[2:]
    if node.op_type == "Conv" and even:
        w, *b = weights
        group, shape = facts["group"], (w.shape[1] * facts["group"], w.shape[0], tuple(w.shape[2:]))
        conv = nn.Conv2d(*shape, tuple(facts["strides"]), padding, tuple(facts["dilations"]), group, bool(b))
        return filled(conv, weights)
    if node.op_type == "Gemm":
        return filled(nn.Linear(weights[0].shape[1], weights[0].shape[0], len(weights) > 1), weights)
    if node.op_type == "MaxPool" and even:
        return nn.MaxPool2d(facts["kernel_shape"], facts["strides"], padding, facts["dilations"])
    if node.op_type == "Clip":
        return nn.Hardtanh(*(float(each) for each in weights))
    plain = {"Relu": nn.ReLU, "Flatten": nn.Flatten, "Add": nn.Identity, "Identity": nn.Identity}
    if node.op_type == "GlobalAveragePool":
        return nn.AdaptiveAvgPool2d(1)
    if node.op_type not in plain:
        raise ValueError(f"no layer for {node.op_type} with {facts}")
    return plain[node.op_type]()


def filled(module: nn.Module, weights: list[torch.Tensor]) -> nn.Module:
    """A layer with its weight and bias."""
    with torch.no_grad():
        for target, values in zip(module.parameters(), weights, strict=True):
            target.copy_(values)
    return module


def load(model: str, threads: int, setting: str) -> Callable[[Any], Any]:
    """The network on so many threads."""
    torch.set_num_threads(threads)
    torch.set_num_interop_threads(1)
    torch.set_float32_matmul_precision("highest")
    net: Callable[[Any], Any] = Network(onnx.load(model).graph).eval().to(memory_format=torch.channels_last)
    if setting == "compiled":
        from torch._inductor import config

        config.freezing = True
        net = torch.compile(net, options={"cpp_wrapper": True})

    def run(x: Any) -> Any:
        with torch.inference_mode():
            return net(torch.from_numpy(x).contiguous(memory_format=torch.channels_last)).numpy()

    return run
