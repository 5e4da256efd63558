"""Peers: another runtime is timed on the same weights only if its logits are right; what it cannot is a row."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benching import FAST, Notes

from refstack import checkpoint
from refstack.benchmark import bench
from refstack.benchmark.artifacts import Artifact, make
from refstack.errors import UsageError
from refstack.formats import Dense
from refstack.graph import Graph
from refstack.models.builder import Builder
from refstack.models.zoo import draw
from refstack.peers import HOME, PEERS, Peer
from refstack.peers.export import export, rms, unrounded
from refstack.reference import run

FAKE = """
import os, signal, time
import numpy as np, onnxruntime
calls = 0
def convert(model, folder):
    {convert}
    return model
def load(model, threads, setting):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    {load}
    def run(x):
        global calls
        calls += 1
        y = session.run(None, {{"input": x}})[0].copy()
        {fault}
        return y
    return run
"""


def small() -> Graph:
    """Two convolutions on images of the size that int8 is calibrated with."""
    net = Builder("tiny", (3, 32, 32)).conv("conv1", 8, 3, padding=1).batchnorm().relu().maxpool("pool", 2)
    return draw(net.conv("conv2", 16, 3).relu().globalavgpool().flatten().linear("fc", 10).graph(), 0)


@pytest.fixture
def network(tmp_path: Path) -> str:
    """Path of a small checkpoint."""
    checkpoint.save(small(), tmp_path / "tiny.safetensors")
    return str(tmp_path / "tiny.safetensors")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Makes a peer called `fake` that does something beside the right thing."""

    def made(fault: str = "pass", convert: str = "pass", load: str = "pass", **facts: Any) -> str:
        (tmp_path / "fake.py").write_text(FAKE.format(fault=fault, convert=convert, load=load))
        peer = Peer("fake", ("numpy", "onnxruntime"), ("numpy", "fake<2"), runtime=tmp_path / "fake.py")
        monkeypatch.setitem(PEERS, "fake", replace(peer, **facts))
        return "fake"

    return made


def ask(network: str, tmp_path: Path, peers: Any, **more: Any) -> list[dict[str, Any]]:
    known = {"techniques": "dense", "backends": "numpy", "threads": 1, "policy": FAST, "peers_folder": tmp_path / "no"}
    return bench(network, output=tmp_path / "j.jsonl", peers=peers, **{**known, **more})


def test_a_real_peer_is_checked_and_timed_beside_ours(network: str, tmp_path: Path) -> None:
    notes = Notes()
    rows = ask(network, tmp_path, "onnxruntime", techniques=["dense", "weight", "int8"], report=notes)
    assert [row["status"] for row in rows] == ["ok"] * 6, [row["status_reason"] for row in rows]
    assert notes.done == pytest.approx(notes.total)
    for row in rows[1::2]:
        assert row["backend"] == "onnxruntime"
        assert row["peer"].startswith("onnxruntime 1.")
        assert row["stored_as"] == "onnx"
        assert 0 < row["latency_p50_ms"] <= row["latency_p90_ms"]
        assert 0 <= row["max_error_vs_bound"] <= 1
    assert [row["format"] for row in rows[1::2]] == ["dense", "dense", "int8+dense"]
    assert rows[5]["top1_reason"] == "not measured: a peer's int8"
    assert not any("peer" in row for row in rows[::2])
    assert ask(network, tmp_path, "onnxruntime", techniques=["dense", "weight", "int8"]) == rows


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("y *= 1.001", "failed", "CheckFailed: the output has a root mean square error"),
        ("y[0, 3] = np.nan", "failed", "root mean square error of nan"),
        ("y = y.astype(np.float16)", "failed", "root mean square error"),
        ("y = y[:, :9]", "failed", "the output has shape (1, 9), wanted (1, 10)"),
        ("y = globals().setdefault('kept', y)", "failed", "another input gives the same output"),
        ("y += calls > 6", "failed", "an output of the timed runs has a root mean square error"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "failed", "crashed with SIGSEGV"),
        ("raise ValueError('no\\nway')", "failed", "cannot run the model: ValueError: no way"),
        ("time.sleep(1000)", "timeout", "no answer within 3 s"),
    ],
)
def test_a_wrong_peer_has_no_times(
    network: str, tmp_path: Path, fake: Callable[..., str], fault: str, status: str, reason: str
) -> None:
    policy = replace(FAST, load_timeout_s=3) if status == "timeout" else FAST
    ours, row = ask(network, tmp_path, fake(fault), policy=policy)
    assert ours["status"] == "ok"
    assert (row["status"], row["samples_ns"], row["latency_p50_ms"]) == (status, [], None)
    assert reason in row["status_reason"]


