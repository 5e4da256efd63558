"""Is a whole network right? Every layer against its own bound, and what that adds up to at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refstack.compare import PlanCheck, check_plan, reference_error
from refstack.compression import compress
from refstack.compression.calibration import smooth_images
from refstack.models import zoo
from refstack.planner import plan
from refstack.reference import run


@dataclass(frozen=True, eq=False)
class NetworkCheck:
    """The verdict on a network.

    check               compare.PlanCheck: a verdict for every step, and the end-to-end error
    reference_error     the end-to-end error of the float32 reference on the same images: what float32 itself costs
    """

    check: PlanCheck
    reference_error: float


def verify_model(
    model: str, technique: str = "dense", backends: Sequence[str] = ("openmp", "blas", "numpy"), threads: int = 1,
    batch: int = 2,
) -> NetworkCheck:  # fmt: skip
    """Run a network on made-up images and hold every layer to its bound, on the inputs that it really got.

    Args        model   a shipped network's name, or the path of a checkpoint
    Raises      what zoo.load, compress and plan raise
    """
    graph = compress(zoo.load(model), technique)
    x = smooth_images(batch, seed=1)
    oracle = run(graph, x.astype(np.float64))
    return NetworkCheck(check_plan(plan(graph, batch, backends, threads), x, oracle), reference_error(graph, x, oracle))
