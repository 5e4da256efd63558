"""The study's three networks, and where their weights come from."""

from collections.abc import Callable

from refstack.graph import Graph
from refstack.models.mobilenet import mobilenet
from refstack.models.resnet import resnet18
from refstack.models.vgg import vgg16

MODELS: dict[str, Callable[[], Graph]] = {"vgg16": vgg16, "resnet18": resnet18, "mobilenet": mobilenet}

__all__ = ["MODELS", "mobilenet", "resnet18", "vgg16"]
