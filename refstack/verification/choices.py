"""The choices behind a problem, written down so that they can be made again, simpler.

Every choice is counted from its simplest option (0), so a smaller number is a simpler problem, and any list of numbers
draws a sound one. That is all that shrinking needs to know of ops, shapes and fills.
Next: harness.py
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from refstack.verification.cases import Choose, Seeded

T = TypeVar("T")


class Recorder:
    """Lets another choose and writes the choices down."""

    def __init__(self, choose: Choose) -> None:
        self.choose, self.trail = choose, list[int]()

    def integer(self, low: int, high: int) -> int:
        value = self.choose.integer(low, high)
        self.trail.append(value - low)
        return value

    def among(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]


class Replay:
    """Makes the choices of a trail, as far as they are still open; then the simplest."""

    def __init__(self, trail: Sequence[int]) -> None:
        self.rest = iter(trail)

    def integer(self, low: int, high: int) -> int:
        return min(low + next(self.rest, 0), high)

    def among(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]


class Small:
    """Random choices among the `most` + 1 simplest options of each."""

    def __init__(self, most: int, *seed: int) -> None:
        self.most, self.seeded = most, Seeded(most, *seed)

    def integer(self, low: int, high: int) -> int:
        return self.seeded.integer(low, min(high, low + self.most))

    def among(self, options: Sequence[T]) -> T:
        return options[self.integer(0, len(options) - 1)]


def simpler(trail: Sequence[int], start: int = 0) -> Iterator[tuple[int, tuple[int, ...]]]:
    """(position, trail with a smaller number there), the boldest step first, from position `start` on and around."""
    for i in (*range(start, len(trail)), *range(start)):
        value = trail[i]
        for smaller in dict.fromkeys((0, value // 2, value - 1)):
            if 0 <= smaller < value:
                yield i, (*trail[:i], smaller, *trail[i + 1 :])
