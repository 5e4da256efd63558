"""A refstack graph as a PyTorch module, and back: one definition of each network, trained and judged elsewhere.

    from_graph: Graph -> TorchGraph        to_graph: TorchGraph -> Graph

Layers, parameters and wiring are the graph's; PyTorch computes. So it is also the independent witness for the
reference engine: two implementations, the same weights, the same logits.
Next: fit.py
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from refstack import ops
from refstack.errors import UsageError
from refstack.formats import Array, Dense
from refstack.graph import INPUT, Graph, Node

STATE = {"weight": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}  # ours -> PyTorch's


class TorchGraph(nn.Module):
    """Walks the nodes as reference/engine.py does; `layers` holds a PyTorch module for every node, by its name.

    `gates` may hold factors for the values of nodes, by name: by them the loss says what a channel is worth.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.gates: dict[str, Tensor] = {}
        shapes = graph.shapes()
        self.layers = nn.ModuleDict({node.name: _module(node, shapes[node.inputs[0]][1]) for node in graph})

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, h, w) -> (n, classes)."""
        values = {INPUT: x}
        for node in self.graph:
            inputs = [values[name] for name in node.inputs]
            y = inputs[0] + inputs[1] if isinstance(node.op, ops.Add) else self.layers[node.name](inputs[0])
            y = _activate(y, getattr(node.op, "activation", None))
            values[node.name] = y * self.gates[node.name] if node.name in self.gates else y
        return values[self.graph.output]


def from_graph(graph: Graph) -> TorchGraph:
    """A module with the graph's weights (decoded, whatever their format), biases and statistics.

    Raises      UsageError      a layer has no trainable form here
    """
    module = TorchGraph(graph)
    with torch.no_grad():
        for node in graph:
            state = module.layers[node.name].state_dict()
            for ours, array in _arrays(node).items():
                target = state[STATE[ours]]
                target.copy_(torch.tensor(array).reshape(target.shape))
    return module


def to_graph(module: TorchGraph) -> Graph:
    """The graph that the module was made from, with dense weights and the values the module holds now."""
    nodes = []
    for node in module.graph:
        state = module.layers[node.name].state_dict()
        new: dict[str, Any] = {}
        for ours in _arrays(node):
            values = state[STATE[ours]].detach().to("cpu", torch.float32).contiguous().numpy()
            new[ours] = Dense.encode(values.reshape(len(values), -1)) if ours == "weight" else values.copy()
        nodes.append(replace(node, **new))
    return module.graph.with_nodes(nodes)


def logits(module: TorchGraph, x: Array, batch: int = 500) -> Array:
    """The module's output for preprocessed images, in x's own precision: no autocast, no TF32.

    Args        x   float32 or float64 (n, c, h, w)
    Returns     (n, classes), same dtype
    """
    device = next(module.parameters()).device
    dtype = torch.from_numpy(np.zeros(0, x.dtype)).dtype
    # TF32 keeps 10 bits of each factor; the shipped figures are those of float32 arithmetic.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    module.eval().to(dtype)
    with torch.inference_mode():
        parts = [module(torch.from_numpy(x[i : i + batch]).to(device)).cpu() for i in range(0, len(x), batch)]
    module.float()
    return torch.cat(parts).numpy()


def _arrays(node: Node) -> dict[str, Array]:
    weight = None if node.weight is None else node.weight.decode()
    arrays = {"weight": weight, "bias": node.bias, "mean": node.mean, "var": node.var}
    return {name: array for name, array in arrays.items() if array is not None}


def _activate(y: Tensor, activation: ops.Activation | None) -> Tensor:
    if activation is None:
        return y
    return functional.relu6(y) if activation == "relu6" else functional.relu(y)


def _module(node: Node, channels: int) -> nn.Module:
    """The PyTorch layer of one node; activations and additions are done in forward."""
    op, bias = node.op, node.bias is not None
    if isinstance(op, ops.Conv2d | ops.MaxPool2d) and op.padding[:2] != op.padding[2:]:
        raise UsageError(f"{node.name}: padding {op.padding} differs on opposite sides, which PyTorch has no layer for")
    match op:
        case ops.Conv2d():
            return nn.Conv2d(
                channels, op.out_channels, op.kernel, op.stride, op.padding[:2], op.dilation, op.groups, bias
            )
        case ops.Linear():
            return nn.Linear(channels, op.out_features, bias)
        case ops.BatchNorm():
            return nn.BatchNorm2d(channels, op.eps)
        case ops.MaxPool2d():
            return nn.MaxPool2d(op.kernel, op.stride, op.padding[:2], op.dilation)
        case ops.GlobalAvgPool():
            return nn.AdaptiveAvgPool2d(1)
        case ops.Flatten():
            return nn.Flatten()
        case ops.ReLU() | ops.Add():
            return nn.Identity()
    raise UsageError(f"{node.name}: {op.name} cannot be trained; train the network before it is compressed")
