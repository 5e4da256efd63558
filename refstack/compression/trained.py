"""What a technique's name stands for: a trained point for the study's networks, compression in one shot otherwise.

Next: ../kernels.py
"""

from __future__ import annotations

from refstack.compression import ROUNDING, TECHNIQUES, compress
from refstack.compression.structure import build
from refstack.errors import UsageError
from refstack.graph import Graph
from refstack.models import MODELS, zoo
from refstack.models.points import Point, choose, hint


def under(name: str, graph: Graph, technique: str, one_shot: bool = False, seed: int = 0) -> tuple[Graph, Point | None]:
    """The network under a technique, and the trained point that it is or has the structure of.

    For a model of the study that is the point of this name (`weight`, `weight-0.8`, ..): its weights, or drawn ones
    (meta's technique is "drawn"). A technique of which no weights are shipped, and any on a file of one's own, is
    compressed here, in one shot.

    Args
        name        what `graph` was loaded by
        technique   of compression.TECHNIQUES, or a point's name without the model's; "+int8" or "+half" behind it
                    quantises that network here, unless there is a trained point of the whole name
        one_shot    compress here in any case
        seed        of drawn weights
    Raises          UsageError  neither a technique nor a point
    """
    if technique == "dense":
        own = graph.meta.get("point")
        return compress(graph, technique), None if own is None else zoo.point(str(own))
    known = zoo.points() if name in MODELS and (technique not in TECHNIQUES or not one_shot) else []
    found = choose(known, f"{name}/{technique}")
    if found is not None and found.file is not None:
        return zoo.load(found.name), found
    before, _, last = technique.rpartition("+")
    if found is None and before and last in ROUNDING:
        return compress(under(name, graph, before, one_shot, seed)[0], last), None
    if technique in TECHNIQUES or name not in MODELS:
        return compress(graph, technique), None
    if found is None:
        raise UsageError(f"unknown technique {technique!r}; {hint(known, f'{name}/{technique}')}")
    return build(found, seed), found
