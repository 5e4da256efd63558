"""Half precision: every weight stored in 16 bits, arithmetic in float32.

    w' = float16(w)

Next: quantize.py
"""

from __future__ import annotations

from refstack.compression.layers import recode
from refstack.formats import Half
from refstack.graph import Graph
from refstack.passes import prepare


def halve(graph: Graph) -> Graph:
    """Weights of all convolutions and linear layers in float16; biases stay float32.

    Returns     Graph, folded and fused
    Raises      FormatError     a folded weight that float16 cannot hold
    """
    return recode(prepare(graph), Half)
