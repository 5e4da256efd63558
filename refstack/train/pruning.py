"""Weight pruning while training: compression/masks.py on the device, the mask applied after every step.

    w <- w * mask       after each step of the optimiser, so that no weight grows back

Next: channels.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from refstack.compression.layers import count, is_depthwise, layers
from refstack.compression.masks import Block, Scope
from refstack.graph import Graph
from refstack.train.recipe import FineTune
from refstack.train.technique import Gradual, Sample
from refstack.train.torch_graph import TorchGraph


class WeightPruning(Gradual):
    """The smallest weights go, or weights drawn at random as a control.

    Args
        level   share of the weights of all layers but the first and depthwise ones (compression/magnitude.py)
        method  magnitude: the smallest by the recipe's scope; uniform: the smallest, and random: any, of every layer
                the same share
    """

    def __init__(
        self, recipe: FineTune, level: float, method: Literal["magnitude", "uniform", "random"] = "magnitude"
    ) -> None:
        super().__init__(recipe, level)
        self.method = method
        self.scope: Scope = recipe.scope if method == "magnitude" else "layer"
        self.weights: list[Tensor] = []
        self.masks: list[Tensor] = []
        self.drawn: dict[str, Tensor] = {}

    def reduce(self, module: TorchGraph, level: float, sample: Sample | None) -> TorchGraph:
        weights = {name: module.layers[name].weight.detach() for name in prunable(module.graph)}
        matrices = {name: weight.flatten(1) for name, weight in weights.items()}
        if self.method == "random":
            self.drawn = self.drawn or {name: torch.rand_like(matrix) for name, matrix in matrices.items()}
            matrices = self.drawn
        kept = masks(matrices, level, self.scope, self.recipe.block)
        self.weights = list(weights.values())
        # the weights' own memory layout, so that the product below is one pass
        self.masks = [torch.empty_like(w).copy_(kept[name].reshape(w.shape)) for name, w in weights.items()]
        self.after_step()
        return module

    def after_step(self) -> None:
        if self.weights:
            torch._foreach_mul_(self.weights, self.masks)


def prunable(graph: Graph) -> list[str]:
    """Layers that lose weights: all but the first and depthwise ones."""
    shapes = graph.shapes()
    return [node.name for node in layers(graph)[1:] if not is_depthwise(node, shapes)]


def masks(matrices: Mapping[str, Tensor], level: float, scope: Scope, block: Block) -> dict[str, Tensor]:
    """compression.masks.masks on the device that the matrices lie on."""
    scored = {name: _score(_block_sums(matrix.abs(), block), scope) for name, matrix in matrices.items()}
    if scope == "layer":
        kept = {name: _all_but_smallest(each, level) for name, each in scored.items()}
    else:
        joined = _all_but_smallest(torch.cat([each.flatten() for each in scored.values()]), level)
        parts = joined.split([each.numel() for each in scored.values()])
        kept = {name: part.reshape(scored[name].shape) for name, part in zip(scored, parts, strict=True)}
    return {name: _spread(kept[name], block, matrix.shape) for name, matrix in matrices.items()}


def _score(size: Tensor, scope: Scope) -> Tensor:
    size = size.double()
    if scope != "lamp":
        return size
    flat = size.flatten() ** 2
    order = torch.argsort(flat, stable=True)
    not_smaller = flat[order].flip(0).cumsum(0).flip(0)
    out = torch.empty_like(flat)
    out[order] = flat[order] / not_smaller.clamp(min=torch.finfo(torch.float64).tiny)
    return out.reshape(size.shape)


def _block_sums(size: Tensor, block: Block) -> Tensor:
    (rows, cols), (r, c) = size.shape, block
    padded = torch.nn.functional.pad(size, (0, -cols % c, 0, -rows % r))
    return padded.reshape(padded.shape[0] // r, r, padded.shape[1] // c, c).sum((1, 3))


def _spread(kept: Tensor, block: Block, shape: torch.Size) -> Tensor:
    return kept.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)[: shape[0], : shape[1]]


def _all_but_smallest(scores: Tensor, level: float) -> Tensor:
    mask = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[torch.argsort(scores.flatten(), stable=True)[: count(level, scores.numel())]] = False
    return mask.reshape(scores.shape)
