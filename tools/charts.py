"""The figures of tools/curves.py: accuracy against weights left, against bytes, against multiply-adds. Needs Altair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
from curves import NAMES, PAPER, VAL, Group, dense

Row = dict[str, Any]
SCATTERED = ("ternary", "int8", "half", "channel+ternary", "channel+int8", "weight+int8")
"""Techniques whose points differ in no quantity that a curve could follow."""
TICKS = [1, 2, 5, 10, 20, 50, 100, 200, 500]
ORANGE, BLUE, GREEN, RED, PURPLE, BROWN, TEAL, GREY, BLACK = (
    "#e08214", "#2166ac", "#1b7837", "#b2182b", "#762a83", "#8c510a", "#35978f", "#878787", "#000000",
)  # fmt: skip


def draw(found: Sequence[Group], folder: Path) -> None:
    """Write every figure as SVG."""
    folder.mkdir(exist_ok=True)
    for name, chart in (
        ("accuracy-weights", weights_left(found)),
        ("accuracy-bytes", bytes_stored(found)),
        ("accuracy-macs", multiply_adds(found)),
    ):
        chart.configure(background="white").configure_view(stroke="#cccccc").save(folder / f"{name}.svg")


def row(group: Group, x: float, series: str) -> Row:
    """One mark, and its deviation where there are seeds."""
    spread = group.top1[VAL]
    off = spread.deviation
    ends = {} if off is None else {"low": spread.mean - off, "high": spread.mean + off}
    return {"x": x, "y": spread.mean, "series": series, **ends}


def weights_left(found: Sequence[Group]) -> alt.VConcatChart:
    """Weight pruning above, channel pruning below: the meant method, its controls, the paper."""
    methods = {
        "weight": {
            "magnitude": "refstack, by magnitude",
            "uniform": "refstack, by magnitude, all layers alike",
            "random": "refstack, at random",
        },
        "block": {"magnitude": "refstack, blocks of 16 x 1"},
        "channel": {
            "fisher": "refstack, by Fisher saliency",
            "l1": "refstack, by L1 norm",
            "random": "refstack, at random",
        },
    }
    colours = {
        "refstack, by magnitude": BLUE, "refstack, by Fisher saliency": BLUE, "refstack, blocks of 16 x 1": GREEN,
        "refstack, by magnitude, all layers alike": TEAL, "refstack, by L1 norm": PURPLE, "refstack, at random": ORANGE,
        "paper": BLACK,
    }  # fmt: skip
    lines = []
    for title, techniques in (("weight pruning", ("weight", "block")), ("channel pruning", ("channel",))):
        panels = []
        for model, name in NAMES.items():
            rows = [
                row(group, dense(model).weights / group.weights_left, methods[group.technique][group.method])
                for group in found
                if group.model == model and group.technique in techniques and group.level
            ]
            curve = PAPER[techniques[0]][model]
            rows += [{"x": 100 / (100 - x), "y": y, "series": "paper"} for x, y in curve if x < 100]
            panels.append(panel(rows, f"{name}, {title}", "weights before / weights left", colours, [70, 96], model))
        lines.append(alt.hconcat(*panels))
    return alt.vconcat(*lines).resolve_scale(color="shared")


def bytes_stored(found: Sequence[Group]) -> alt.HConcatChart:
    """Every technique at its meant method, against the size of the file's tensors."""
    colours = {
        "weight": BLUE, "block": GREEN, "channel": ORANGE, "ternary": RED, "int8": GREY, "half": "#bababa",
        "channel+ternary": PURPLE, "channel+int8": BROWN, "weight+int8": TEAL,
        "paper, channel": BLACK,
    }  # fmt: skip
    panels = []
    for model, name in NAMES.items():
        whole = dense(model).stored_bytes
        rows = [
            row(group, whole / group.stored_bytes, group.technique)
            for group in found
            if group.model == model and not group.control and group.method != "uniform"
        ]
        rows += [
            {"x": 100 / (100 - x), "y": y, "series": "paper, channel"} for x, y in PAPER["channel"][model] if x < 100
        ]
        panels.append(panel(rows, name, "float32 bytes / stored bytes", colours, [80, 96], model))
    return alt.hconcat(*panels).resolve_scale(color="shared")


def multiply_adds(found: Sequence[Group]) -> alt.HConcatChart:
    """What is left of the work where zeros and channels are left out."""
    colours = {
        "weight": BLUE, "weight, all layers alike": TEAL, "block": GREEN, "channel": ORANGE, "paper, weight": BLACK,
        "paper, channel": GREY,
    }  # fmt: skip
    panels = []
    for model, name in NAMES.items():
        whole = dense(model).macs
        rows = [
            row(group, group.macs / 1e6, group.technique + ", all layers alike" * (group.method == "uniform"))
            for group in found
            if group.model == model and not group.control and group.technique in colours
        ]
        rows += [{"x": whole * (100 - x) / 1e8, "y": y, "series": "paper, weight"} for x, y in PAPER["weight"][model]]
        rows += [
            {"x": each["macs"] / 1e6, "y": each["top1"], "series": "paper, channel"}
            for each in PAPER["channel_networks"][model]
        ]
        panels.append(panel(rows, name, "millions of multiply-adds, zeros left out", colours, [75, 96], model))
    return alt.hconcat(*panels).resolve_scale(color="shared")


def panel(
    rows: Sequence[Row], title: str, x: str, colours: dict[str, str], reach: list[float], model: str
) -> alt.LayerChart:
    """Curves with marks and deviations; the dense network as a line across. What is below the frame is cut off."""
    names = list(colours)
    base = alt.Chart(alt.InlineData(values=sorted(rows, key=lambda each: each["x"])))
    ticks = alt.Axis(values=TICKS, format="~g", grid=False)
    across = alt.X("x:Q", title=x, scale=alt.Scale(type="log", nice=False, padding=12), axis=ticks)
    scale = alt.Scale(domain=reach, zero=False, nice=False)
    up = alt.Y("y:Q", title="top-1 %", scale=scale)
    colour = alt.Color("series:N", title=None, scale=alt.Scale(domain=names, range=list(colours.values())))
    paper = "indexof(datum.series, 'paper') == 0"
    dash = alt.condition(paper, alt.value([4, 3]), alt.value([1, 0]))
    line = base.transform_filter({"field": "series", "oneOf": [each for each in names if each not in SCATTERED]})
    line = line.mark_line(clip=True, strokeWidth=1.5).encode(across, up, colour, strokeDash=dash)
    full = base.transform_filter(f"!({paper})").mark_point(clip=True, filled=True, size=40, opacity=1)
    open_ = base.transform_filter(paper).mark_point(clip=True, filled=False, size=28, opacity=1)
    bars = base.transform_filter("isValid(datum.low)").mark_rule(clip=True, strokeWidth=2)
    level = alt.Chart(alt.InlineData(values=[{"y": dense(model).top1[VAL]}])).mark_rule(color="#aaaaaa")
    return alt.layer(
        level.encode(up),
        line,
        bars.encode(across, alt.Y("low:Q", title="top-1 %", scale=scale), alt.Y2("high:Q"), colour),
        full.encode(across, up, colour),
        open_.encode(across, up, colour),
    ).properties(width=270, height=210, title=title)
