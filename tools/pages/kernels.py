"""The registry as pages: every row with what it needs, and for each op and format its sources side by side."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
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
    for language, files in (("c", openmp(op, format)), ("c", opencl(op, format))):
        new = [file for file in files if file not in shown]
        if new:
            yield ":::{container} panel"
            for file in new:
                shown[file] = title
                yield from _include(file, language)
            yield ":::"
    yield from ("::::", "")
    for file in (each for each in (*openmp(op, format), *opencl(op, format)) if shown[each] != title):
        yield f"`{file.relative_to(ROOT)}`: [{shown[file]}](#{shown[file].replace('.', '')})."
        yield ""


def _include(file: Path, language: str, *options: str) -> Sequence[str]:
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
    symbols = {row.run for row in rows() if (row.op, row.format, row.backend) == (op, format, "openmp")}
    return list(dict.fromkeys(file for symbol in sorted(symbols) for file in _defining(symbol)))


@cache
def _defining(symbol: str) -> list[Path]:
    """The file with this function, made by a macro or not, and its headers but for rs.h, which all include."""
    folder = ROOT / "accel" / "openmp"
    texts = {file: file.read_text("utf-8") for file in sorted(folder.glob("*.c"))}
    found = [file for file, text in texts.items() if f"void {symbol}(" in text]
    found = found or [folder / f"{symbol.split('_')[1]}.c"]
    headers = re.findall(r'#include "(\w+\.h)"', texts[found[0]])
    return [found[0], *(folder / name for name in headers if name != "rs.h")]


def opencl(op: str, format: str) -> list[Path]:
    """The OpenCL files that are named after it, or hold a kernel that is."""
    words = {f"{op}_{format}", op} if format in ("float32", "int8", "dense") else {f"{op}_{format}"}
    files = sorted((ROOT / "accel" / "opencl").glob("*.cl"))
    kernel = re.compile(rf"kernel\s+void\s+\w*({'|'.join(words)})\w*\s*\(")
    return [file for file in files if kernel.search(file.read_text("utf-8"))]


def _file(thing: object) -> Path:
    return Path(inspect.getfile(thing)).resolve()  # type: ignore[arg-type]
