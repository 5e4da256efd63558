"""What makes a checkpoint, beside the network and the images: every number of its training run.

Next: torch_graph.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from refstack.compression.masks import Block, Scope
from refstack.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent with Nesterov momentum under a one-cycle learning rate.

    The rate climbs from lr/25 to lr over the first `warmup` of all steps and falls along a cosine to nearly 0.
    """

    epochs: int = 200
    batch: int = 512
    lr: float = 0.4
    warmup: float = 0.2  # share of the steps
    momentum: float = 0.9
    weight_decay: float = 5e-4  # of matrices; biases and batch-norm vectors are not decayed
    label_smoothing: float = 0.1
    crop: int = 4  # pixels of zero padding around the image, out of which 32 x 32 are cut
    flip: bool = True
    cutout: int = 8  # side of the square that is blanked, 0 for none
    precision: Literal["bfloat16", "float32"] = "bfloat16"  # of the forward pass; the CPU always takes float32
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 1 if field.name in ("epochs", "batch", "events", "multiple", "temperature") else 0
            if isinstance(value, int | float) and not value >= least:
                raise UsageError(f"recipe: {field.name} is {value}, wanted at least {least}")
        if not 0 < self.warmup < 1:
            raise UsageError(f"recipe: warmup is {self.warmup}, wanted a share of the steps between 0 and 1")


@dataclass(frozen=True)
class FineTune(Recipe):
    """A recipe that starts from trained weights and takes something away on the way.

    What goes, goes in `events` steps over the first `reach` of all steps (compression/masks.py: ramp); the rest of the
    run the network learns to do without. The network as it was before is the teacher:

        loss = (1 - distill) * cross-entropy with the label
             + distill * temperature**2 * KL(softmax(teacher / temperature) || softmax(student / temperature))

    Source      Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015
    """

    epochs: int = 20
    lr: float = 0.1
    warmup: float = 0.1
    label_smoothing: float = 0.0
    distill: float = 0.9
    temperature: float = 4.0
    events: int = 16
    reach: float = 0.4
    scope: Scope = "lamp"  # weight pruning: what a weight's magnitude is held against
    block: Block = (1, 1)  # weight pruning: (rows, cols) that go together
    multiple: int = 8  # channel pruning: channels go so many at a time
    streams: bool = True  # channel pruning: channels that are added up go too, from all layers that write them
    weight_of_params: float = 0.5  # channel pruning: share of parameters in a channel's cost, the rest multiply-adds
    saliency_images: int = 4096  # channel pruning: by which Fisher's saliency is taken, each time
    threshold: float = 0.05  # ternary: share of the largest weight

    def changed(self, settings: Mapping[str, str]) -> FineTune:
        """The recipe with other values, given as words: {"lr": "0.05", "block": "[4, 4]"}."""
        values: dict[str, Any] = {}
        for name, word in settings.items():
            if name not in (names := [field.name for field in fields(self)]):
                raise UsageError(f"recipe: no setting {name!r}, wanted one of {', '.join(names)}")
            now = getattr(self, name)
            try:
                values[name] = word if isinstance(now, str) else type(now)(json.loads(word))
            except (ValueError, TypeError):
                raise UsageError(f"recipe: {name} is {word!r}, wanted something like {now!r}") from None
        return replace(self, **values)


RECIPES: dict[str, Recipe] = {"vgg16": Recipe(lr=0.2), "resnet18": Recipe(), "mobilenet": Recipe()}
"""What the shipped checkpoints were trained with."""

METHODS: dict[str, tuple[str, ...]] = {
    "weight": ("magnitude", "uniform", "random"),
    "block": ("magnitude", "random"),
    "channel": ("fisher", "l1", "random"),
    "ternary": ("ttq",),
    "int8": ("mse", "minmax"),
    "channel+ternary": ("fisher",),
    "channel+int8": ("fisher",),
    "weight+int8": ("magnitude",),
}
"""Techniques, and by which criteria; the first is meant, the others are controls. Of two techniques, the second comes
on top of what the first has made, and the criterion is the first's."""

FINE_TUNES: dict[str, FineTune] = {
    "weight": FineTune(),
    "block": FineTune(block=(16, 1)),
    "channel": FineTune(epochs=30, lr=0.05, events=6),
    "ternary": FineTune(),
}
"""Chosen on held-out training images (docs/training.md)."""

OWN: dict[tuple[str, str], dict[str, Any]] = {("resnet18", "channel"): {"weight_of_params": 0.25}}
"""What a network's recipe for a technique has of its own: (model, technique) -> settings."""


def recipe_of(model: str, technique: str) -> FineTune:
    """What a point is trained with; of a combination, its last step. int8 is not trained."""
    last = technique.split("+")[-1]
    return replace(FINE_TUNES.get(last, FineTune()), **OWN.get((model, last), {}))
