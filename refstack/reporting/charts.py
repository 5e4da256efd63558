"""Accuracy against each cost as Vega-Lite, made with Altair: the page draws it, and so does vl-convert for png and svg.

A panel draws the data named `rows` (points.Point) of one network, machine and batch. The front is found where it is
drawn, so that it follows the filters:

    dominated(r)    another row of as many threads costs no more and is no less accurate, and is better in one of both:
                    some row that costs as much or less has a higher top-1, or some row with as high a top-1 costs less
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from refstack.reporting.palette import colours, dashes, shapes
from refstack.reporting.points import Point

Spec = dict[str, Any]
TOP1 = "top-1, %"
GREY = "#808080"


@dataclass(frozen=True)
class Metric:
    """A cost that accuracy is drawn against.

    field   of a Point      title   of its axis, with the unit      words   above its panels
    interval    fields of its ends, if it has one                   paper   its field in data/paper.json, if it has one
    """

    field: str
    title: str
    words: str
    interval: tuple[str, str] | None = None
    paper: str | None = None


METRICS = (
    Metric("ms", "median time of one run, ms", "Accuracy against time", ("ms_low", "ms_high"), "ms"),
    Metric("planned", "packed weights and arena, MB", "Accuracy against memory: what a plan holds", paper="memory_mb"),
    Metric("peak", "peak of the process, MB", "Accuracy against memory: the whole process", paper="memory_mb"),
    Metric("stored", "tensors of the file, MB", "Accuracy against stored bytes"),
)
PAPER = {"paper": "from", "technique": "technique", "where": "machine", "threads": "threads", "top1": TOP1}


@dataclass(frozen=True)
class Names:
    """All that a report has: a name keeps its colour, shape or dash in every panel."""

    techniques: Sequence[str]
    threads: Sequence[int]


def names(shown: Sequence[Point]) -> Names:
    """Of these points, in order of appearance."""
    techniques = dict.fromkeys(point["technique"] for point in shown)
    return Names(list(techniques), sorted({point["threads"] for point in shown}))


def panel(metric: Metric, names: Names) -> Spec:
    """A trade-off for the page, as wide as the page gives it; the data come from there."""
    return spec(tradeoff(metric, names).properties(width="container", height=230))


def tradeoff(metric: Metric, names: Names, panel: int | None = None) -> alt.LayerChart:
    """Accuracy against one cost: points, how sure they are, and a front for each number of threads.

    Args        panel       of a picture, which has all rows and a legend; on the page the filters are the legend
    """
    legend = panel is not None
    key = alt.Legend(title="technique") if legend else None
    domain = list(names.techniques)
    colour = alt.Color("technique:N", legend=key).scale(domain=domain, range=colours(domain))
    shape = alt.Shape("technique:N", legend=key).scale(domain=domain, range=shapes(domain))
    lines = alt.StrokeDash("threads:N", legend=alt.Legend(title="front, threads") if legend else None)
    lines = lines.scale(domain=list(names.threads), range=dashes(names.threads))
    x, y = across(metric, metric.field), up("top1")
    faded = alt.when("datum.dominated").then(alt.value(0.45)).otherwise(alt.value(1))
    rows = alt.Chart(alt.NamedData("rows"))
    base = front(rows.transform_filter(f"datum.panel === {panel}") if legend else rows, metric.field)
    best = base.transform_filter("!datum.dominated")
    layers = [
        best.mark_line(interpolate="step-after", strokeWidth=1.2, color=GREY).encode(x, y, lines),
        base.mark_rule().encode(x, up("top1_low"), alt.Y2("top1_high:Q"), colour, opacity=faded),
    ]
    if metric.interval:
        low, high = metric.interval
        layers.append(base.mark_rule().encode(across(metric, low), alt.X2(f"{high}:Q"), y, colour, opacity=faded))
    spoken = alt.ExprRef("join(datum.cells, ', ') + ', ' + datum.place")
    dots = base.mark_point(filled=True, tooltip=alt.ExprRef("datum"), description=spoken)  # page.js words it
    size = alt.when("datum.dominated").then(alt.value(45)).otherwise(alt.value(80))
    last = alt.Order("dominated:Q", sort="descending")  # the front lies on top
    layers.append(dots.encode(x, y, colour, shape, last, opacity=faded, size=size))
    if metric.paper:
        layers.append(_paper(metric, shape))
    return alt.layer(*layers)


def across(metric: Metric, field: str) -> alt.X:
    """The cost, by factors."""
    scale = alt.Scale(type="log", nice=False, padding=14)
    return alt.X(f"{field}:Q", title=metric.title, scale=scale, axis=alt.Axis(labelOverlap="greedy", labelSeparation=8))


def up(field: str) -> alt.Y:
    """Accuracy; each panel has its own range."""
    return alt.Y(f"{field}:Q", title=TOP1, scale=alt.Scale(zero=False, nice=False, padding=14))


def front(chart: alt.Chart, cost: str) -> alt.Chart:
    """Adds `dominated`; rows without the cost or an accuracy are left out."""
    whole = {"groupby": ["threads"], "frame": [None, 0]}
    return (
        chart.transform_filter(f"isValid(datum.{cost}) && isValid(datum.top1)")
        .transform_window(best="max(top1)", sort=[alt.SortField(cost)], **whole)
        .transform_window(least=f"min({cost})", sort=[alt.SortField("top1", "descending")], **whole)
        .transform_calculate(dominated=f"datum.best > datum.top1 || datum.least < datum.{cost}")
        .transform_calculate(place="datum.dominated ? 'dominated' : 'on the front'")
    )


def said(told: Mapping[str, str]) -> alt.ExprRef:
    """The box beside a mark, from names and expressions."""
    return alt.ExprRef("{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in told.items()) + "}")


def _paper(metric: Metric, shape: alt.Shape) -> alt.Chart:
    """The paper's own numbers, hollow; the data `paper` is empty until it is asked for."""
    base = alt.Chart(alt.NamedData("paper")).transform_filter(f"isValid(datum.{metric.paper})")
    told = {title: f"datum.{field}" for field, title in PAPER.items()} | {metric.title: f"datum.{metric.paper}"}
    dots = base.mark_point(filled=False, size=90, color=GREY, strokeWidth=1.5, tooltip=said(told))
    return dots.encode(across(metric, metric.paper or ""), up("top1"), shape)


def spec(chart: Any, background: str = "transparent") -> Spec:
    """As Vega-Lite. Text and lines take the colours of the signals `ink` and `rule`, which the page sets."""
    ink, rule = alt.ExprRef("ink"), alt.ExprRef("rule")
    axis = {"labelColor": ink, "titleColor": ink, "domainColor": ink, "tickColor": ink, "gridColor": rule}
    themed = (
        chart.add_params(alt.param(name="ink", value="#1d2125"), alt.param(name="rule", value="#dcdfe3"))
        .configure(background=background, font="system-ui, sans-serif")
        .configure_axis(**axis, labelFontSize=11, titleFontSize=12, titleFontWeight="normal")
        .configure_legend(labelColor=ink, titleColor=ink, symbolStrokeColor=ink)
        .configure_title(color=ink)
        .configure_view(stroke=rule)
    )
    made: Spec = themed.to_dict(validate=False)  # takes as long again; the tests draw every chart there is
    return made
