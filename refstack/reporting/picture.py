"""The trade-offs as one picture: a row of panels for each cost, a column for each network, machine and batch."""

from __future__ import annotations

from typing import Any

import altair as alt
import vl_convert

from refstack.benchmark.rows import strict
from refstack.errors import UsageError
from refstack.reporting import charts
from refstack.reporting.points import machines, panels, points
from refstack.reporting.records import Records

WIDTH, HEIGHT, SCALE = 280, 210, 2.0
VERSION = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
"""Of Vega-Lite: vl-convert has several."""


def picture(records: Records, format: str) -> bytes:
    """PNG or SVG, with legends.

    Raises      UsageError      no row has a cost and an accuracy
    """
    spec = specification(records)
    if format == "svg":
        return vl_convert.vegalite_to_svg(spec, vl_version=VERSION).encode()
    return vl_convert.vegalite_to_png(spec, vl_version=VERSION, scale=SCALE)


def specification(records: Records) -> dict[str, Any]:
    """The picture as Vega-Lite, data inside."""
    found = machines(records.rows)
    shown = points(found)
    names = charts.names(shown)
    rows = []
    for metric in charts.METRICS:
        drawn = {point["panel"] for point in shown if point[metric.field] is not None and point["top1"] is not None}
        row = [_panel(metric, names, each) for each in panels(shown) if each["id"] in drawn]
        rows += [alt.hconcat(*row)] if row else []
    if not rows:
        raise UsageError("nothing to draw: no row has both an accuracy and a time or size; --format md lists them")
    whole = alt.vconcat(*rows).resolve_scale(color="shared", shape="shared", strokeDash="shared")
    return {**charts.spec(whole, background="white"), "datasets": {"rows": strict(shown), "paper": []}}


def _panel(metric: charts.Metric, names: charts.Names, each: dict[str, Any]) -> alt.LayerChart:
    return charts.tradeoff(metric, names, each["id"]).properties(width=WIDTH, height=HEIGHT, title=each["title"])
