"""refstack: deep network compression measured across the stack, with every timed output checked.

    import refstack as rs
    graph = rs.load("resnet18")                          a shipped network, or the path of a safetensors file
    small = rs.compress(graph, "weight", 0.9)
    plan = rs.plan(small, batch=1, backends=("openmp",), threads=1)
    logits = plan.run(x)                                 x float32 (1, 3, 32, 32)

Names are loaded when they are first used, so that importing refstack costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "load": "models.zoo",
    "save": "checkpoint",
    "compress": "compress",
    "plan": "plan",
    "Plan": "plan",
    "run": "reference",
    "Graph": "graph",
    "Node": "graph",
    "check_plan": "compare",
    "evaluate": "evaluate",
    "verify": "verify",
    "bench": "bench",
    "RefstackError": "errors",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from refstack.bench import bench
    from refstack.checkpoint import save
    from refstack.compare import check_plan
    from refstack.compress import compress
    from refstack.errors import RefstackError
    from refstack.evaluate import evaluate
    from refstack.graph import Graph, Node
    from refstack.models.zoo import load
    from refstack.plan import Plan, plan
    from refstack.reference import run
    from refstack.verify import verify


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'refstack' has no attribute {name!r}")
    return getattr(importlib.import_module(f"refstack.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
