"""A network, images and a recipe that train in a second."""

from __future__ import annotations

import numpy as np

from refstack.datasets import Dataset
from refstack.graph import Graph
from refstack.models import zoo
from refstack.models.builder import Builder
from refstack.train import FineTune

QUICK = FineTune(epochs=3, batch=16, lr=0.05, crop=1, cutout=2, events=4, multiple=2, saliency_images=32)


def tiny() -> Graph:
    """Residual, depthwise and linear layers in little, for 32 x 32 images; trained a bit by nobody."""
    net = Builder("tiny", (3, 32, 32)).conv("stem", 8, 3, stride=4, padding=1).batchnorm().relu()
    x = net.last
    main = net.conv("mid", 12, 3, padding=1).batchnorm().relu().conv("back", 8, 3, padding=1).batchnorm().last
    net.add("add", main, x).relu()
    net.conv("pw1", 16, 1).batchnorm().relu().conv("dw", 16, 3, padding=1, groups=16).batchnorm().relu()
    net.conv("pw2", 16, 1).batchnorm().relu()
    return zoo.draw(net.globalavgpool().flatten().linear("fc", 10).graph(), 3)


def pictures(n: int, side: int = 32, classes: int = 10) -> Dataset:
    """Shades of grey to tell apart."""
    labels = np.arange(n) % classes
    noise = np.random.default_rng(n).integers(0, 20, (n, 3, side, side))
    images = (noise + 235 // classes * labels[:, None, None, None]).astype(np.uint8)
    return Dataset(f"grey{n}", images, labels, f"{n}", "made up", tuple(str(i) for i in range(n)))
