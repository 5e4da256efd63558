"""What a compression technique does while a network is trained: the hooks of the loop in fit.py, and when they act.

Next: pruning.py, then channels.py, ternary.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from refstack.compression.masks import ramp
from refstack.train.recipe import FineTune
from refstack.train.torch_graph import TorchGraph

Sample = Callable[[int], tuple[Tensor, Tensor]]
"""n -> that many training images as they are, float32 (n, c, h, w), and their labels."""


class Technique:
    """Takes nothing away: plain training."""

    keeps_shapes: ClassVar[bool] = True
    """Whether all steps work on tensors of the same shapes, so that the fastest algorithms are worth looking for."""

    def start(self, module: TorchGraph) -> TorchGraph:
        """Before the first step, on the CPU."""
        return module

    def before_step(self, module: TorchGraph, done: float, sample: Sample) -> TorchGraph:
        """`done` of the run is over. Another module than the one given replaces it, with a fresh optimiser."""
        return module

    def after_step(self) -> None:
        """The optimiser has moved the weights."""

    def end(self, module: TorchGraph) -> TorchGraph:
        """After the last step: every weight as it is to be used."""
        return module


class Gradual(Technique):
    """Reaches a level in `events` steps over the first `reach` of the run."""

    def __init__(self, recipe: FineTune, level: float) -> None:
        self.recipe, self.level = recipe, level
        self.event = -1

    def before_step(self, module: TorchGraph, done: float, sample: Sample) -> TorchGraph:
        last = self.recipe.events - 1
        event = last if done >= self.recipe.reach else min(last, int(done / self.recipe.reach * self.recipe.events))
        if event == self.event:
            return module
        self.event = event
        return self.reduce(module, ramp((event + 1) / self.recipe.events, self.level), sample)

    def reduce(self, module: TorchGraph, level: float, sample: Sample | None) -> TorchGraph:
        """Bring the module to this level; sample is None after the last step."""
        raise NotImplementedError

    def end(self, module: TorchGraph) -> TorchGraph:
        """A run of few steps may be over before the last event."""
        return module if self.event == self.recipe.events - 1 else self.reduce(module, self.level, None)
