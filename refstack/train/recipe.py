"""What makes a checkpoint, beside the network and the images: every number of its training run.

Next: torch_graph.py
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

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
            least = 1 if field.name in ("epochs", "batch") else 0
            if not isinstance(value, str) and not value >= least:
                raise UsageError(f"recipe: {field.name} is {value}, wanted at least {least}")
        if not 0 < self.warmup < 1:
            raise UsageError(f"recipe: warmup is {self.warmup}, wanted a share of the steps between 0 and 1")


RECIPES: dict[str, Recipe] = {"vgg16": Recipe(lr=0.2), "resnet18": Recipe(), "mobilenet": Recipe()}
"""What the shipped checkpoints were trained with."""
