"""Colour and shape of a name. No two of the first 56 names share both; either alone tells neighbours apart.

The colours lie between a white and a nearly black page: at least 3 : 1 against both (WCAG 2.2, 1.4.11), and in the
order of Okabe and Ito (2008), whose neighbours differ for the colour-blind.
"""

from __future__ import annotations

from collections.abc import Sequence

COLOURS = ("#2f80c9", "#d55e00", "#0b9268", "#b8629c", "#a87a00", "#2494bd", "#808080")
SHAPES = {
    "circle": "M0,-1A1,1,0,1,1,0,1A1,1,0,1,1,0,-1Z",
    "square": "M-.85,-.85H.85V.85H-.85Z",
    "triangle": "M0,-1.1L1,.8H-1Z",
    "diamond": "M0,-1.2L1,0L0,1.2L-1,0Z",
    "plus": "M-.35,-1H.35V-.35H1V.35H.35V1H-.35V.35H-1V-.35H-.35Z",
    "triangle down": "M0,1.1L1,-.8H-1Z",
    "cross": "M-.5,-1L0,-.5L.5,-1L1,-.5L.5,0L1,.5L.5,1L0,.5L-.5,1L-1,.5L-.5,0L-1,-.5Z",
    "hourglass": "M-1,-1H1L-1,1H1Z",
}
"""Outlines inside -1 .. 1, as SVG and Vega both draw them."""
DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3), (12, 4))
"""Of fronts, by number of threads."""


def colours(names: Sequence[str]) -> list[str]:
    """One for each name, in turn."""
    return [COLOURS[i % len(COLOURS)] for i in range(len(names))]


def shapes(names: Sequence[str]) -> list[str]:
    """Outlines, one for each name, in turn."""
    paths = list(SHAPES.values())
    return [paths[i % len(paths)] for i in range(len(names))]


def dashes(names: Sequence[object]) -> list[list[int]]:
    """Lengths of dash and gap, one for each name, in turn."""
    return [list(DASHES[i % len(DASHES)]) for i in range(len(names))]
