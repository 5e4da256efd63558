"""docs/compression.md says what the manifest says, and its arithmetic is right."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from refstack.compression import compress
from refstack.compression.structure import structure
from refstack.models import MODELS, zoo
from refstack.models.points import Point

TOOLS = Path(__file__).parent.parent / "tools"


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(TOOLS))
    yield importlib.import_module("curves")
    for name in ("curves", "charts"):
        sys.modules.pop(name, None)


def point(technique: str, level: float | None, top1: float, seed: int = 0, method: str = "magnitude") -> Point:
    graph = compress(zoo.draw(MODELS["mobilenet"]()), "weight", 0.9)
    accuracy = {name: {"top1": top1, "correct": 1, "n": 2} for name in ("cifar10-lossless-val", "cifar10-jpeg75-test")}
    return Point(
        "mobilenet", technique, method, level, seed, structure(graph), graph.params, graph.macs, graph.nnz, 1_295_646,
        accuracy,
    )  # fmt: skip


def test_the_page_is_what_the_manifest_gives(curves: ModuleType) -> None:
    assert curves.main(["--check"]) == 0


def test_a_page_that_is_not_is_seen(curves: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (curves.DOCS / "compression.md").read_text()
    monkeypatch.setattr(curves, "DOCS", tmp_path)
    (tmp_path / "compression.md").write_text(text.replace("92.20 %", "99.20 %"))
    assert curves.main(["--check"]) == 1
    (tmp_path / "compression.md").write_text(text.replace("<!-- quoted -->", ""))
    with pytest.raises(SystemExit, match="0 places for quoted, wanted one"):
        curves.main(["--check"])


def test_every_figure_of_the_page_is_there(curves: ModuleType) -> None:
    text = (curves.DOCS / "compression.md").read_text()
    names = [line.partition("(")[2].rstrip(")") for line in text.splitlines() if line.startswith("![")]
    assert len(names) == 3
    for name in names:
        assert ElementTree.parse(curves.DOCS / name).getroot().tag.endswith("svg")


def test_seeds_become_mean_and_deviation(curves: ModuleType) -> None:
    points = [point("weight", 0.9, top1, seed) for seed, top1 in enumerate((90.0, 90.5, 91.0))]
    (group,) = curves.groups(points)
    assert (group.seeds, str(group.top1["cifar10-lossless-val"])) == (3, "90.50 ± 0.50")
    (single,) = curves.groups(points[:1])
    assert str(single.top1["cifar10-lossless-val"]) == "90.00"
    assert len(curves.groups([*points, point("weight", 0.9, 80.0, method="random")])) == 2


def test_a_row_of_the_table(curves: ModuleType) -> None:
    (group,) = curves.groups([replace(point("weight", 0.9, 90.5), file="f")])
    name, seeds, val, lost, test, left, macs, stored, paper = curves.cells(group)
    assert (name, seeds, val, test) == ("`weight-0.9` s", "1", "90.50", "90.50")
    assert lost == "-0.60"  # 91.10 dense
    assert (left, stored) == ("11.3 %", "1.30 MB, 1/9.9")
    assert paper == "82.5 (-9.0)"
    # by hand: a tenth of the pointwise layers' and the classifier's products, all of the stem's and the depthwise ones'
    whole = 46_354_432
    depthwise = sum(
        9 * rows * positions for layer, rows, _, positions in curves._layers("mobilenet") if layer.startswith("dw")
    )
    dense = depthwise + 864 * 1024
    assert macs == f"{(dense + 0.1 * (whole - dense)) / 1e6:.1f} M"


@pytest.mark.parametrize(
    ("technique", "level", "wanted"),
    [
        ("weight", 0.86, "83.9 (-7.6)"), ("weight", 0.97, ""), ("weight", 0.0, ""), ("channel", 0.602, "89.2 (-2.3)"),
        ("channel", 0.5, ""), ("ternary", 0.05, "74.4 (-16.1)"), ("block", 0.8, ""), ("int8", None, ""),
    ],
)  # fmt: skip
def test_the_paper_at_the_same_level(curves: ModuleType, technique: str, level: float | None, wanted: str) -> None:
    (group,) = curves.groups([point(technique, level, 90.0)])
    assert curves.paper_says(group) == wanted


def test_controls_are_not_held_against_the_paper(curves: ModuleType) -> None:
    (group,) = curves.groups([point("weight", 0.9, 50.0, method="random")])
    assert curves.paper_says(group) == ""
    assert group.label == "`weight-random-0.9`"


def test_figures_are_drawn(curves: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("altair", reason='figures need Altair: pip install "refstack-engine[report]"')
    charts = importlib.import_module("charts")
    points = [point("weight", level, 90.0 - level, seed) for level in (0.5, 0.9) for seed in range(3)]
    charts.draw(curves.groups([*points, point("half", None, 91.0, method="ptq")]), tmp_path)
    for name in ("accuracy-weights", "accuracy-bytes", "accuracy-macs"):
        text = (tmp_path / f"{name}.svg").read_text()
        assert "MobileNet" in text
        assert "paper" in text
