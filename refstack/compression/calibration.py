"""Images that show a network what values to expect, and what one-shot compression may learn from them.

Next: magnitude.py
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from refstack.datasets import preprocess
from refstack.errors import ShapeError, UsageError
from refstack.formats import Array
from refstack.graph import INPUT, Graph, Node
from refstack.ops import BatchNorm
from refstack.reference import layer

IMAGES = 32
BATCH = 16


def smooth_images(n: int = IMAGES, seed: int = 0) -> Array:
    """Made-up preprocessed images, float32 (n, 3, 32, 32): a 5 x 5 grid of random colours, blended linearly."""
    grid = np.random.default_rng(seed).integers(0, 256, (n, 3, 5, 5))
    for axis in (2, 3):
        low, high = (np.repeat(np.take(grid, range(i, i + 4), axis), 8, axis) for i in (0, 1))
        step = np.tile(np.arange(8), 4).reshape((-1, 1) if axis == 2 else (1, -1))
        grid = (low * (8 - step) + high * step) // 8
    return preprocess(grid.astype(np.uint8))


def check_images(graph: Graph, images: Array) -> Array:
    """`images` as they are; ShapeError unless they are finite float32 (n, c, h, w) that the network takes."""
    images = np.asarray(images)
    if images.dtype != np.float32 or images.shape[1:] != graph.input_shape or not len(images):
        wanted = f"float32 (n, {', '.join(map(str, graph.input_shape))})"
        raise ShapeError(f"{graph.name}: calibration images are {images.dtype} {images.shape}, wanted {wanted}")
    if not np.isfinite(images).all():
        raise UsageError(f"{graph.name}: calibration images hold values that are not finite")
    return images


def reestimate(graph: Graph, images: Array | None) -> Graph:
    """Batch-norm statistics of these images: what one-shot compression shifted is centred and scaled again.

        mean[c] = mean over n,h,w of x[n,c,h,w]      var[c] = mean of (x - mean[c])**2      layer after layer

    Args        images  float32 (n, c, h, w); None leaves the graph as it is
    Raises      UsageError the graph has no batch-norm left
    Cost        one inference of n images
    """
    if images is None:
        return graph
    if not any(isinstance(node.op, BatchNorm) for node in graph):
        raise UsageError(
            f"{graph.name}: no batch-norm is left to be calibrated; compress the network as it was trained"
        )
    values = {INPUT: check_images(graph, images)}
    nodes = []
    for node, done in last_readers(graph):
        if isinstance(node.op, BatchNorm):
            x = values[node.inputs[0]].astype(np.float64)
            node = replace(node, mean=x.mean((0, 2, 3)).astype(np.float32), var=x.var((0, 2, 3)).astype(np.float32))
        values[node.name] = compute(node, values)
        nodes.append(node)
        for name in done:
            del values[name]
    return graph.with_nodes(nodes)


def compute(node: Node, values: Mapping[str, Array]) -> Array:
    """The node's output for all images, BATCH of them at a time: unfolded windows take much memory."""
    inputs = [values[name] for name in node.inputs]
    starts = range(0, len(inputs[0]), BATCH)
    return np.concatenate([layer(node, *(x[start : start + BATCH] for x in inputs)) for start in starts])


def last_readers(graph: Graph) -> Iterator[tuple[Node, list[str]]]:
    """Every node with the values that nobody reads after it."""
    last = {name: node.name for node in graph for name in node.inputs}
    for node in graph:
        yield node, [name for name in dict.fromkeys(node.inputs) if last[name] == node.name]