def test_what_is_not_here_or_cannot_is_a_row_that_says_why(
    network: str, tmp_path: Path, fake: Callable[..., str]
) -> None:
    def reason(technique: str = "dense", **facts: Any) -> str:
        _, row = ask(network, tmp_path, fake(**facts), techniques=technique)
        assert (row["status"], row["samples_ns"]) == ("skipped", [])
        return str(row["status_reason"])

    assert reason(distributions=("numpy", "nowhere")) == 'nowhere not installed: pip install numpy "fake<2"'
    assert "cannot convert the model: ValueError: too new" in reason(convert="raise ValueError('too new')")
    assert "by its own rules alone" in reason("int8")
    (tmp_path / "no" / "fake" / "bin").mkdir(parents=True)
    (tmp_path / "no" / "fake" / "bin" / "python").symlink_to("/bin/false")
    assert "its Python does not start: the process ended with exit status 1" in reason()


def test_a_peer_has_a_python_of_its_own(network: str, tmp_path: Path, fake: Callable[..., str]) -> None:
    own = tmp_path / "no" / "fake" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nexec {sys.executable} "$@"\n')
    own.chmod(0o755)
    _, row = ask(network, tmp_path, fake())
    assert row["status"] == "ok", row["status_reason"]
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked == [f"-I {HOME / 'boot.py'}"] * 3  # versions, convert, the cell


def test_the_faster_setting_is_taken_and_named(network: str, tmp_path: Path, fake: Callable[..., str]) -> None:
    slow = fake("time.sleep(0.02 * (setting == 'slow'))", settings=("slow", "quick"))
    _, row = ask(network, tmp_path, slow)
    assert (row["status"], row["peer_setting"]) == ("ok", "quick")
    _, row = ask(network, tmp_path, fake("y += setting == 'quick'", settings=("slow", "quick")), fresh=True)
    assert (row["status"], row["peer_setting"]) == ("ok", "slow")
    _, row = ask(network, tmp_path, fake("y += 1", settings=("slow", "quick")), fresh=True)
    assert row["status"] == "failed"
    assert "CheckFailed" in row["status_reason"]


def test_another_version_is_measured_again(
    network: str, tmp_path: Path, fake: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, first = ask(network, tmp_path, fake())
    _, again = ask(network, tmp_path, fake())
    assert again == first
    _, other = ask(network, tmp_path, fake(distributions=("numpy",)))
    assert other["cell_id"] != first["cell_id"]


def test_an_unknown_peer_is_refused(network: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown peer 'openvion': did you mean 'openvino'"):
        ask(network, tmp_path, ["openvion"])
    with pytest.raises(UsageError, match="no peer named"):
        ask(network, tmp_path, [])


# What is allowed


@pytest.fixture
def artifact(tmp_path: Path) -> Callable[[str], Artifact]:
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)
    return lambda technique: make("tiny", small(), technique, images, tmp_path, one_shot=True)


@pytest.mark.parametrize("technique", ["dense", "weight", "ternary", "half"])
def test_half_precision_is_outside_the_limit_and_float32_inside(
    artifact: Callable[[str], Artifact], technique: str
) -> None:
    made = artifact(technique)
    limit = export(made.files).limit
    x, oracle = (np.load(path, allow_pickle=False) for path in (made.input_file, made.oracle_file))
    graph = unrounded(checkpoint.load(made.graph_file))
    assert rms(run(graph, x) - oracle) < limit / 30
    for narrow in (np.float16, bfloat16):
        nodes = [
            replace(node, weight=node.weight and Dense.encode(narrow(node.weight.decode()).astype(np.float32)))
            for node in graph
        ]
        assert rms(run(graph.with_nodes(nodes), x.astype(np.float64)) - oracle) > limit or technique == "half"


def bfloat16(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Float32 cut to its upper 16 bits."""
    return (x.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


def test_int8_may_be_off_by_its_own_rounding(artifact: Callable[[str], Artifact]) -> None:
    made = artifact("int8")
    model = export(made.files)
    x, oracle = (np.load(path, allow_pickle=False) for path in (made.input_file, made.oracle_file))
    graph = checkpoint.load(made.graph_file)
    plain = unrounded(graph)
    assert model.integers
    assert rms(run(graph, x) - oracle) < model.limit
    assert model.limit == pytest.approx(4 * rms(run(plain, x.astype(np.float64)) - oracle), rel=1e-6)
    assert model.limit < 0.3 * rms(oracle)
