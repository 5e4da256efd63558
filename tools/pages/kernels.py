"""The registry as pages: every row with what it needs, and for each op and format its sources side by side."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from refstack.backends import BACKENDS, backend, openmp_rows
from refstack.backends.numpy import reorder
from refstack.formats import FORMATS
from refstack.kernels import Kernel
from refstack.ops import OPS
from refstack.reference import engine

ROOT = Path(__file__).resolve().parent.parent.parent
LANES = 16
"""Floats in a vector: the rows of an AVX-512 build, wherever the pages are built."""


@cache
def rows() -> tuple[Kernel, ...]:
    """Every backend's rows; those that need a device or compiler to be listed are left out where it is missing."""
    found: list[Kernel] = []
    for name in BACKENDS:
        if name == "openmp":
            found += openmp_rows.rows(name, LANES)
        elif backend(name).unavailable() is None:
            found += backend(name).kernels()
    return tuple(found)


def table(folder: Path) -> str:
    """One line a row, in order of preference, an op and format after the other."""
    lines = ["| kernel | layouts | needs | exact | what it does |", "|---|---|---|---|---|"]
    for op, format in problems():
        for row in (each for each in rows() if (each.op, each.format) == (op, format)):
            needs = ", ".join(need.__qualname__.partition(".")[0].replace("_", " ") for need in row.needs)
            summary = row.summary or (getattr(row.run, "__doc__", None) or "").partition("\n")[0]
            layouts = " → ".join(dict.fromkeys(row.layouts))
            lines.append(f"| `{row.name}` | {layouts} | {needs} | {'yes' if row.exact else 'no'} | {summary} |")
    return "\n".join([*lines, ""])


def problems() -> list[tuple[str, str]]:
    """(op, format) in the order of OPS and FORMATS."""
    found = dict.fromkeys((row.op, row.format) for row in rows())
    ops, formats = [*OPS, "reorder"], [*FORMATS, "float32", "int8"]
    return sorted(found, key=lambda each: (ops.index(each[0]), formats.index(each[1])))


def side_by_side(folder: Path) -> str:
    """A section for each op and format: NumPy, C, OpenCL. A file stands where it is used first, then a link to it."""
    shown: dict[Path, str] = {}
    return "\n".join(line for op, format in problems() for line in _section(op, format, shown))


def _section(op: str, format: str, shown: dict[Path, str]) -> Iterator[str]:
    title = f"{op}.{format}"
    yield from (f"## {title}", "", "::::{container} side-by-side", ":::{container} panel")
    for source, name in numpy(op, format):
        yield from _include(source, "python", f":pyobject: {name}")
    yield ":::"
    for files in (openmp(op, format), opencl(op, format)):
        new = [file for file in files if file not in shown]
        if new:
            yield ":::{container} panel"
            for file in new:
                shown[file] = title
                yield from _include(file, "c")
            yield ":::"
    yield from ("::::", "")
    elsewhere = [file for file in (*openmp(op, format), *opencl(op, format)) if shown[file] != title]
    if elsewhere:
        links = (f"`{file.name}` [{shown[file]}](#{shown[file].replace('.', '')})" for file in elsewhere)
        yield from (f"Shown elsewhere: {', '.join(links)}.", "")


def _include(file: Path, language: str, *options: str) -> tuple[str, ...]:
    caption = file.relative_to(ROOT)
    return (
        "",
        f"```{{literalinclude}} ../{caption}",
        f":language: {language}",
        f":caption: {caption}",
        *options,
        "```",
        "",
    )


def numpy(op: str, format: str) -> list[tuple[Path, str]]:
    """(file, name) of the layer's formula and of how the format multiplies."""
    if op not in OPS:
        return [(_file(reorder), reorder.__name__)]
    names = engine.LAYERS[OPS[op]].__code__.co_names
    (layer,) = (f for name in names if inspect.isfunction(f := getattr(engine, name, None)))
    found = [(_file(layer), layer.__name__)]
    if op in ("conv2d", "linear"):
        home = next(each for each in FORMATS[format].__mro__ if "matmul" in vars(each))
        found.append((_file(home), f"{home.__name__}.matmul"))
    return found


def openmp(op: str, format: str) -> list[Path]:
    """The C files of its rows, and the headers that they include."""
    symbols = [row.run for row in rows() if (row.op, row.format, row.backend) == (op, format, "openmp")]
    return list(dict.fromkeys(file for symbol in symbols for file in _with_headers(_defining(symbol))))


def opencl(op: str, format: str) -> list[Path]:
    """The OpenCL files of its rows; where no device is, and so no rows are listed, those that are called after it."""
    folder = ROOT / "accel" / "opencl"
    runs = [row.run for row in rows() if (row.op, row.format, row.backend) == (op, format, "opencl")]
    found = [launch.source for run in runs for launch in (run if isinstance(run, tuple) else (run,))]
    if not any(row.backend == "opencl" for row in rows()):
        found = [file.stem for file in sorted(folder.glob(f"{op}_{format}*.cl"))]
    files = (folder / f"{name}.cl" for name in found)
    return list(dict.fromkeys(each for file in files for each in _with_headers(file)))


@cache
def _defining(symbol: str) -> Path:
    """The C file with this function, made by a macro or not."""
    folder = ROOT / "accel" / "openmp"
    found = [file for file in sorted(folder.glob("*.c")) if f"void {symbol}(" in file.read_text("utf-8")]
    return found[0] if found else folder / f"{symbol.split('_')[1]}.c"


def _with_headers(file: Path) -> list[Path]:
    """A file and what it includes, but for what all of them do."""
    names = re.findall(r'#include "(\w+\.(?:h|cl))"', file.read_text("utf-8"))
    return [file, *(file.parent / name for name in names if name not in ("rs.h", "rs.cl"))]


def _file(thing: object) -> Path:
    return Path(inspect.getfile(thing)).resolve()  # type: ignore[arg-type]
