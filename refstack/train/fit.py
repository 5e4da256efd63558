"""The training loop. The whole data set lies on the device as bytes; augmentation happens there, batch by batch.

    loss = mean over the batch of  -sum over classes of  target * log softmax(logits)
    target = 1 - ls + ls/classes for the label, ls/classes for the others        ls = label smoothing

Source  L. N. Smith, Super-Convergence, arXiv 1708.07120 (one-cycle); T. DeVries, G. W. Taylor, Cutout, arXiv 1708.04552
Next: publish.py
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from refstack.datasets import MEAN, STD
from refstack.errors import RefstackError, UsageError
from refstack.graph import Graph
from refstack.train.recipe import Recipe
from refstack.train.torch_graph import TorchGraph, from_graph, to_graph


def fit(
    graph: Graph,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    recipe: Recipe,
    device: Literal["cuda", "cpu"] = "cuda",
    report: Callable[[str], None] = print,
) -> Graph:
    """Train the network from freshly drawn weights.

    Args
        graph   what to train; its values are not used, only its layers
        images  uint8 (n, 3, h, w)
        labels  int64 (n,)
        report  gets a line an epoch, and how long it will all take as soon as that is known
    Returns     the same graph with trained values
    Raises      RefstackError   the loss is not finite any more
                UsageError      there are no images
    Numerics    master weights float32, products bfloat16 (recipe.precision). The same seed gives the same order and
                augmentation, yet GPU sums run in no fixed order, so weights differ a little from run to run
    """
    if not len(images):
        raise UsageError(f"{graph.name}: no images to train on")
    torch.manual_seed(recipe.seed)
    torch.backends.cudnn.benchmark = True
    generator = torch.Generator(device).manual_seed(recipe.seed)
    module = _draw(from_graph(graph)).to(device).to(memory_format=torch.channels_last).train()
    batch = min(recipe.batch, len(images))
    steps = len(images) // batch
    optimizer, schedule = _optimizer(module, recipe, recipe.epochs * steps)
    padded = torch.from_numpy(np.pad(images, ((0, 0), (0, 0), *((recipe.crop,) * 2,) * 2))).to(device)
    target = torch.tensor(labels, device=device)
    bfloat16 = recipe.precision == "bfloat16" and device != "cpu"
    start = time.monotonic()
    for epoch in range(1, recipe.epochs + 1):
        order = torch.randperm(len(images), generator=generator, device=device)
        total = torch.zeros((), device=device)
        for step in range(steps):
            index = order[step * batch : (step + 1) * batch]
            x = augment(padded[index], recipe, generator)
            with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                y = module(x)
            loss = nn.functional.cross_entropy(y.float(), target[index], label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach()
            if device == "cpu" and epoch == 1 and step == min(2, steps - 1):
                each = (time.monotonic() - start) / (step + 1)
                report(f"{graph.name}: about {each * steps * recipe.epochs / 60:.1f} minutes in all on {device}")
        if not math.isfinite(mean := float(total) / steps):
            raise RefstackError(f"{graph.name}: the loss is {mean} in epoch {epoch}; lower lr from {recipe.lr}")
        seconds = time.monotonic() - start
        report(f"{graph.name}: epoch {epoch} of {recipe.epochs}, loss {mean:.4f}, {seconds:.0f} s")
    return to_graph(module)


def augment(padded: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Cut out a window, mirror it, blank a square, scale: one gather for the batch.

    Args        padded  uint8 (n, c, h + 2*crop, w + 2*crop)
    Returns     float32 (n, c, h, w), stored channels last
    """
    n, _, height, width = padded.shape
    h, w, device = height - 2 * recipe.crop, width - 2 * recipe.crop, padded.device

    def draw(stop: int) -> Tensor:
        return torch.randint(stop, (n, 1), generator=generator, device=device)

    rows, columns = torch.arange(h, device=device), torch.arange(w, device=device)
    mirrored = torch.where(draw(2) * recipe.flip == 1, columns.flip(0), columns)
    y, x = draw(2 * recipe.crop + 1) + rows, draw(2 * recipe.crop + 1) + mirrored
    each = torch.arange(n, device=device)[:, None, None]
    cut = padded[each, :, y[:, :, None], x[:, None, :]].float()  # (n, h, w, c)
    mean, std = _scale(device)
    cut = (cut / 255 - mean) / std
    if recipe.cutout:
        half = recipe.cutout // 2
        down, across = (rows - draw(h)).add_(half), (columns - draw(w)).add_(half)
        inside = [(0 <= d) & (d < recipe.cutout) for d in (down, across)]
        cut = cut.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[..., None], 0)
    return cut.permute(0, 3, 1, 2)


def rate(progress: float, warmup: float) -> float:
    """Learning rate over its peak: up a straight line from 1/25, down half a cosine to 0. Both in [0, 1)."""
    if progress < warmup:
        return 0.04 + 0.96 * progress / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (progress - warmup) / (1 - warmup))


@functools.cache
def _scale(device: torch.device) -> tuple[Tensor, Tensor]:
    """MEAN and STD, copied to the device once."""
    return torch.from_numpy(MEAN).to(device), torch.from_numpy(STD).to(device)


def _draw(module: TorchGraph) -> TorchGraph:
    """He's normal weights for convolutions and linear layers, the identity for batch-norm."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
    return module


def _optimizer(module: TorchGraph, recipe: Recipe, steps: int) -> tuple[torch.optim.SGD, LambdaLR]:
    parameters = list(module.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(
        groups, recipe.lr, recipe.momentum, nesterov=recipe.momentum > 0, fused=parameters[0].is_cuda
    )
    return optimizer, LambdaLR(optimizer, lambda step: rate(step / steps, recipe.warmup))
