"""Graph rewrites that leave the network's function as it is (fold, fuse), or remove channels for real (shrink).

prepare = fuse_relu after fold_batchnorm: what inference wants
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from refstack.errors import FormatError, ShapeError, UsageError
from refstack.formats import Array, Dense
from refstack.graph import INPUT, Graph, Node
from refstack.ops import Add, BatchNorm, Concat, Conv2d, Flatten, Linear, Op, ReLU, Shape


def prepare(graph: Graph) -> Graph:
    """Batch-norm folded into the convolutions, ReLU into what stands before it."""
    return fuse_relu(fold_batchnorm(graph))


def fold_batchnorm(graph: Graph) -> Graph:
    """Batch-norm after a convolution becomes the convolution's weights.

        w'[k] = a[k] * w[k]      b'[k] = beta[k] + a[k] * (b[k] - mean[k])      a = gamma / sqrt(var + eps)

    Only where nothing else reads the convolution, it has no activation of its own, and its weight is dense: in a
    ternary layer a row may not have a scale of its own.

    Returns     Graph whose convolutions keep their names; readers of the batch-norm read the convolution
    Numerics    computed in float64, rounded once: every weight within u = 2**-24 of exact, relative
    Source      Jacob et al.: Quantization and Training of Neural Networks ..., CVPR 2018, section 3.2
    """

    def fold(conv: Node, norm: Node) -> Node | None:
        if not isinstance(norm.op, BatchNorm) or not isinstance(conv.op, Conv2d) or conv.op.activation:
            return None
        if not isinstance(conv.weight, Dense):
            return None
        assert norm.weight is not None
        assert norm.mean is not None
        assert norm.var is not None
        a = norm.weight.decode()[:, 0] / np.sqrt(norm.var.astype(np.float64) + norm.op.eps)
        shift = (0 if conv.bias is None else conv.bias) - norm.mean.astype(np.float64)
        bias = (0 if norm.bias is None else norm.bias) + a * shift
        return replace(conv, weight=Dense.encode(a[:, None] * conv.weight.values), bias=bias.astype(np.float32))

    return _absorb(graph, fold)


def fuse_relu(graph: Graph) -> Graph:
    """ReLU that alone reads a convolution, linear layer or addition becomes its activation.  Bitwise the same."""

    def fuse(layer: Node, relu: Node) -> Node | None:
        op = layer.op
        if not isinstance(relu.op, ReLU) or not isinstance(op, Conv2d | Linear | Add) or op.activation:
            return None
        return replace(layer, op=replace(op, activation=relu.op.activation))

    return _absorb(graph, fuse)


def _absorb(graph: Graph, merge: Callable[[Node, Node], Node | None]) -> Graph:
    """Replace (layer, its only reader) by merge(layer, reader) wherever that gives a node.

    The merged node keeps the layer's name and stands where the reader stood, so that the last node stays the last.
    """
    readers: dict[str, int] = {}
    for node in graph:
        for name in node.inputs:
            readers[name] = readers.get(name, 0) + 1
    nodes: dict[str, Node] = {}
    renamed: dict[str, str] = {}
    for node in graph:
        node = replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        layer = nodes.get(node.inputs[0])
        merged = merge(layer, node) if layer and len(node.inputs) == 1 and readers[layer.name] == 1 else None
        if merged is not None:
            del nodes[merged.name]
            renamed[node.name] = merged.name
            readers[merged.name] = readers.get(node.name, 0)
            node = merged
        nodes[node.name] = node
    return graph.with_nodes(list(nodes.values()))


def shrink_channels(graph: Graph, keep: Mapping[str, Sequence[int] | Array]) -> Graph:
    """The network without the output channels that are not kept: smaller tensors, the same formulas.

    Follows the channels through every layer: batch-norm and depthwise convolutions lose the channels of their input,
    later layers the matching columns, flatten h*w features a channel. Both sides of an addition must lose the same.

    Args        keep    convolution or linear layer -> indices of its kept output channels, rising; others keep all
    Raises      UsageError no such layer or indices; ShapeError an addition, a group or the network's output would
                lose channels that it needs; FormatError a weight that shrinks is not dense
    """
    alive = kept_channels(graph, keep)
    shapes = graph.shapes()
    nodes = []
    for node in graph:
        channels = alive[node.inputs[0]]
        columns = _columns(node.op, channels, shapes[node.inputs[0]])
        nodes.append(_shrink(node, alive[node.name], columns, len(channels)))
    small = graph.with_nodes(nodes)
    small.check()
    return small


def kept_channels(graph: Graph, keep: Mapping[str, Sequence[int] | Array]) -> dict[str, Array]:
    """Which channels of the input and of every node's output are left when these are chosen; raises as shrink does."""
    shapes = graph.shapes()
    _check_keep(graph, keep, shapes)
    alive = {INPUT: np.arange(graph.input_shape[0])}
    for node in graph:
        inputs, sources = [alive[name] for name in node.inputs], [shapes[name] for name in node.inputs]
        alive[node.name] = _outputs(graph, node, inputs, sources, keep)
    if len(alive[graph.output]) != shapes[graph.output][1]:
        raise ShapeError(f"{graph.name}.{graph.output}: the network's output would lose channels; keep all of them")
    return alive


