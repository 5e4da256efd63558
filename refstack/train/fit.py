"""The training loop. The whole data set lies on the device as bytes; augmentation happens there, batch by batch.

    loss = mean over the batch of  -sum over classes of  target * log softmax(logits)
    target = 1 - ls + ls/classes for the label, ls/classes for the others        ls = label smoothing

Source  L. N. Smith, Super-Convergence, arXiv 1708.07120 (one-cycle); T. DeVries, G. W. Taylor, Cutout, arXiv 1708.04552
Next: technique.py, publish.py
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

from refstack.datasets import MEAN, STD
from refstack.errors import RefstackError, UsageError
from refstack.graph import Graph
from refstack.passes import prepare
from refstack.train.recipe import FineTune, Recipe
from refstack.train.technique import Technique
from refstack.train.torch_graph import TorchGraph, from_graph, to_graph

RECORD = True
"""Whether a step on a GPU is recorded and replayed."""

Step = Callable[[Tensor, Tensor], Tensor]
"""(images, labels) -> loss; the gradients are left in the parameters."""


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
    torch.manual_seed(recipe.seed)
    return to_graph(_descend(_draw(from_graph(graph)), images, labels, recipe, device, report, Technique(), None))


def tune(
    graph: Graph,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    recipe: FineTune,
    technique: Technique,
    teacher: Graph | None = None,
    device: Literal["cuda", "cpu"] = "cuda",
    report: Callable[[str], None] = print,
) -> Graph:
    """Train the network further under a technique, which takes weights, channels or bits away; arguments as for fit.

    Args
        technique   what is taken away, and when
        teacher     whose logits the network learns by; None: by the labels alone, whatever recipe.distill says
    Returns         Graph that computes what was trained, batch-norm not folded: zeros stand where weights were taken,
                    channels are gone, ternary matrices hold three values
    """
    torch.manual_seed(recipe.seed)
    module = technique.start(from_graph(graph))
    module = _descend(module, images, labels, recipe, device, report, technique, teacher)
    return to_graph(technique.end(module))


def _descend(
    module: TorchGraph,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    recipe: Recipe,
    device: Literal["cuda", "cpu"],
    report: Callable[[str], None],
    technique: Technique,
    teacher: Graph | None,
) -> TorchGraph:
    name = module.graph.name
    if not len(images):
        raise UsageError(f"{name}: no images to train on")
    torch.backends.cudnn.benchmark = technique.keeps_shapes
    generator = torch.Generator(device).manual_seed(recipe.seed)
    batch = min(recipe.batch, len(images))
    steps = len(images) // batch
    padded = torch.from_numpy(np.pad(images, ((0, 0), (0, 0), *((recipe.crop,) * 2,) * 2))).to(device)
    target = torch.tensor(labels, device=device)
    bfloat16 = recipe.precision == "bfloat16" and device != "cpu"
    distill = _teacher(teacher, recipe, device, bfloat16)
    inner = (slice(recipe.crop, padded.shape[i] - recipe.crop) for i in (2, 3))
    plain = padded[(slice(None), slice(None), *inner)]

    def sample(n: int) -> tuple[Tensor, Tensor]:
        """Some training images as they are, and their labels."""
        index = torch.randperm(len(images), generator=generator, device=device)[:n]
        return scale(plain[index].permute(0, 2, 3, 1)).permute(0, 3, 1, 2), target[index]

    def learner(module: TorchGraph) -> tuple[TorchGraph, torch.optim.SGD, Step]:
        """The module where it is to learn, what moves its weights, and what leaves gradients in them."""
        module = module.to(device).to(memory_format=torch.channels_last).train()

        def step(x: Tensor, labels: Tensor) -> Tensor:
            module.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=bfloat16, cache_enabled=False):
                y = module(x)
            loss = nn.functional.cross_entropy(y.float(), labels, label_smoothing=recipe.label_smoothing)
            if distill is not None:
                loss = distill(loss, x, y.float())
            loss.backward()
            return loss.detach()

        return module, _optimizer(module, recipe), step

    module, optimizer, step = learner(module)
    recorded = False
    start = time.monotonic()
    for epoch in range(1, recipe.epochs + 1):
        order = torch.randperm(len(images), generator=generator, device=device)
        total = torch.zeros((), device=device)
        for at in range(steps):
            done = ((epoch - 1) * steps + at) / (recipe.epochs * steps)
            with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
                changed = technique.before_step(module, done, sample)
            if changed is not module:
                module, optimizer, step = learner(changed)
                recorded = False
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * rate(done, recipe.warmup)
            index = order[at * batch : (at + 1) * batch]
            x, labels_at = augment(padded[index], recipe, generator), target[index]
            if RECORD and device == "cuda" and not recorded:
                step, recorded = _recorded(step, x, labels_at), True
            total += step(x, labels_at)
            optimizer.step()
            technique.after_step()
            if device == "cpu" and epoch == 1 and at == min(2, steps - 1):
                each = (time.monotonic() - start) / (at + 1)
                report(f"{name}: about {each * steps * recipe.epochs / 60:.1f} minutes in all on {device}")
        if not math.isfinite(mean := float(total) / steps):
            raise RefstackError(f"{name}: the loss is {mean} in epoch {epoch}; lower lr from {recipe.lr}")
        seconds = time.monotonic() - start
        report(f"{name}: epoch {epoch} of {recipe.epochs}, loss {mean:.4f}, {seconds:.0f} s")
    torch.backends.cudnn.benchmark = False
    return module


def _recorded(step: Step, x: Tensor, labels: Tensor) -> Step:
    """The step's kernels, recorded once as a CUDA graph and replayed: small layers take longer to launch than to run.

    A recording always reads the same memory and leaves the gradients at the same place.
    """
    x, labels = x.clone(memory_format=torch.preserve_format), labels.clone()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # what is chosen or allocated at the first runs must not be recorded
        for _ in range(3):
            step(x, labels)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(x, labels)

    def replay(new: Tensor, new_labels: Tensor) -> Tensor:
        x.copy_(new)
        labels.copy_(new_labels)
        graph.replay()
        return loss

    return replay


def _teacher(
    teacher: Graph | None, recipe: Recipe, device: str, bfloat16: bool
) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """FineTune's loss, given the cross-entropy, the images and the student's logits."""
    if teacher is None or not isinstance(recipe, FineTune) or not recipe.distill:
        return None
    dtype = torch.bfloat16 if bfloat16 else torch.float32
    module = from_graph(prepare(teacher)).to(device, dtype).to(memory_format=torch.channels_last).eval()
    share, heat = recipe.distill, recipe.temperature

    def loss(cross_entropy: Tensor, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = nn.functional.log_softmax(module(x.to(dtype)).float() / heat, 1)
        got = nn.functional.log_softmax(y / heat, 1)
        divergence = nn.functional.kl_div(got, wanted, reduction="batchmean", log_target=True)
        return (1 - share) * cross_entropy + share * heat**2 * divergence

    return loss


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
    cut = scale(padded[each, :, y[:, :, None], x[:, None, :]])  # (n, h, w, c)
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


def scale(u: Tensor) -> Tensor:
    """datasets.preprocess for uint8 (..., c): float32, the same shape."""
    mean, std = _scale(u.device)
    return (u.float() / 255 - mean) / std


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


def _optimizer(module: TorchGraph, recipe: Recipe) -> torch.optim.SGD:
    parameters = list(module.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(groups, recipe.lr, recipe.momentum, nesterov=nesterov, fused=parameters[0].is_cuda)
