"""Arena offsets: nothing that is alive together overlaps, everything is aligned, and little is wasted."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refstack.memory import ALIGNMENT, Block, align, live_peak, offsets


@st.composite
def lifetimes(draw: st.DrawFn) -> list[Block]:
    count = draw(st.integers(0, 12))
    spans = [sorted((draw(st.integers(0, 8)), draw(st.integers(0, 8)))) for _ in range(count)]
    return [Block(draw(st.sampled_from((0, 1, 63, 64, 65, 100, 128, 4096))), *span) for span in spans]


def overlaps(blocks: Sequence[Block], placed: Sequence[int]) -> list[tuple[int, int, int]]:
    """(step, i, j): bytes that two live blocks both claim, found byte by cache line and step by step."""
    found = []
    for step in range(max((block.last for block in blocks), default=-1) + 1):
        owner: dict[int, int] = {}
        for i, (block, offset) in enumerate(zip(blocks, placed, strict=True)):
            if block.first <= step <= block.last:
                for line in range(offset // ALIGNMENT, -(-(offset + block.nbytes) // ALIGNMENT)):
                    if line in owner:
                        found.append((step, owner[line], i))
                    owner[line] = i
    return found


@given(lifetimes())
def test_offsets(blocks: list[Block]) -> None:
    placed, arena = offsets(blocks)
    assert len(placed) == len(blocks)
    assert all(offset >= 0 and offset % ALIGNMENT == 0 for offset in placed)
    assert not overlaps(blocks, placed)
    ends = [offset + align(block.nbytes) for offset, block in zip(placed, blocks, strict=True)]
    assert arena == max(ends, default=0)
    assert live_peak(blocks) <= arena <= sum(align(block.nbytes) for block in blocks)


@given(lifetimes())
def test_offsets_are_repeatable(blocks: list[Block]) -> None:
    assert offsets(blocks) == offsets(list(blocks))


def test_overlap_is_seen() -> None:
    """The check itself: two live blocks on one line, and the same two at different times."""
    assert overlaps([Block(64, 0, 1), Block(64, 1, 2)], [0, 0]) == [(1, 0, 1)]
    assert overlaps([Block(65, 0, 0), Block(64, 0, 0)], [0, 64]) == [(0, 0, 1)]
    assert not overlaps([Block(64, 0, 0), Block(64, 1, 1)], [0, 0])


@given(st.lists(st.integers(1, 5000), min_size=2, max_size=20))
def test_chains_waste_little(sizes: list[int]) -> None:
    """A chain of layers, each alive for two steps: at most half as much again as the peak of live bytes."""
    blocks = [Block(size, step, step + 1) for step, size in enumerate(sizes)]
    _, arena = offsets(blocks)
    assert arena <= 1.5 * live_peak(blocks)


def test_layers_of_one_size_need_two_buffers() -> None:
    blocks = [Block(1000, step, step + 1) for step in range(10)]
    placed, arena = offsets(blocks)
    assert arena == live_peak(blocks) == 2 * align(1000)
    assert placed == [0, 1024] * 5


def test_a_hole_is_used() -> None:
    """The small block fits between two that live on."""
    blocks = [Block(128, 0, 9), Block(128, 0, 1), Block(128, 0, 9), Block(64, 5, 6)]
    placed, arena = offsets(blocks)
    assert placed == [0, 128, 256, 128]
    assert arena == 384


def test_nothing() -> None:
    assert offsets([]) == ([], 0)
    assert live_peak([]) == 0
    assert offsets([Block(0, 0, 5)]) == ([0], 0)


@pytest.mark.parametrize(
    ("nbytes", "aligned"), [(0, 0), (1, 64), (63, 64), (64, 64), (65, 128), (2**40 + 1, 2**40 + 64)]
)
def test_align(nbytes: int, aligned: int) -> None:
    assert align(nbytes) == aligned