def depthwise(op: Op, channels: int) -> bool:
    """Whether `op` is a convolution whose every filter sees one channel."""
    return isinstance(op, Conv2d) and op.groups == channels > 1


def _check_keep(graph: Graph, keep: Mapping[str, Sequence[int] | Array], shapes: Mapping[str, Shape]) -> None:
    layers = {node.name for node in graph if isinstance(node.op, Conv2d | Linear)}
    for name, indices in keep.items():
        if name not in layers:
            raise UsageError(f"{graph.name}: {name!r} is no convolution or linear layer, its channels cannot be chosen")
        chosen = np.asarray(indices)
        rising = chosen.ndim == 1 and chosen.size and chosen.dtype.kind in "iu" and (np.diff(chosen) > 0).all()
        if not rising or chosen[0] < 0 or chosen[-1] >= shapes[name][1]:
            wanted = f"rising channel numbers from 0 to {shapes[name][1] - 1}, at least one"
            raise UsageError(f"{graph.name}.{name}: keep is {str(indices)[:60]}, wanted {wanted}")


def _outputs(
    graph: Graph, node: Node, inputs: list[Array], sources: list[Shape], keep: Mapping[str, Sequence[int] | Array]
) -> Array:
    """The output channels of `node` that stay."""
    where, op = f"{graph.name}.{node.name}", node.op
    if depthwise(op, sources[0][1]):
        each = op.out_channels // op.groups  # type: ignore[attr-defined]
        follows = (inputs[0][:, None] * each + np.arange(each)).ravel()
        if node.name in keep and not np.array_equal(keep[node.name], follows):
            raise ShapeError(f"{where}: a depthwise convolution keeps the channels of its input; choose those instead")
        return follows
    if isinstance(op, Conv2d | Linear):
        rows = op.out_channels if isinstance(op, Conv2d) else op.out_features
        kept = np.asarray(keep.get(node.name, np.arange(rows)))
        if isinstance(op, Conv2d) and op.groups > 1 and (len(kept) < rows or len(inputs[0]) < sources[0][1]):
            raise ShapeError(f"{where}: a convolution of {op.groups} groups cannot lose single channels")
        return kept
    if isinstance(op, Concat):
        starts = np.cumsum([0, *(shape[1] for shape in sources[:-1])])
        return np.concatenate([start + kept for start, kept in zip(starts, inputs, strict=True)])
    if isinstance(op, Add) and not np.array_equal(inputs[0], inputs[1]):
        raise ShapeError(
            f"{where}: its inputs {node.inputs} keep different channels ({len(inputs[0])} and {len(inputs[1])})"
        )
    return _columns(op, inputs[0], sources[0]) if isinstance(op, Flatten) else inputs[0]


def _columns(op: Op, kept: Array, source: Shape) -> Array:
    """The weight's columns, or flatten's features, that belong to these channels of the input."""
    each = math.prod(op.kernel) if isinstance(op, Conv2d) else math.prod(source[2:])
    return (kept[:, None] * each + np.arange(each)).ravel()


def _shrink(node: Node, rows: Array, columns: Array, channels: int) -> Node:
    """The node with these rows (and columns) of its weight."""
    weight, op = node.weight, node.op
    if weight is None:
        return node
    own = isinstance(op, BatchNorm) or (isinstance(op, Conv2d) and op.groups > 1)  # the columns of a row are its own
    if len(rows) == weight.shape[0] and (own or len(columns) == weight.shape[1]):
        return node
    if not isinstance(weight, Dense):
        raise FormatError(f"{node.name}: a {weight.format} weight cannot shrink; remove channels before encoding")
    if isinstance(op, Conv2d):
        op = replace(op, out_channels=len(rows), groups=channels if op.groups > 1 else 1)
    elif isinstance(op, Linear):
        op = replace(op, out_features=len(rows))
    matrix = weight.values[rows] if own else weight.values[rows][:, columns]
    bias, mean, var = (None if each is None else each[rows] for each in (node.bias, node.mean, node.var))
    return replace(node, op=op, weight=Dense.encode(matrix), bias=bias, mean=mean, var=var)
