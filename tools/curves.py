"""Tables and figures of docs/compression.md, from data/manifest.json and the paper's curves alone.

python tools/curves.py              tables into docs/compression.md, figures into docs/figures/ (extra `report`)
python tools/curves.py --check      exit status 1 if the tables are not those that the manifest gives
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from refstack.models import MODELS, zoo
from refstack.models.points import Point

DOCS = Path(__file__).resolve().parent.parent / "docs"
VAL, TEST = "cifar10-lossless-val", "cifar10-jpeg75-test"
NAMES = {"vgg16": "VGG-16", "resnet18": "ResNet-18", "mobilenet": "MobileNet"}
CONTROLS = ("random", "l1", "minmax")
NAMED = (*CONTROLS, "uniform")  # methods that a point's name has to say
PAPER = json.loads((DOCS / "figures" / "paper.json").read_text("utf-8"))


@dataclass(frozen=True)
class Spread:
    """Mean and sample deviation of n runs; one run has no deviation."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        found = list(values)
        return cls(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None)

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.deviation is None else f" ± {self.deviation:.2f}")


@dataclass(frozen=True)
class Group:
    """All seeds of one network, technique, method and level.

    top1        data set -> percent             weights_left, macs, stored_bytes    means over the seeds
    macs        multiply-adds with weights that are not zero
    """

    model: str
    technique: str
    method: str
    level: float | None
    seeds: int
    shipped: bool
    top1: Mapping[str, Spread]
    weights_left: float
    macs: float
    stored_bytes: float

    @property
    def control(self) -> bool:
        """Made to be compared with, not to be used."""
        return self.method in CONTROLS or self.level == 0

    @property
    def label(self) -> str:
        """technique (method) and level, as in the point's name."""
        level = "" if self.level is None else f"-{self.level:g}"
        return f"`{self.technique}{f'-{self.method}' if self.method in NAMED else ''}{level}`"


@dataclass(frozen=True)
class Dense:
    """The network that all ratios are of: float32, as trained."""

    top1: Mapping[str, float]
    weights: int
    macs: int
    stored_bytes: int


@cache
def dense(model: str) -> Dense:
    """Counts of the folded network, accuracy of its checkpoint."""
    from refstack.passes import prepare

    graph = prepare(MODELS[model]())
    weights = sum(rows * cols for _, rows, cols, _ in _layers(model))
    top1 = {name: found["top1"] for name, found in zoo.manifest()[model]["accuracy"].items()}
    return Dense(top1, weights, graph.macs, graph.stored_bytes)


@cache
def _layers(model: str) -> list[tuple[str, int, int, int]]:
    """(name, rows, columns, output positions) of convolutions and linear layers."""
    from refstack.compression.layers import layers

    graph = MODELS[model]()
    shapes, found = graph.shapes(), []
    for node in layers(graph):
        assert node.weight is not None
        positions = 1
        for size in shapes[node.name][2:]:
            positions *= size
        found.append((node.name, *node.weight.shape, positions))
    return found


def work(point: Point) -> int:
    """Multiply-adds of one image with weights that are not zero; 8-bit and ternary ones count like any."""
    positions = {name: count for name, _, _, count in _layers(point.model)}
    return sum(line.nnz * positions[line.name] for line in point.layers)


def groups(points: Sequence[Point]) -> list[Group]:
    """In the manifest's order."""
    together: dict[tuple[Any, ...], list[Point]] = {}
    for point in points:
        together.setdefault((point.model, point.technique, point.method, point.level), []).append(point)
    found = []
    for key, runs in together.items():
        sets = [name for name in (VAL, TEST) if all(name in run.accuracy for run in runs)]
        top1 = {name: Spread.of(run.accuracy[name]["top1"] for run in runs) for name in sets}
        sizes = (statistics.fmean(f(run) for run in runs) for f in (lambda r: r.nnz, work, lambda r: r.stored_bytes))
        found.append(Group(*key, len(runs), any(run.file for run in runs), top1, *sizes))
    return found


# Tables

