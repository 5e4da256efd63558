"""Channel pruning while training: at each event channels go for real, and training goes on with smaller tensors.

    g[n,k] = dL[n]/dz[n,k] at z = 1, where z[n,k] multiplies channel k of image n
           = sum over p,q of  a[n,k,p,q] * dL[n]/da[n,k,p,q]                the g of compression/fisher.py

So the saliency takes one backward pass through factors that are all 1. It is taken in inference mode, where images do
not mix in batch-norm, with the cross-entropy of the labels: a teacher's loss is flat where the student is the teacher.
Next: ternary.py
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from refstack.compression import fisher
from refstack.compression.channel import prunable
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
        graph = to_graph(module)
        units, recipe = prunable(graph), self.recipe
        if self.method == "fisher":
            if self.sample is None:
                raise UsageError("channel pruning: Fisher's saliency needs training images")
            images, labels = self.sample(recipe.saliency_images)
            scores = saliency(module, units, zip(images.split(BATCH), labels.split(BATCH), strict=True))
            cost = {unit: fisher.costs(graph, unit, recipe.multiple, recipe.weight_of_params) for unit in units}
        elif self.method == "l1":
            folded = prepare(graph)
            scores, cost = fisher.ranks({unit: _l1(folded, unit) for unit in units}), None
        else:
            scores, cost = fisher.ranks({unit: self.rng.random(_width(graph, unit)) for unit in units}), None
        keep = fisher.choose(graph, scores, round((1 - level) * self.params), recipe.multiple, cost)
        return from_graph(shrink_channels(graph, keep))


def saliency(module: TorchGraph, units: Iterable[str], batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Array]:
    """fisher.saliency of every unit's channels; the module is left in training mode.

    Args
        units   layers whose channels are judged, where they leave batch-norm and ReLU
        batches images float32 (n, c, h, w) and labels
    """
    values = {unit: _value(module.graph, unit) for unit in units}
    shapes = module.graph.shapes()
    products: dict[str, list[Tensor]] = {unit: [] for unit in values}
    module.eval()
    for x, labels in batches:
        module.gates = {
            value: x.new_ones((len(x), *shapes[value][1:2], *(1 for _ in shapes[value][2:])), requires_grad=True)
            for value in values.values()
        }
        loss = nn.functional.cross_entropy(module(x).float(), labels, reduction="sum")
        gradients = torch.autograd.grad(loss, [module.gates[value] for value in values.values()])
        for unit, gradient in zip(values, gradients, strict=True):
            products[unit].append(gradient.flatten(1).float())
    module.gates = {}
    module.train()
    return {unit: fisher.saliency(torch.cat(each).cpu().numpy()) for unit, each in products.items()}


def _value(graph: Graph, unit: str) -> str:
    """The node that ends the unit's batch-norm and ReLU."""
    name = unit
    while len(readers := graph.consumers(name)) == 1 and isinstance(readers[0].op, BatchNorm | ReLU):
        name = readers[0].name
    return name


def _width(graph: Graph, unit: str) -> int:
    weight = graph[unit].weight
    assert weight is not None
    return weight.shape[0]


def _l1(graph: Graph, unit: str) -> Array:
    weight = graph[unit].weight
    assert weight is not None
    return np.abs(weight.decode().astype(np.float64)).sum(axis=1)
