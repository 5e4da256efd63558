"""Small networks with every kind of wiring that the models have, and weights for which float32 is exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from refstack import ops
from refstack.compression import compress
from refstack.compression.layers import recode
from refstack.formats import Array, Bsr, Csr, Dense
from refstack.graph import Graph
from refstack.models.builder import Builder


def small(name: str = "small") -> Graph:
    """Stem, residual block with projection, depthwise block, concat, flatten, two linear layers."""
    net = Builder(name, (3, 8, 8)).conv("stem", 4, 3, padding=1).batchnorm().relu()
    x = net.last
    main = net.conv("mid", 5, 3, stride=2, padding=1).batchnorm().relu().conv("back", 6, 3, padding=1).batchnorm().last
    side = net.at(x).conv("proj", 6, 1, stride=2).batchnorm().last
    y = net.add("add", main, side).relu().last
    net.conv("dw", 6, 3, padding=1, groups=6).batchnorm().relu().conv("pw", 5, 1).batchnorm().relu()
    net.append("cat", ops.Concat(), net.last, y).maxpool("pool", 2)
    return net.flatten().linear("fc1", 7).relu().linear("fc2", 4).graph()


def chain(name: str = "chain") -> Graph:
    """A VGG in small: every channel may go, pooled and flattened int8 values reach a linear layer."""
    net = Builder(name, (3, 8, 8)).conv("a", 6, 3, padding=1).batchnorm().relu()
    net.conv("b", 8, 3, padding=1).batchnorm().relu().maxpool("pool", 2).conv("c", 8, 3, padding=1).batchnorm().relu()
    return net.maxpool("pool2", 4).flatten().linear("fc1", 10).relu().linear("fc2", 4).graph()


def integers(graph: Graph, seed: int = 0) -> Graph:
    """Weights for which every sum is an integer below 2**24: float32 is exact in any order.

    gamma / sqrt(var + eps) is 1, -1 or 2, since var + eps = 4 and gamma = 2, -2 or 4.
    """
    rng = np.random.default_rng(seed)
    nodes = []
    for node in graph:
        if node.weight is None:
            nodes.append(node)
            continue
        rows, cols = node.weight.shape
        vector = rng.integers(-2, 3, rows).astype(np.float32)
        if isinstance(node.op, ops.BatchNorm):
            gamma = rng.choice([2, -2, 4], (rows, 1))
            var = np.full(rows, 3.5, np.float32)
            new = replace(
                node, op=ops.BatchNorm(0.5), weight=Dense.encode(gamma), bias=vector, mean=vector[::-1].copy()
            )
            nodes.append(replace(new, var=var))
        else:
            bias = None if node.bias is None else vector
            nodes.append(replace(node, weight=Dense.encode(rng.integers(-1, 2, (rows, cols))), bias=bias))
    return graph.with_nodes(nodes)


def images(graph: Graph, n: int = 2, whole: bool = False, seed: int = 1) -> Array:
    """Input for `graph`: normal numbers, or integers from -3 to 3."""
    rng = np.random.default_rng(seed)
    shape = (n, *graph.input_shape)
    return rng.integers(-3, 4, shape).astype(np.float32) if whole else rng.standard_normal(shape).astype(np.float32)


def matrix(graph: Graph, name: str) -> np.ndarray:
    """A layer's weight, dense."""
    weight = graph[name].weight
    assert weight is not None
    return weight.decode()


def formats(graph: Graph) -> dict[str, str]:
    """Formats of convolutions and linear layers by name."""
    return {n.name: n.weight.format for n in graph if n.weight and isinstance(n.op, ops.Conv2d | ops.Linear)}


def like_trained(technique: str, source: Graph) -> Graph:
    """A network like a trained point's; for two techniques, one after the other."""
    if technique == "block":
        dense = compress(source, "weight", 0.0)
        names = [node.name for node in dense if isinstance(node.weight, Csr)]
        return recode(dense, {name: blocks(dense[name].weight.decode()) for name in names})
    first, _, then = technique.partition("+")
    graph = compress(source, first)
    return compress(graph, then) if then else graph


def blocks(matrix: Array) -> Bsr:
    """A third of the blocks of 16 x 1, whole ones."""
    kept = np.random.default_rng(0).random((-(-len(matrix) // 16), matrix.shape[1])) < 0.3
    return Bsr.encode(matrix * np.repeat(kept, 16, axis=0)[: len(matrix)])