COLUMNS = (
    "point", "seeds", "top-1 val", "against dense", "top-1 test", "weights left", "multiply-adds", "stored", "paper",
)  # fmt: skip


def table(found: Sequence[Group]) -> list[str]:
    """Markdown, a line a group."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|" + "--:|" * (len(COLUMNS) - 1)]
    return lines + ["| " + " | ".join(cells(group)) + " |" for group in found]


def cells(group: Group) -> list[str]:
    """The columns above."""
    whole = dense(group.model)
    val, test = (str(group.top1.get(name, "")) for name in (VAL, TEST))
    lost = f"{group.top1[VAL].mean - whole.top1[VAL]:+.2f}" if VAL in group.top1 else ""
    size = f"{group.stored_bytes / 1e6:.2f} MB, 1/{whole.stored_bytes / group.stored_bytes:.1f}"
    left = f"{100 * group.weights_left / whole.weights:.1f} %"
    name = group.label + (" s" if group.shipped else "")
    return [name, str(group.seeds), val, lost, test, left, f"{group.macs / 1e6:.1f} M", size, paper_says(group)]


def paper_says(group: Group) -> str:
    """The paper's top-1 at the same level, and against its own dense network; nothing where it has no curve."""
    curve = PAPER.get(group.technique, {}).get(group.model)
    if curve is None or group.control or not group.level:
        return ""
    x = group.level if group.technique == "ternary" else 100 * group.level
    inside = [i for i in range(len(curve) - 1) if curve[i][0] <= x <= curve[i + 1][0]]
    if not inside:
        return ""
    (x0, y0), (x1, y1) = curve[inside[0]], curve[inside[0] + 1]
    y = y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    base = curve[0][1] if curve[0][0] == 0 else PAPER["dense"][group.model]
    return f"{y:.1f} ({y - base:+.1f})"


def quotable(group: Group) -> bool:
    """Whether a point stands in the first table; controls do where the point that they control is shipped."""
    return not group.control and (group.shipped or group.seeds > 1 or group.level is None)


def sections(found: Sequence[Group]) -> dict[str, str]:
    """What stands between the markers of docs/compression.md, by marker."""
    quoted, every = [], []
    for model, name in NAMES.items():
        mine = [group for group in found if group.model == model]
        whole = dense(model)
        accuracy = ", ".join(f"{top1:.2f} % of `{each}`" for each, top1 in whole.top1.items())
        sizes = f"{whole.weights / 1e6:.2f} M weights, {whole.macs / 1e6:.0f} M multiply-adds"
        head = f"**{name}**, dense: {accuracy}; {sizes}, {whole.stored_bytes / 1e6:.1f} MB in float32"
        shipped = {(group.technique, group.level) for group in mine if group.shipped}
        best = [group for group in mine if quotable(group) or (group.technique, group.level) in shipped]
        quoted += [head, "", *(table(best) if best else ["No trained points yet."]), ""]
        if mine:
            every += [f"<details><summary>{name}: {len(mine)} rows</summary>", "", *table(mine), "", "</details>", ""]
    return {"quoted": "\n".join(quoted), "every": "\n".join(every or ["No trained points yet.", ""])}


def page(text: str, parts: Mapping[str, str]) -> str:
    """The page with what stands between <!-- NAME --> and <!-- end --> replaced."""
    for name, part in parts.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = pattern.subn(lambda match, part=part: match[1] + part + match[2], text)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"docs/compression.md: {count} places for {name}, wanted one")
    return text


def main(arguments: Sequence[str]) -> int:
    """Write, or with --check only compare."""
    found = groups(zoo.points())
    path = DOCS / "compression.md"
    old = path.read_text("utf-8")
    new = page(old, sections(found))
    if list(arguments) == ["--check"]:
        if new != old:
            print(f"{path}: not what data/manifest.json gives; run  python tools/curves.py", file=sys.stderr)
        return int(new != old)
    path.write_text(new, "utf-8")
    from charts import draw  # here, so that --check works without the extra

    draw(found, DOCS / "figures")
    return 0


if __name__ == "__main__":
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
