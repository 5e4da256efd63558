"""Arena offsets from lifetimes. Pure integers.

A block is alive from the step that writes it to the last step that reads it; blocks that are alive together must not
overlap. Blocks are placed one after the other, each at the lowest free offset; which comes first decides how much is
wasted, so two orders are tried. On the study's networks one of them meets the peak of live bytes: no arena is smaller.
Source      Pisarchyk, Lee: Efficient Memory Management for Deep Neural Net Inference, arXiv:2001.03288, 2020
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

ALIGNMENT = 64
"""Bytes: one cache line, and the widest vector."""


@dataclass(frozen=True)
class Block:
    """`nbytes` alive from step `first` to step `last`, both included."""

    nbytes: int
    first: int
    last: int


def align(nbytes: int) -> int:
    """The next multiple of ALIGNMENT."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def offsets(blocks: Sequence[Block]) -> tuple[list[int], int]:
    """An offset for every block, and the bytes of the arena.

    Cost        quadratic in the number of blocks
    """
    steps = range(max((block.last for block in blocks), default=-1) + 1)
    live = [sum(align(block.nbytes) for block in blocks if block.first <= step <= block.last) for step in steps]
    keys: tuple[Callable[[Block], tuple[int, ...]], ...] = (
        lambda block: (-block.nbytes, block.first),  # largest first
        lambda block: (-max(live[block.first : block.last + 1]), -block.nbytes, block.first),  # fullest step first
    )
    tried = (_placed(blocks, sorted(range(len(blocks)), key=lambda i: key(blocks[i]))) for key in keys)
    return min(tried, key=lambda each: each[1])


def _placed(blocks: Sequence[Block], order: Sequence[int]) -> tuple[list[int], int]:
    """Each block in turn at the lowest offset that is free while it lives."""
    placed: list[tuple[int, int, Block]] = []  # offset, end, block
    result = [0] * len(blocks)
    for index in order:
        block = blocks[index]
        size, offset = align(block.nbytes), 0
        for start, end, other in sorted(placed, key=lambda entry: entry[:2]):
            overlaps = other.first <= block.last and block.first <= other.last
            if overlaps and start < offset + size and offset < end:
                offset = end
        placed.append((offset, offset + size, block))
        result[index] = offset
    return result, max((end for _, end, _ in placed), default=0)


def live_peak(blocks: Sequence[Block]) -> int:
    """Most bytes alive at one step: no arena can be smaller."""
    steps = range(max((block.last for block in blocks), default=-1) + 1)
    return max((sum(align(b.nbytes) for b in blocks if b.first <= step <= b.last) for step in steps), default=0)
