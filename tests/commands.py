"""The command line as tests call it: in this process or in one of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from refstack import cli
from refstack.benchmark import worker
from refstack.graph import Graph
from refstack.models.builder import Builder
from refstack.models.zoo import draw

Done = subprocess.CompletedProcess[str]


def refstack_command(*arguments: str, cwd: Path, **env: str) -> Done:
    """The command in a process of its own, without data sets or settings of the machine it runs on."""
    clean = {name: value for name, value in worker.environment(1).items() if not name.startswith("REFSTACK_DATA")}
    return subprocess.run(
        [sys.executable, "-m", "refstack", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300,
        env=clean | {"REFSTACK_DATA_DIR": str(cwd / "none"), "NO_COLOR": "1"} | env,
    )  # fmt: skip


def here(capfd: pytest.CaptureFixture[str], *arguments: str) -> Done:
    """The command in this process: (status, stdout, stderr)."""
    with pytest.raises(SystemExit) as end:
        cli.app(list(arguments))
    out, err = capfd.readouterr()
    code = end.value.code
    return Done(arguments, code if isinstance(code, int) else 0, out, err)


def network() -> Graph:
    """32 x 32 images in, ten classes out, tiny."""
    net = Builder("small", (3, 32, 32)).conv("conv1", 4, 3, stride=2, padding=1).batchnorm().relu()
    return draw(net.globalavgpool().flatten().linear("fc", 10).graph())
