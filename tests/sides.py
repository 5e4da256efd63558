"""An answer together with how far it may be from the true one, and who gives such answers: what relations compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from refstack.contract import bound
from refstack.formats import Array, Int8
from refstack.graph import Node

Inputs = tuple[Array, ...]
Prepared = Callable[..., Array]


@dataclass(frozen=True, eq=False)
class Side:
    """An answer and how far it may be from the true one."""

    y: Array
    limit: Array

    def at(self, change: Callable[[Array], Array]) -> Side:
        """Both moved alike."""
        return Side(change(self.y), change(self.limit))

    def exactly(self) -> Side:
        """The same answer, nothing allowed."""
        return Side(self.y, np.zeros_like(self.limit))

    def __mul__(self, factor: float) -> Side:
        return Side(self.y * factor, self.limit * abs(factor))

    def __add__(self, other: Side) -> Side:
        return Side(self.y + other.y, self.limit + other.limit)


class Runner:
    """Runs any layer.    prepare(node, inputs) gives a function on buffers of its own    exact: nothing is allowed"""

    def __init__(self, prepare: Callable[[Node, Inputs], Prepared], exact: bool) -> None:
        self.prepare, self.exact = prepare, exact

    def __call__(self, node: Node, *inputs: Array) -> Side:
        return self.side(node, inputs, self.prepare(node, inputs))

    def side(self, node: Node, inputs: Inputs, call: Prepared) -> Side:
        """An answer with its bound, in float64 so that both add up exactly."""
        y, algorithm = call(*inputs), getattr(call, "algorithm", "direct")
        exact = (self.exact and algorithm == "direct") or isinstance(node.weight, Int8)
        limit = np.zeros(()) if exact else bound(node, inputs, algorithm).limit
        return Side(y.astype(np.float64), np.broadcast_to(limit, y.shape))


def joined(sides: Sequence[Side], axis: int = 0) -> Side:
    """One after the other."""
    return Side(np.concatenate([s.y for s in sides], axis), np.concatenate([s.limit for s in sides], axis))
