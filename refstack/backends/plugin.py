"""Kernels of your own: a manifest beside a C file or a shared library becomes a row that `verify` examines.

    kernel = "conv2d.dense.mine"        op.format.variant
    source = "mine.c"                   or library = "mine.so"; beside the manifest
    symbol = "my_conv2d"                void my_conv2d(const rs_args *), rs.h has the struct
    flags = ["-funroll-loops"]          more compiler flags                                                 optional
    layouts = ["nchw", "nchw"]          of input and output                                                 optional
    blocks = [8]                        sizes at which the code takes another path: tests go around them    optional
    scratch = 4096                      bytes of working memory                                             optional
    exact = true                        integers below 2**24 give the exact integers                        optional
    threads = true                      it deals work out with `#pragma omp for`                            optional
    [needs]                             what it can do; other problems are not given to it                  optional
    kernel = [3, 3]                     the only window
    groups = "one"                      or "depthwise"
    stride = 1                          at most; likewise padding, dilation, batch
    activation = ["relu"]               beside none

Nothing is compiled or loaded before the kernel is called, and `verify` calls it in a child process only.
Weights arrive as packing.plain lays them out.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from refstack.backends import Step, build, openmp, packing
from refstack.backends.needs import depthwise, one_group
from refstack.errors import UsageError
from refstack.formats import FORMATS, Array
from refstack.kernels import Case, Kernel, Need
from refstack.ops import OPS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME = "plugin"
FALLBACK: tuple[str, ...] = ()

KEYS: dict[str, type] = {
    "kernel": str, "source": str, "library": str, "symbol": str, "flags": list, "layouts": list, "blocks": list,
    "scratch": int, "exact": bool, "threads": bool, "needs": dict,
}  # fmt: skip
NEEDS: dict[str, type] = {
    "kernel": list, "groups": str, "stride": int, "padding": int, "dilation": int, "batch": int, "activation": list,
}  # fmt: skip


class Plugin:
    """What a row's `run` is: where the code lies, loaded when it is first asked for."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest
        self.threads = manifest.get("threads", True)

    @property
    def file(self) -> Path:
        """The C file or the shared library."""
        return self.path.parent / str(self.manifest.get("source") or self.manifest.get("library"))

    def function(self) -> Any:
        """The C function. CompileError, UsageError: it cannot be had."""
        return getattr(_library(self), self.manifest["symbol"])


@cache
def _library(plugin: Plugin) -> ctypes.CDLL:
    if "source" in plugin.manifest:
        headers = [*openmp.sources().glob("*.h"), *plugin.path.parent.glob("*.h")]
        loaded = build.library([plugin.file], headers, extra_flags=plugin.manifest.get("flags", ()))
    else:
        try:
            loaded = ctypes.CDLL(str(plugin.file.resolve()))
        except OSError as error:
            raise UsageError(f"{plugin.path}: library {plugin.file} cannot be loaded: {error}") from None
    if not hasattr(loaded, plugin.manifest["symbol"]):
        raise UsageError(f"{plugin.path}: {plugin.file} has no function {plugin.manifest['symbol']!r}; is it static?")
    return loaded


def unavailable() -> str | None:
    """What openmp says: the step table is walked by its rs_run."""
    return openmp.unavailable()


def kernels() -> tuple[Kernel, ...]:
    """None of its own: rows come from manifests."""
    return ()


def build_id() -> str:
    """As for openmp. The kernel itself is not in it, so nothing that is known of a plug-in is kept."""
    return openmp.build_id()


def lower(steps: Sequence[Step], threads: int, outputs: Sequence[Array] | None = None) -> Callable[[], None]:
    """One C call for all steps, as for the kernels that ship with refstack."""
    alone = not all(step.kernel.run.threads for step in steps)
    return openmp.lower(steps, 1 if alone else threads, function=lambda step: step.kernel.run.function())


