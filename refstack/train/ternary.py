"""Trained ternary weights: compression/ternary.py's formulas as a PyTorch function, with gradients by hand.

Next: points.py
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from refstack.compression.layers import is_depthwise, layers
from refstack.compression.ternary import start
from refstack.graph import Graph
from refstack.train.recipe import FineTune
from refstack.train.technique import Technique
from refstack.train.torch_graph import TorchGraph


class TernaryTraining(Technique):
    """Every layer but the first, the last and depthwise ones has three values; what lies behind them is trained."""

    def __init__(self, recipe: FineTune) -> None:
        self.recipe = recipe

    def start(self, module: TorchGraph) -> TorchGraph:
        for name in ternary_layers(module.graph):
            layer = module.layers[name]
            latent = layer.weight.detach().flatten(1).numpy()
            parametrize.register_parametrization(
                layer, "weight", Scales(*start(latent, self.recipe.threshold), self.recipe.threshold)
            )
        return module

    def end(self, module: TorchGraph) -> TorchGraph:
        for name in ternary_layers(module.graph):
            parametrize.remove_parametrizations(module.layers[name], "weight")
        return module


class Scales(nn.Module):
    """The two scales of a layer: makes w' from its latent weights."""

    def __init__(self, unit: float, positive: float, negative: float, level: float) -> None:
        super().__init__()
        self.unit, self.level = unit, level
        self.positive, self.negative = (nn.Parameter(torch.tensor(each)) for each in (positive, negative))

    def forward(self, latent: Tensor) -> Tensor:
        return Ternarize.apply(latent, self.positive, self.negative, self.unit, self.level)


class Ternarize(torch.autograd.Function):
    """compression.ternary.quantise forward, compression.ternary.gradients backward."""

    @staticmethod
    def forward(ctx: Any, latent: Tensor, positive: Tensor, negative: Tensor, unit: float, level: float) -> Tensor:
        delta = level * latent.abs().amax()
        above, below = latent > delta, latent < -delta
        ctx.save_for_backward(above, below, positive, negative)
        ctx.unit = unit
        return unit * (positive * above - negative * below)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        above, below, positive, negative = ctx.saved_tensors
        factor = torch.where(above, positive, torch.where(below, negative, 1.0))
        sums = ctx.unit * (g * above).sum(), -ctx.unit * (g * below).sum()
        return factor * g, *sums, None, None


def ternary_layers(graph: Graph) -> list[str]:
    """Layers that become ternary: all but the first, the last, and depthwise ones, which hold nine weights a filter."""
    shapes = graph.shapes()
    return [node.name for node in layers(graph)[1:-1] if not is_depthwise(node, shapes)]
