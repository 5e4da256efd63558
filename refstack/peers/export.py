"""The model that peers read, and how far off they may be.

Peers get what is best for them: dense float32 whatever the format (ONNX has no other), batch-norm folded, the batch
fixed. Their logits are held to the float64 reference's in root mean square:

    float networks      4 * 32 times the error that the float32 reference makes on the same images
    int8 networks       4 times the error that rounding values to 8 bits makes (of more values in one form)

4 is what another order of summation may lose, or values that were rounded apart; 32 what Winograd's transforms may
(compare.py). Half precision or TF32 is off by 450 times the float32 error and more (docs/peers.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from refstack import checkpoint
from refstack.compare import WORSE, WORSE_BY
from refstack.contract import U
from refstack.errors import BackendUnavailable
from refstack.formats import Array, Dense, Int8
from refstack.graph import INPUT, Graph, Node
from refstack.ops import Quantize
from refstack.passes import prepare
from refstack.reference import run

ALLOWED = WORSE * WORSE_BY["winograd4"]


@dataclass(frozen=True)
class Model:
    """One network for the peers: ONNX files by form, root mean square error allowed, whether it computes in int8."""

    paths: dict[str, Path]
    limit: float
    integers: bool


def export(files: Mapping[str, str]) -> Model:
    """Write a network as peers get it, beside its file.

    Args        files   of one artifact: graph (.safetensors), input, oracle (.npy)
    Raises      BackendUnavailable  no onnx here        FormatError     ONNX cannot hold it
    """
    try:
        from refstack import onnx_graph
        from refstack.peers.qdq import Form, additions, rounded
    except ImportError as error:
        raise BackendUnavailable(f'onnx cannot be imported ({error}): pip install "refstack-engine[peers]"') from None
    graph = checkpoint.load(files["graph"])
    x, oracle = (np.load(files[name], allow_pickle=False) for name in ("input", "oracle"))
    integers = any(isinstance(node.weight, Int8) for node in graph)
    plain = unrounded(graph)
    if integers:
        exact, further = x.astype(np.float64), additions(graph, x)
        limit = WORSE * max(rms(other - oracle) for other in (run(plain, exact), rounded(graph, exact, further)))
        forms = {"": Form({}), "int8 additions": Form(further)}
        models = {
            name: onnx_graph.network(graph, len(x), form) for name, form in forms.items() if form.further or not name
        }
    else:
        limit = ALLOWED * float32_error(plain, x, oracle)
        models = {"": onnx_graph.network(prepare(plain), len(x))}
    paths = {}
    for i, (form, model) in enumerate(models.items()):
        paths[form] = Path(files["graph"]).with_suffix(f".{i}.onnx")
        paths[form].write_bytes(model.SerializeToString())
    return Model(paths, limit, integers)


def unrounded(graph: Graph) -> Graph:
    """The same network with dense float32 weights, and without the steps that round values to int8."""
    renamed = {INPUT: INPUT}
    nodes: list[Node] = []
    for node in graph:
        inputs = tuple(renamed[name] for name in node.inputs)
        renamed[node.name] = inputs[0] if isinstance(node.op, Quantize) else node.name
        if not isinstance(node.op, Quantize):
            weight = node.weight and Dense.encode(node.weight.decode())
            nodes.append(replace(node, inputs=inputs, weight=weight))
    return graph.with_nodes(nodes)


def float32_error(graph: Graph, x: Array, oracle: Array) -> float:
    """What float32 itself loses, one rounding of the logits at least."""
    return max(rms(run(graph, x) - oracle), U * rms(oracle))


def rms(values: Array) -> float:
    """Root of the mean of squares, in float64."""
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))
