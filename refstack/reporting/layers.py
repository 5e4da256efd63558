"""Layers by themselves: each step of a plan below its machine's roof, and CSR against dense by density.

    intensity = flops / bytes       roof = min(FMA peak, bandwidth * intensity)
Source      Williams, Waterman, Patterson: Roofline, CACM 52(4), 2009
"""

from __future__ import annotations

from typing import Any

import altair as alt

from refstack.benchmark.machine import limits
from refstack.reporting.charts import GREY, Spec, said, spec
from refstack.reporting.palette import colours, shapes

Facts = dict[str, Any]
STEPS = {
    "step": "node", "kernel": "kernel", "us": "us", "% of time": "percent", "GFLOP/s": "gflop_per_s",
    "GB/s": "gb_per_s", "limit": "limit", "% of roof": "percent_of_roof",
}  # fmt: skip
TEXT = ("step", "kernel", "limit", "layer", "problem", "dense kernel", "csr kernel", "even at")
EVEN_AT = "even at"
EVEN = "even"


def roofline(profile: Facts) -> Spec:
    """Work done a second against work for each byte; the area of a mark is its share of the time."""
    points = [_placed(step) for step in profile["steps"] if step["gflop_per_s"] > 0 and step["gb_per_s"] > 0]
    kinds = list(dict.fromkeys(point["kind"] for point in points))
    scale, axis = alt.Scale(type="log", nice=False, padding=14), alt.Axis(labelOverlap="greedy", labelSeparation=8)
    across = alt.X("flop/byte:Q", title="work for each byte moved, flop/byte", scale=scale, axis=axis)
    up = alt.Y("GFLOP/s:Q", title="work done, GFLOP/s", scale=scale, axis=axis)
    key = alt.Legend(title=None, orient="top", columns=3)
    colour = alt.Color("kind:N", legend=key).scale(domain=kinds, range=colours(kinds))
    shape = alt.Shape("kind:N", legend=key).scale(domain=kinds, range=shapes(kinds))
    size = alt.Size("% of time:Q", legend=None).scale(domain=[0, 30], range=[20, 500])
    told = said({name: f"datum.cells[{i}]" for i, name in enumerate(STEPS)})
    roof = alt.Chart(alt.InlineData(values=_roof(profile["roof"], points)))
    steps = alt.Chart(alt.InlineData(values=points)).mark_point(filled=True, opacity=0.75, tooltip=told)
    chart = alt.layer(
        roof.mark_line(color=GREY, strokeWidth=2).encode(across, up),
        steps.encode(across, up, colour, shape, size),
    )
    return spec(chart.properties(width="container", height=280))


def steps(profile: Facts) -> Facts:
    """Every step, as a table of the page."""
    return _table(list(STEPS), [_told(step) for step in profile["steps"]])


def words(record: Facts) -> str:
    """The machine below the chart."""
    return f"{record['cpu']}, {limits(record['roof'])}"


def even(record: Facts) -> Spec:
    """A square for every layer and density: how many times as fast CSR is as dense."""
    squares, ends = [], []
    for layer in record["layers"]:
        name = f"{layer['model']} {layer['layer']}"
        for density, ratio in layer["ratios"].items():
            kernels = f"{layer['dense']} against {layer['csr']}, {layer['problem']}"
            squares.append({"layer": name, "density": _share(density), "ratio": ratio, "kernels": kernels})
        ends.append({"layer": name, "density": EVEN, "words": _short(layer["even"])})
    order = [*(_share(density) for density in _densities(record)), EVEN]
    across = alt.X("density:O", sort=order, title="weights left, %; last, where both are even")
    across = across.axis(labelAngle=0, orient="top")
    up = alt.Y("layer:N", sort=None, title=None, axis=alt.Axis(labelLimit=150))
    tints = ["#dd8d4e", "#f4f1ec", "#71a6d8"]
    scale = alt.Scale(type="log", domain=[0.25, 1, 4], range=tints, clamp=True, interpolate="rgb")
    told = {"layer": "datum.layer", "weights left, %": "datum.density", "times as fast": "format(datum.ratio, '.2f')"}
    base = alt.Chart(alt.InlineData(values=squares)).encode(across, up)
    square = base.mark_rect(tooltip=said({**told, "kernels": "datum.kernels"}))
    square = square.encode(alt.Color("ratio:Q", scale=scale, legend=None))
    figure = base.mark_text(fontSize=10, color="#111111").encode(alt.Text("ratio:Q", format=".2f"))
    end = alt.Chart(alt.InlineData(values=ends)).mark_text(fontSize=10, color=alt.ExprRef("ink"))
    chart = alt.layer(square, figure, end.encode(across, up, alt.Text("words:N")))
    return spec(chart.properties(width="container", height=18 * len(ends)))


def shares(record: Facts) -> Facts:
    """Every layer, as a table of the page."""
    densities = _densities(record)
    lines = []
    for layer in record["layers"]:
        figures = [f"{layer['ratios'][each]:.2f}" if each in layer["ratios"] else "-" for each in densities]
        named = [f"{layer['model']} {layer['layer']}", layer["problem"], layer["dense"], layer["csr"]]
        lines.append([*named, *figures, layer["even"]])
    return _table(["layer", "problem", "dense kernel", "csr kernel", *map(_share, densities), EVEN_AT], lines)


def _placed(step: Facts) -> Facts:
    """A step where the chart draws it."""
    return {
        "flop/byte": step["gflop_per_s"] / step["gb_per_s"],
        "GFLOP/s": step["gflop_per_s"],
        "% of time": step["percent"],
        "kind": " ".join(step["kernel"].split(".")[:2]),
        "cells": _told(step),
    }


def _told(step: Facts) -> list[str]:
    return [f"{step[field]:.4g}" if isinstance(step[field], float) else str(step[field]) for field in STEPS.values()]


def _roof(roof: Facts, points: list[Facts]) -> list[Facts]:
    """The ends and the ridge of the roof, over the points."""
    ridge = roof["flops"] / roof["read_bytes_per_s"]
    reach = [ridge, *(point["flop/byte"] for point in points)]
    ends = sorted({min(reach) / 1.5, ridge, max(reach) * 1.5})
    return [{"flop/byte": x, "GFLOP/s": min(roof["flops"], roof["read_bytes_per_s"] * x) / 1e9} for x in ends]


def _densities(record: Facts) -> list[str]:
    return sorted({density for layer in record["layers"] for density in layer["ratios"]}, key=float)


def _share(density: str) -> str:
    return f"{100 * float(density):g}"


def _short(even: str) -> str:
    """ "above 60 %" as >60, to fit a column."""
    return even.replace("above ", ">").replace("below ", "<").removesuffix(" %")


def _table(names: list[str], lines: list[list[str]]) -> Facts:
    return {"columns": names, "text": [name in TEXT for name in names], "lines": [{"cells": line} for line in lines]}
