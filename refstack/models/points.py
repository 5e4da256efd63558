"""Points: what was trained of each network under each technique, at each level, with each seed. Facts, no weights.

    name        <model>/<technique>-<method>-<level>-s<seed>        vgg16/weight-magnitude-0.9-s0
    short       <model>/<technique>-<level> or <model>/<technique>  vgg16/weight-0.9, vgg16/weight

A short name stands for the first point that it fits, those whose weights are shipped before the others.
Next: zoo.py
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from refstack.errors import DataError, UsageError
from refstack.formats import FORMATS


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer of a point."""

    name: str
    format: str
    rows: int
    cols: int
    nnz: int


@dataclass(frozen=True)
class Point:
    """One trained network.

    level           share of weights or of parameters that went, ternary's threshold; None where there is no choice
    layers          structure: enough to build the network again with drawn weights (compression/structure.py)
    stored_bytes    of its float16 file's tensors
    accuracy        {data set: {"top1", "correct", "n"}}
    file, golden    shipped weights and what PyTorch computed with them; None for most points
    facts           recipe, device, date and what else was recorded
    """

    model: str
    technique: str
    method: str
    level: float | None
    seed: int
    layers: tuple[Layer, ...]
    params: int
    macs: int
    nnz: int
    stored_bytes: int
    accuracy: Mapping[str, Mapping[str, Any]]
    file: str | None = None
    sha256: str | None = None
    golden: str | None = None
    golden_sha256: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its full name."""
        level = "" if self.level is None else f"-{self.level:g}"
        return f"{self.model}/{self.technique}-{self.method}{level}-s{self.seed}"

    @property
    def names(self) -> tuple[str, ...]:
        """All names that fit it, the longest first."""
        by = f"{self.model}/{self.technique}-{self.method}"
        level = () if self.level is None else (f"{by}-{self.level:g}", f"{self.model}/{self.technique}-{self.level:g}")
        return (self.name, *level, by, f"{self.model}/{self.technique}")

    def as_json(self) -> dict[str, Any]:
        """What `parse` reads: layers as rows of values, absent files left out."""
        found = {key: value for key, value in vars(self).items() if value is not None and key != "facts"}
        return {**found, "layers": [list(vars(layer).values()) for layer in self.layers], **self.facts}


def manifest_text(content: Mapping[str, Any]) -> str:
    """The manifest as it is written: its "points", if any, one a line."""
    head = json.dumps({key: value for key, value in content.items() if key != "points"}, indent=2)
    if "points" not in content:
        return head + "\n"
    entries = (point.as_json() if isinstance(point, Point) else point for point in content["points"])
    lines = ",\n    ".join(json.dumps(entry, separators=(",", ":")) for entry in entries)
    return f'{head[:-2]},\n  "points": [\n    {lines}\n  ]\n}}\n'


def parse(entries: Any, where: str) -> list[Point]:
    """Points as the manifest holds them. DataError naming the entry unless each has every field of its type."""
    if not isinstance(entries, list):
        raise DataError(f"{where}: points are {type(entries).__name__}, wanted a list; install refstack again")
    found = [_point(entry, f"{where}: point {i}") for i, entry in enumerate(entries)]
    names = [point.name for point in found]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise DataError(f"{where}: point {i}: {name} stands there twice; install refstack again")
    return found


NUMBERS = ("seed", "params", "macs", "nnz", "stored_bytes")
WORDS = ("model", "technique", "method")
FILES = ("file", "sha256", "golden", "golden_sha256")


def _point(entry: Any, where: str) -> Point:
    own = {each.name for each in dataclasses.fields(Point)} - {"facts"}
    wanted = own - {*FILES, "level"}
    if not isinstance(entry, dict) or not wanted <= set(entry):
        missing = sorted(wanted - set(entry)) if isinstance(entry, dict) else sorted(wanted)
        raise DataError(f"{where}: lacks {', '.join(missing)}; install refstack again")
    sound = all(type(entry[key]) is int and entry[key] >= 0 for key in NUMBERS)
    sound = sound and all(type(entry[key]) is str for key in WORDS) and isinstance(entry["accuracy"], dict)
    sound = sound and isinstance(entry.get("level"), float | int | None) and isinstance(entry["layers"], list)
    sound = sound and all(_counted(found) for found in entry["accuracy"].values())
    if not sound or len({key in entry for key in FILES}) > 1:
        raise DataError(f"{where}: a field is not of its type, or a file has no hash; install refstack again")
    values = {key: value for key, value in entry.items() if key in own}
    values["layers"] = tuple(_layer(line, where) for line in entry["layers"])
    return Point(**{"level": None, **values}, facts={key: entry[key] for key in entry if key not in own})


def _counted(found: Any) -> bool:
    """Whether this is {"top1", "correct", "n"}."""
    if not isinstance(found, dict):
        return False
    whole = all(type(found.get(key)) is int for key in ("correct", "n"))
    return whole and isinstance(found.get("top1"), float | int)


def _layer(line: Any, where: str) -> Layer:
    types = (str, str, int, int, int)
    if not isinstance(line, list) or [type(value) for value in line] != list(types):
        raise DataError(f"{where}: layer {line!r:.60}, wanted [name, format, rows, cols, non-zeros]")
    if line[1] not in FORMATS:
        raise DataError(f"{where}: layer {line[0]} has the unknown format {line[1]!r}; update refstack")
    return Layer(*line)


def choose(points: Sequence[Point], name: str) -> Point | None:
    """The point of this name, or None. A short name takes shipped weights first."""
    fits = [point for point in points if name in point.names]
    return min(fits, key=lambda point: (point.name != name, point.file is None), default=None)


def hint(points: Iterable[Point], name: str) -> UsageError:
    """What to say of a name that fits no point: those that are near."""
    known = list(dict.fromkeys(each for point in points for each in point.names[::-1]))
    near = difflib.get_close_matches(name, known, 3, 0.5)
    words = f"did you mean {', '.join(near)}? " if near else ""
    return UsageError(f"no trained point {name!r}: {words}`refstack points` lists them")
