"""All points of the study in order of worth, and workers that make them, one process each.

A worker takes the first point that has neither a record nor a claim. A claim is an empty file, made so that only one
process can make it; whoever starts the workers removes claims that an earlier run left behind. So a run can be broken
off and started again at any time, and what is lost is the points that were being trained.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from refstack.train.points import Material, Point, produce

MODELS = ("vgg16", "resnet18", "mobilenet")
QUOTED: dict[str, dict[str, float]] = {
    "weight": dict.fromkeys(MODELS, 0.9),
    "channel": {"vgg16": 0.87, "resnet18": 0.93, "mobilenet": 0.9},
    "ternary": dict.fromkeys(MODELS, 0.05),
    "block": dict.fromkeys(MODELS, 0.9),
    "channel+ternary": {"vgg16": 0.87, "resnet18": 0.8, "mobilenet": 0.5},
    "int8": dict.fromkeys(MODELS, 0.0),
    "channel+int8": {"vgg16": 0.87, "resnet18": 0.93, "mobilenet": 0.9},
    "weight+int8": dict.fromkeys(MODELS, 0.9),
}
"""Technique -> model -> the level at which figures are quoted, with three seeds."""

CURVES: dict[str, tuple[float, ...]] = {
    "weight": (0.8, 0.95, 0.97, 0.99, 0.5, 0.0, 0.7),
    "channel": (0.5, 0.7, 0.8, 0.96, 0.98),
    "block": (0.8,),
    "ternary": (0.2, 0.1, 0.01),
}
CONTROLS: dict[str, dict[str, tuple[float, ...]]] = {
    "channel": {"random": (0.5, 0.7, 0.8, 0.96), "l1": (0.5, 0.7, 0.8, 0.96)},
    "weight": {"random": (0.5, 0.8, 0.95, 0.7), "uniform": (0.8, 0.95)},
}
SEEDS = (0, 1, 2)


def points() -> list[Point]:
    """Every point, the most wanted first: quoted ones and their controls, other seeds, curves, controls' curves."""
    order: list[Point] = []

    def add(technique: str, levels: Iterable[float] | None = None, seed: int = 0, method: str = "") -> None:
        for level in levels or (None,):
            for model in MODELS:
                at = QUOTED[technique][model] if level is None else level
                order.append(Point(model, technique, at, seed, method))

    for technique in QUOTED:
        add(technique)
    for technique, methods in CONTROLS.items():
        for method in methods:
            add(technique, method=method)
    for seed in SEEDS[1:]:
        for technique in ("weight", "channel", "ternary"):
            add(technique, seed=seed)
        add("channel", seed=seed, method="random")
    for technique, levels in CURVES.items():
        add(technique, levels)
    for seed in SEEDS[1:]:
        add("block", seed=seed)
        for technique in ("channel+ternary", "int8", "channel+int8", "weight+int8"):
            add(technique, seed=seed)
    for technique, methods in CONTROLS.items():
        for method, levels in methods.items():
            add(technique, levels, method=method)
    for seed in SEEDS[1:]:
        add("channel", seed=seed, method="l1")
        for method in ("random", "uniform"):
            add("weight", seed=seed, method=method)
    return list(dict.fromkeys(order))


def work(
    todo: Sequence[Point],
    material: Callable[[str], Material],
    out: Path,
    report: Callable[[str], None] = print,
) -> int:
    """Make whatever nobody else is making; return how many points this worker made.

    Args
        material    model -> what its points need
    """
    made = 0
    while (point := _next(todo, out)) is not None:
        try:
            produce(point, material(point.model), out, report=report)
            made += 1
        except Exception:  # one point that fails must not end the others; its claim stays
            (out / f"{point.name}.error").write_text(traceback.format_exc(), "utf-8")
            report(f"{point.name}: failed, see {point.name}.error")
    return made


def _next(todo: Sequence[Point], out: Path) -> Point | None:
    """The first point that is neither made nor claimed, claimed now; one whose base is being made has to wait."""
    for point in todo:
        if _made(out, point) or _claimed(out, point):
            continue
        base = point.base
        if base is not None and not _made(out, base) and not _claim(out, base):
            continue
        if _claim(out, point):
            return point
    return None


def _made(out: Path, point: Point) -> bool:
    return (out / f"{point.name}.json").exists()


def release(out: Path) -> None:
    """Remove all claims: nobody is working."""
    for claim in out.glob("*.claim"):
        claim.unlink()


def _claim(out: Path, point: Point) -> bool:
    out.mkdir(parents=True, exist_ok=True)
    try:
        (out / f"{point.name}.claim").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _claimed(out: Path, point: Point) -> bool:
    return (out / f"{point.name}.claim").exists()
