"""Imports point down only, heavy libraries stay where they belong, and `import refstack` loads none of them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import refstack

ROOT = Path(refstack.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
RANKED = [path for path in FILES if path != ROOT / "__init__.py"]
"""All but the public names, which come from everywhere."""

ORDER = (
    ("__main__",),
    ("cli",),
    ("reporting", "findings"),
    ("results",),
    ("benchmark", "doctor", "train"),
    ("verification",),
    ("evaluation", "exporter", "peers"),
    ("compare",),
    ("planner",),
    ("backends",),
    ("contract",),
    ("kernels", "memory", "worker", "yardstick"),
    ("compression",),
    ("models",),
    ("checkpoint",),
    ("passes", "onnx_graph"),
    ("reference",),
    ("graph",),
    ("container",),
    ("winograd",),
    ("formats",),
    ("ops",),
    ("datasets",),
    ("errors",),
)
"""Top first: a part may import the lines below its own."""

RANK = {part: len(ORDER) - i for i, line in enumerate(ORDER) for part in line}


def part_of(path: Path) -> str:
    """The part of refstack that a file belongs to: its folder, or itself."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(source: str) -> list[tuple[int, str]]:
    """(line, dotted name) of everything that a file imports, functions included."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports are not used"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def upward(part: str, source: str) -> list[str]:
    """The imports that do not point down."""
    wrong = []
    for line, name in imports(source):
        words = name.split(".")
        if words[0] != "refstack" or len(words) < 2 or words[1] == part or words[1] == "__version__":
            continue
        if RANK.get(words[1], len(ORDER) + 1) >= RANK.get(part, len(ORDER) + 1):
            wrong.append(f"line {line}: {part} imports {words[1]}")
    return wrong


@pytest.mark.parametrize("path", RANKED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_down(path: Path) -> None:
    assert part_of(path) in RANK, f"{part_of(path)} has no place in ORDER"
    assert not upward(part_of(path), path.read_text())


def test_upward_imports_are_seen() -> None:
    assert upward("formats", "from refstack.ops import Op\nimport refstack.errors") == []
    assert upward("formats", "from refstack.graph import Node") == ["line 1: formats imports graph"]
    assert upward("formats", "from refstack import kernels") == ["line 1: formats imports kernels"]
    assert upward("kernels", "def f():\n    import refstack.memory") == ["line 2: kernels imports memory"]
    assert upward("planner", "from refstack.train import fit") == ["line 1: planner imports train"]


HOMES = {
    "ctypes": "backends", "pyopencl": "backends", "scipy": "backends results", "numexpr": "backends", "torch": "train",
    "onnx": "onnx_graph", "onnxruntime": "onnx_graph",
}  # fmt: skip


@pytest.mark.parametrize("library", HOMES)
def test_libraries_stay_at_home(library: str) -> None:
    strays = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in FILES
        if part_of(path) not in (*HOMES[library].split(), "peers")  # a peer's file is run where its runtime is
        for line, name in imports(path.read_text())
        if name.split(".")[0] == library
    ]
    assert not strays


def loaded_by(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after a statement."""
    script = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    return set(done.stdout.split())


HEAVY = {
    "torch", "onnx", "onnxruntime", "PIL", "scipy", "numexpr", "rich", "typer", "pooch", "altair", "jinja2",
    "hypothesis", "pytest",
}  # fmt: skip


def test_import_refstack_is_light() -> None:
    assert not loaded_by("import refstack") & {*HEAVY, "numpy"}


def test_the_readable_engine_needs_numpy_alone() -> None:
    loaded = loaded_by("import refstack.reference, refstack.passes, refstack.models, refstack.backends.numpy")
    assert not loaded & HEAVY
    assert "numpy" in loaded


def test_verify_does_not_need_the_test_tools() -> None:
    assert not loaded_by("import refstack.verification") & {"hypothesis", "pytest", "torch", "PIL", "rich"}
