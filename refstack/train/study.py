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
    "block": dict.fromkeys(MODELS, 0.8),
    "channel+ternary": {"vgg16": 0.87, "resnet18": 0.87, "mobilenet": 0.6},
}
"""Technique -> model -> the level at which figures are quoted, with three seeds."""

CURVES: dict[str, tuple[float, ...]] = {
    "weight": (0.0, 0.5, 0.7, 0.8, 0.95, 0.97, 0.99),
    "channel": (0.5, 0.7, 0.8, 0.96, 0.98),
    "block": (0.9,),
    "ternary": (0.01, 0.1, 0.2),
}
CONTROLS: dict[str, dict[str, tuple[float, ...]]] = {
    "weight": {"random": (0.5, 0.7, 0.8, 0.95)},
    "channel": {"random": (0.5, 0.7, 0.96), "l1": (0.5, 0.7, 0.96)},
}
SEEDS = (0, 1, 2)


def points() -> list[Point]:
    """Every point, the most wanted first: quoted ones, their controls, other seeds, then the rest of the curves."""
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
        for technique in QUOTED:
            add(technique, seed=seed)
        add("channel", seed=seed, method="random")
    for technique, levels in CURVES.items():
        add(technique, levels)
    for technique, methods in CONTROLS.items():
        for method, levels in methods.items():
            add(technique, levels, method=method)
    for seed in SEEDS[1:]:
        add("channel", seed=seed, method="l1")
        add("weight", seed=seed, method="random")
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
    for point in todo:
        base = point.base
        if base is not None and not (out / f"{base.name}.json").exists() and _claimed(out, base):
            continue  # somebody is at it
        if (out / f"{point.name}.json").exists() or not _claim(out, point):
            continue
        try:
            produce(point, material(point.model), out, report=report)
            made += 1
        except Exception:  # one point that fails must not end the others
            (out / f"{point.name}.error").write_text(traceback.format_exc(), "utf-8")
            report(f"{point.name}: failed, see {point.name}.error")
    return made


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