def kernel(path: str | Path) -> Kernel:
    """The row that a manifest describes.

    Raises      UsageError  the file cannot be read, is no TOML, or says what no kernel can be
    """
    path = Path(path)
    manifest = _read(path)
    words: list[str] = manifest["kernel"].split(".")
    op, format, variant = words if len(words) == 3 else ("", "", "")
    formats = tuple(FORMATS) if op in ("conv2d", "linear", "batchnorm") else ("float32", "int8")
    if op not in OPS or format not in formats or not variant.isidentifier():
        raise UsageError(
            f"{path}: kernel is {manifest['kernel']!r}, wanted op.format.variant, for example conv2d.dense.mine; "
            f"ops are {', '.join(OPS)}; formats of {op} are {', '.join(formats)}"
        )
    plugin = Plugin(path, manifest)
    if not plugin.file.is_file():
        raise UsageError(f"{path}: {plugin.file} is not there")
    layouts = tuple(manifest.get("layouts", ("nchw", "nchw")))
    return Kernel(
        op, format, NAME, variant, plugin, _needs(path, manifest.get("needs", {})), (layouts[0], layouts[-1]),
        pack=packing.plain, scratch=lambda case: int(manifest.get("scratch", 0)),
        blocks=tuple(manifest.get("blocks", ())), exact=manifest.get("exact", True), summary=str(plugin.file),
    )  # fmt: skip


def _read(path: Path) -> dict[str, Any]:
    try:
        manifest = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"plug-in {path}: cannot be read ({error.strerror}); name the manifest, a TOML file") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(
            f"plug-in {path}: is no TOML ({error}); name the manifest, docs/plugins.md shows one"
        ) from None
    _check(path, manifest, KEYS, "")
    for key in ("kernel", "symbol"):
        if key not in manifest:
            raise UsageError(f"{path}: {key} is missing")
    if ("source" in manifest) == ("library" in manifest):
        raise UsageError(f"{path}: wanted either source (a C file) or library (a shared library)")
    _check(path, manifest.get("needs", {}), NEEDS, "needs.")
    if len(manifest.get("layouts", "xx")) != 2 or not all(isinstance(each, int) for each in manifest.get("blocks", ())):
        raise UsageError(f"{path}: layouts are two words and blocks whole numbers, got {manifest}")
    return manifest


def _check(path: Path, got: dict[str, Any], wanted: dict[str, type], where: str) -> None:
    for key, value in got.items():
        if key not in wanted:
            raise UsageError(f"{path}: {where}{key} is not known, wanted some of {', '.join(wanted)}")
        if type(value) is not wanted[key]:
            raise UsageError(f"{path}: {where}{key} is {value!r}, wanted a {wanted[key].__name__}")


def _needs(path: Path, needs: dict[str, Any]) -> tuple[Need, ...]:
    found: list[Need] = []
    groups = {"one": one_group, "depthwise": depthwise}
    if "groups" in needs:
        if needs["groups"] not in groups:
            raise UsageError(f"{path}: needs.groups is {needs['groups']!r}, wanted one or depthwise")
        found.append(groups[needs["groups"]])
    if "kernel" in needs:
        found.append(_only("kernel", [tuple(needs["kernel"])]))
    if "activation" in needs:
        found.append(_only("activation", [None, *needs["activation"]]))
    found += [_at_most(field, needs[field]) for field in ("stride", "padding", "dilation") if field in needs]
    if "batch" in needs:
        most = needs["batch"]
        found.append(
            lambda case: None if case.inputs[0][0] <= most else f"the batch is {case.inputs[0][0]}, at most {most}"
        )
    return tuple(found)


def _only(field: str, allowed: list[Any]) -> Need:
    def need(case: Case) -> str | None:
        got = getattr(case.op, field, None)
        return None if got in allowed else f"{field} is {got}, this kernel needs {' or '.join(map(str, allowed))}"

    return need


def _at_most(field: str, most: int) -> Need:
    def need(case: Case) -> str | None:
        got = max(getattr(case.op, field, (0,)))
        return None if got <= most else f"{field} is {got}, this kernel needs at most {most}"

    return need
