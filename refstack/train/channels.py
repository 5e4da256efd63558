"""Channel pruning while training: at each event channels go for real, and training goes on with smaller tensors.

    g[n,k] = dL[n]/dz[n,k] at z = 1, where z[n,k] multiplies channel k of image n
           = sum over p,q of  a[n,k,p,q] * dL[n]/da[n,k,p,q]                the g of compression/fisher.py

So the saliency takes one backward pass through factors that are all 1. It is taken in inference mode, where images do
not mix in batch-norm, with the cross-entropy of the labels: a teacher's loss is flat where the student is the teacher.
Next: ternary.py
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from refstack.compression import fisher
from refstack.compression.channel import units
from refstack.errors import UsageError
from refstack.formats import Array
from refstack.graph import Graph
from refstack.ops import BatchNorm, ReLU
from refstack.passes import prepare, shrink_channels
from refstack.train.recipe import FineTune
from refstack.train.technique import Gradual, Sample
from refstack.train.torch_graph import TorchGraph, from_graph, to_graph

BATCH = 512


class ChannelPruning(Gradual):
    """Removes whole channels: by Fisher's saliency and cost, by the L1 norm of the filter, or at random.

    Args
        level   share of the network's parameters that goes
        method  fisher: from whichever layer is least missed for its cost; l1 and random: the same share of each layer
    """

    keeps_shapes: ClassVar[bool] = False

    def __init__(self, recipe: FineTune, level: float, method: Literal["fisher", "l1", "random"] = "fisher") -> None:
        super().__init__(recipe, level)
        self.method = method
        self.params = 0  # of the whole network
        self.rng = np.random.default_rng(recipe.seed)
        self.sample: Sample | None = None

    def start(self, module: TorchGraph) -> TorchGraph:
        self.params = module.graph.params
        return module

    def reduce(self, module: TorchGraph, level: float, sample: Sample | None) -> TorchGraph:
        self.sample = sample or self.sample
        graph, recipe = to_graph(module), self.recipe
        tied = units(graph, recipe.streams)
        if self.method == "fisher":
            if self.sample is None:
                raise UsageError("channel pruning: Fisher's saliency needs training images")
            images, labels = self.sample(recipe.saliency_images)
            scores = saliency(module, tied, zip(images.split(BATCH), labels.split(BATCH), strict=True))
            cost = {unit: fisher.costs(graph, tied[unit], recipe.multiple, recipe.weight_of_params) for unit in tied}
        elif self.method == "l1":
            folded = prepare(graph)
            scores, cost = fisher.ranks({unit: _l1(folded, tied[unit]) for unit in tied}), None
        else:
            scores, cost = fisher.ranks({unit: self.rng.random(fisher.width(graph, unit)) for unit in tied}), None
        keep = fisher.choose(graph, tied, scores, round((1 - level) * self.params), recipe.multiple, cost)
        return from_graph(shrink_channels(graph, keep))


def saliency(
    module: TorchGraph, tied: Mapping[str, Sequence[str]], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, Array]:
    """fisher.saliency of every unit's channels; the module is left in training mode.

    Args
        tied    channel.units: the layers of a unit share their factors, where they leave batch-norm and ReLU
        batches images float32 (n, c, h, w) and labels
    """
    values = {unit: [_value(module.graph, name) for name in names] for unit, names in tied.items()}
    shapes = module.graph.shapes()
    products: dict[str, list[Tensor]] = {unit: [] for unit in values}
    module.eval()
    for x, labels in batches:
        factors = {unit: x.new_ones((len(x), shapes[unit][1]), requires_grad=True) for unit in values}
        module.gates = {
            value: factors[unit].reshape(-1, *shapes[value][1:2], *(1 for _ in shapes[value][2:]))
            for unit, ends in values.items()
            for value in ends
        }
        loss = nn.functional.cross_entropy(module(x).float(), labels, reduction="sum")
        gradients = torch.autograd.grad(loss, list(factors.values()))
        for unit, gradient in zip(values, gradients, strict=True):
            products[unit].append(gradient.float())
    module.gates = {}
    module.train()
    return {unit: fisher.saliency(torch.cat(each).cpu().numpy()) for unit, each in products.items()}


def _value(graph: Graph, name: str) -> str:
    """The node that ends the layer's batch-norm and ReLU."""
    while len(readers := graph.consumers(name)) == 1 and isinstance(readers[0].op, BatchNorm | ReLU):
        name = readers[0].name
    return name


def _l1(graph: Graph, unit: Sequence[str]) -> Array:
    weights = [graph[name].weight for name in unit]
    return sum(np.abs(each.decode().astype(np.float64)).sum(axis=1) for each in weights if each is not None)
