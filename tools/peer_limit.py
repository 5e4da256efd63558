"""How far off may a peer's float32 logits be, and how far off is what must not pass? The table of docs/peers.md.

    python tools/peer_limit.py [--batch 1] [MODEL ...]

In units of the error that the float32 reference makes: the limit, and the errors of networks whose weights, or weights
and every layer's inputs, are rounded to fewer bits. All but the rounding is float64.
"""

import argparse
from dataclasses import replace

import numpy as np

import refstack as rs
from refstack.benchmark import artifacts
from refstack.datasets import preprocess
from refstack.formats import Array, Dense
from refstack.graph import INPUT, Graph
from refstack.models import MODELS
from refstack.passes import prepare
from refstack.peers.export import ALLOWED, float32_error, rms
from refstack.reference import layer

BITS = {"half, TF32": 11, "bfloat16": 8}


def rounded(values: Array, bits: int) -> Array:
    """To so many significant bits, in float64."""
    mantissa, exponent = np.frexp(np.asarray(values, np.float64))
    return np.ldexp(np.rint(mantissa * 2**bits) / 2**bits, exponent)


def logits(graph: Graph, x: Array, bits: int, inputs: bool) -> Array:
    """The network's, with rounded weights and, if asked, rounded inputs of every layer."""
    values = {INPUT: x}
    for node in graph:
        if node.weight is not None:
            node = replace(node, weight=Dense.encode(rounded(node.weight.decode(), bits).astype(np.float32)))
        read = (values[name] for name in node.inputs)
        values[node.name] = layer(node, *(rounded(value, bits) if inputs else value for value in read))
    return values[graph.output]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    cases = [(name, bits, inputs) for name, bits in BITS.items() for inputs in (False, True)]
    titles = ["network", "float32 error", "limit", *(f"{n}: weights{' and inputs' * i}" for n, _, i in cases)]
    print("| " + " | ".join(titles) + " |\n|---" + "|--:" * (len(titles) - 1) + "|")
    for name in options.models:
        loaded = rs.load(name)
        graph, x = prepare(loaded), preprocess(artifacts.images(name, loaded, options.batch, 0)).astype(np.float64)
        oracle = rs.run(loaded, x)
        unit = float32_error(loaded, x.astype(np.float32), oracle)
        errors = [rms(logits(graph, x, bits, inputs) - oracle) / unit for _, bits, inputs in cases]
        print(f"| {name} | {unit:.1e} | {ALLOWED:.0f} | " + " | ".join(f"{error:,.0f}" for error in errors) + " |")
