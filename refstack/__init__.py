"""refstack: deep network compression measured across the stack, with every timed output checked.

    import refstack as rs
    graph = rs.load("resnet18")                          a shipped network, or the path of a safetensors file
    small = rs.compress(graph, "weight", 0.9)
    plan = rs.plan(small, batch=1, backends=("openmp",), threads=1)
    logits = plan.run(x)                                 x float32 (1, 3, 32, 32)

Names are imported when they are first used, so that `refstack --help` answers at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refstack.benchmark import bench
    from refstack.benchmark.choices import tuned
    from refstack.benchmark.tuning import tune
    from refstack.checkpoint import save
    from refstack.compare import check_plan
    from refstack.compression import compress
    from refstack.errors import RefstackError
    from refstack.evaluation import evaluate
    from refstack.exporter import export
    from refstack.graph import Graph, Node
    from refstack.models.zoo import load
    from refstack.planner import Plan, plan
    from refstack.reference import run
    from refstack.reporting import report
    from refstack.verification import verify

__version__ = "0.1.0"

__all__ = [
    "Graph", "Node", "Plan", "RefstackError", "bench", "check_plan", "compress",
    "evaluate", "export", "load", "plan", "report", "run", "save", "tune", "tuned", "verify",
]  # fmt: skip

_HOME = {
    "Graph": "graph",
    "Node": "graph",
    "Plan": "planner",
    "RefstackError": "errors",
    "bench": "benchmark",
    "check_plan": "compare",
    "compress": "compression",
    "evaluate": "evaluation",
    "export": "exporter",
    "load": "models.zoo",
    "plan": "planner",
    "report": "reporting",
    "run": "reference",
    "save": "checkpoint",
    "tune": "benchmark.tuning",
    "tuned": "benchmark.choices",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'refstack' has no attribute {name!r}")
    return getattr(importlib.import_module(f"refstack.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted((*__all__, "__version__"))
