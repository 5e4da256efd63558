"""README's picture: top-1 against milliseconds, points that no other beats, and one that surprises. Needs Altair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt

Row = dict[str, Any]
NAMES = {"vgg16": "VGG-16", "resnet18": "ResNet-18", "mobilenet": "MobileNet"}
SURPRISE = ("resnet18", "ternary")
WIDTH, HEIGHT, FONT = 620, 380, 13
LEFT, RIGHT, LOW, HIGH = 0.23, 10.0, 87.4, 92.3
PLACES = (
    ("datum.left && !datum.lift", "right", -8, 0),
    ("datum.left && datum.lift < 0", "right", -6, -8),  # two of them side by side
    ("datum.left && datum.lift > 0", "right", -6, 10),
    ("!datum.left && datum.front", "left", 6, 12),  # under the line
    ("!datum.left && !datum.front", "left", 8, 0),
)
"""Which labels stand where: filter, alignment, distance from the point."""
THEMES = {
    "front": {"ground": "#ffffff", "text": "#1f2328", "line": "#8c959f", "grid": "#eaeef2",
              "colours": ["#b35900", "#0a58ca", "#1a7f37"]},
    "front-dark": {"ground": "#0d1117", "text": "#e6edf3", "line": "#7d8590", "grid": "#21262d",
                   "colours": ["#f0883e", "#58a6ff", "#3fb950"]},
}  # fmt: skip
"""File name -> colours, for pages that are light and pages that are dark."""


def draw(rows: Sequence[Row], folder: Path) -> None:
    """Write the picture in both themes."""
    for name, theme in THEMES.items():
        chart(rows, theme).save(folder / f"{name}.svg")


def front(rows: Sequence[Row]) -> list[Row]:
    """Rows that no other beats: none is as fast and as accurate, and better in one of the two. Fastest first."""
    found: list[Row] = []
    for row in sorted(rows, key=lambda each: (each["latency_p50_ms"], -each["top1"])):
        if not found or row["top1"] > found[-1]["top1"]:
            found.append(row)
    return found


def chart(rows: Sequence[Row], theme: Row) -> alt.LayerChart:
    """All networks in one frame; a label stands left of its point where another point is close on the right."""
    best, left = [id(row) for row in front(rows)], [row for row in rows if _crowded(row, rows)]
    points = [
        {
            "ms": row["latency_p50_ms"], "top1": row["top1"], "network": NAMES[row["model"]],
            "technique": "" if (row["model"], row["technique"]) == SURPRISE else row["technique"],
            "front": id(row) in best, "left": row in left, "lift": _lift(row, left),
        }
        for row in rows
    ]  # fmt: skip
    ticks = alt.Axis(values=[0.25, 0.5, 1, 2, 4, 8], format="~g")
    scale = alt.Scale(type="log", domain=[LEFT, RIGHT], nice=False)
    across = alt.X("ms:Q", title="milliseconds for one image, one thread", scale=scale, axis=ticks)
    up = alt.Y("top1:Q", title="top-1 %", scale=alt.Scale(domain=[LOW, HIGH], zero=False, nice=False))
    names = alt.Scale(domain=list(NAMES.values()), range=theme["colours"])
    colour = alt.Color("network:N", title=None, scale=names, legend=alt.Legend(orient="top", symbolType="circle"))
    base = alt.Chart(alt.InlineData(values=points)).encode(across, up)
    line = base.transform_filter("datum.front").mark_line(
        interpolate="step-after", color=theme["line"], strokeWidth=1.5
    )
    full = base.transform_filter("datum.front").mark_point(filled=True, size=80, opacity=1).encode(colour)
    open_ = base.transform_filter("!datum.front").mark_point(filled=False, size=60, opacity=1).encode(colour)
    labels = [
        base.transform_filter(where)
        .mark_text(align=side, dx=dx, dy=dy, fontSize=FONT)
        .encode(colour, text="technique:N")
        for where, side, dx, dy in PLACES
    ]
    layers = alt.layer(line, open_, full, *labels, _surprise(rows, theme, across, up))
    return (
        layers.properties(width=WIDTH, height=HEIGHT, background=theme["ground"], padding=12)
        .configure_view(stroke=None)
        .configure_axis(
            gridColor=theme["grid"], domainColor=theme["line"], tickColor=theme["line"], labelColor=theme["text"],
            titleColor=theme["text"], labelFontSize=FONT, titleFontSize=FONT, titleFontWeight="normal",
        )
        .configure_legend(labelColor=theme["text"], labelFontSize=FONT + 1)
    )  # fmt: skip


def _surprise(rows: Sequence[Row], theme: Row, across: alt.X, up: alt.Y) -> alt.LayerChart:
    """The point that one would not expect, in words: few bytes, most time."""
    row = next(row for row in rows if (row["model"], row["technique"]) == SURPRISE)
    dense = next(each for each in rows if (each["model"], each["technique"]) == (row["model"], "dense"))
    size, time = dense["stored_bytes"] / row["stored_bytes"], row["latency_p50_ms"] / dense["latency_p50_ms"]
    text = [f"{row['technique']}: 1/{size:.3g} of the bytes,", f"{time:.2f} times dense's time"]
    at = alt.Chart(alt.InlineData(values=[{"ms": row["latency_p50_ms"], "top1": row["top1"], "text": text}]))
    ring = at.mark_point(size=260, color=theme["text"], opacity=1, strokeWidth=1.5).encode(across, up)
    words = {
        "align": "right",
        "baseline": "top",
        "dx": 24,
        "dy": 14,
        "fontSize": FONT,
        "fontWeight": "bold",
        "lineHeight": 17,
    }
    return alt.layer(ring, at.mark_text(color=theme["text"], **words).encode(across, up, text="text:N"))


def _place(row: Row) -> tuple[float, float]:
    """Where its point stands, in pixels from the upper left."""
    x = WIDTH * math.log(row["latency_p50_ms"] / LEFT) / math.log(RIGHT / LEFT)
    return x, HEIGHT * (HIGH - row["top1"]) / (HIGH - LOW)


def _crowded(row: Row, rows: Sequence[Row]) -> bool:
    """Whether another point stands where a label on the right would."""
    x, y = _place(row)
    others = (_place(each) for each in rows if each is not row)
    return any(0 < right - x < 10 + 8 * len(row["technique"]) and abs(down - y) < FONT for right, down in others)


def _lift(row: Row, left: Sequence[Row]) -> int:
    """-1, 1: a label on the left goes up or down, where another one would lie on it; else 0."""
    x, y = _place(row)
    for other in left:
        right, down = _place(other)
        if other is not row and abs(right - x) < 10 + 8 * len(row["technique"]) and abs(down - y) < FONT:
            return -1 if y < down else 1
    return 0
