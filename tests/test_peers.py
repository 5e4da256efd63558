"""Peers: another runtime is timed on the same weights only if its logits are right; what it cannot is a row."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from benching import CELL, FAST, Notes

from refstack import checkpoint, onnx_graph
from refstack.benchmark import bench, runner
from refstack.benchmark.artifacts import Artifact, make
from refstack.benchmark.rounds import measure
from refstack.errors import CheckFailed, UsageError
from refstack.formats import Dense
from refstack.graph import Graph
from refstack.models.builder import Builder
from refstack.models.zoo import draw
from refstack.peers import FOLDER, HOME, PEERS, Peer, child
from refstack.peers.export import export, rms, unrounded
from refstack.peers.qdq import additions, rounded
from refstack.peers.setup import Host
from refstack.reference import run

FAKE = """
import os, signal, time
import numpy as np, onnxruntime
calls = 0
def convert(model, folder):
    {convert}
    return model
def load(model, threads, setting):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
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
    """With an addition, and of the size that int8 is calibrated with."""
    net = Builder("tiny", (3, 32, 32)).conv("conv1", 8, 3, padding=1).batchnorm().relu().maxpool("pool", 2)
    net = net.conv("conv2", 8, 3, padding=1).batchnorm().add("sum", "conv2_bn", "pool").relu()
    return draw(net.conv("conv3", 16, 3).relu().globalavgpool().flatten().linear("fc", 10).graph(), 0)


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


@pytest.fixture
def artifact(tmp_path: Path) -> Callable[[str], Artifact]:
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)
    return lambda technique: make("tiny", small(), technique, images, tmp_path, one_shot=True)


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


def host(artifact: Artifact) -> Host:
    """What Field.host gives, without asking first what is installed."""
    limit = export(artifact.files).limit
    files = {"input": artifact.files["input"], "wanted": artifact.files["oracle"]}
    model = {"runtime": str(PEERS["fake"].file), "model": str(artifact.graph_file.with_suffix(".0.onnx"))}
    load = {**files, **model, "limit": limit, "threads": 1, "setting": ""}
    return Host((sys.executable, "-I", str(HOME / "boot.py")), load, {})


@pytest.mark.parametrize("name", [name for name in PEERS if name != "onnxruntime"])
def test_every_peer_that_is_installed_is_right(network: str, tmp_path: Path, name: str) -> None:
    _, row = ask(network, tmp_path, name, peers_folder=Path(__file__).parent.parent / FOLDER)
    if row["status"] == "skipped":
        pytest.skip(f"{row['status_reason']} (make peers)")
    assert (row["status"], row["status_reason"]) == ("ok", None)


@pytest.mark.parametrize(
    ("fault", "status", "reason"),
    [
        ("y *= 1.001", "failed", "CheckFailed: the output has a root mean square error"),
        ("y[0, 3] = np.nan", "failed", "root mean square error of nan"),
        ("y = y.astype(np.float16)", "failed", "root mean square error"),
        ("y = y[:, :9]", "failed", "the output has shape (4, 9), wanted (4, 10)"),
        ("y = globals().setdefault('kept', y)", "failed", "another input gives the same output"),
        ("y += calls > 6", "failed", "an output of the timed runs has a root mean square error"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "failed", "crashed with SIGSEGV"),
        ("raise ValueError('no\\nway')", "failed", "cannot run the model: ValueError: no way"),
        ("time.sleep(1000)", "timeout", "no answer within 3 s"),
    ],
)
def test_a_wrong_peer_has_no_times(
    artifact: Callable[[str], Artifact], fake: Callable[..., str], fault: str, status: str, reason: str
) -> None:
    made = artifact("dense")
    theirs = replace(CELL, backend=fake(fault))
    policy = replace(FAST, load_timeout_s=3) if status == "timeout" else FAST
    wrong, ours = measure([(theirs, made), (CELL, made)], policy, 1, hosts={theirs: host(made)})
    assert (wrong.status, wrong.samples_ns) == (status, [])
    assert reason in str(wrong.reason)
    assert (ours.status, ours.reason) == ("ok", None)


@pytest.mark.parametrize(("processors", "refused"), [(0.5, False), (2.0, False), (2.9, True)])
def test_more_threads_than_asked_for_are_refused(
    monkeypatch: pytest.MonkeyPatch, processors: float, refused: bool
) -> None:
    session, clock = child.Session(), 0
    session.np, session.x, session.wanted, session.limit, session.threads = np, None, np.zeros((1, 2)), 1.0, 2

    def runs(_: None) -> np.ndarray[Any, Any]:
        nonlocal clock
        clock += 10**9
        return np.zeros((1, 2))

    session.run = runs
    monkeypatch.setattr(child.time, "perf_counter_ns", lambda: clock)
    monkeypatch.setattr(child.time, "process_time_ns", lambda: int(processors * clock))
    if refused:
        with pytest.raises(CheckFailed, match=r"2\.9 processors were busy, 2 threads were asked for"):
            session.time(3, 0)
    else:
        assert session.time(3, 0)["samples_ns"] == [10**9] * 3


def test_what_is_not_here_or_cannot_is_a_row_that_says_why(
    network: str, tmp_path: Path, fake: Callable[..., str]
) -> None:
    def reason(technique: str = "dense", **facts: Any) -> str:
        _, row = ask(network, tmp_path, fake(**facts), techniques=technique)
        assert (row["status"], row["samples_ns"]) == ("skipped", [])
        return str(row["status_reason"])

    assert reason(distributions=("numpy", "nowhere")) == 'nowhere not installed: pip install numpy "fake<2"'
    older = reason(distributions=("nowhere",), newest_python=(3, 11))
    assert older.endswith('"fake<2" (Python 3.11 or older)')
    assert "cannot convert the model: ValueError: too new" in reason(convert="raise ValueError('too new')")
    assert "with its own tools alone" in reason("int8")
    (tmp_path / "no" / "fake" / "bin").mkdir(parents=True)
    (tmp_path / "no" / "fake" / "bin" / "python").symlink_to("/bin/false")
    assert "its Python does not start: the process ended with exit status 1" in reason()


def test_a_peer_has_a_python_of_its_own(
    network: str, tmp_path: Path, fake: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "no" / "fake" / "bin" / "python"
    own.parent.mkdir(parents=True)
    own.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nexec {sys.executable} "$@"\n')
    own.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    _, row = ask(network, tmp_path, fake(convert="open('stray', 'w')"))  # converters leave files where they are called
    assert row["status"] == "ok", row["status_reason"]
    assert not Path("stray").exists()
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


def test_the_peers_int8_model_means_the_same(artifact: Callable[[str], Artifact]) -> None:
    made = artifact("int8")
    model, graph = export(made.files), checkpoint.load(made.graph_file)
    x, oracle = (np.load(path, allow_pickle=False) for path in (made.input_file, made.oracle_file))
    further = additions(graph, x)
    assert set(further) == {"conv2", "sum", "pool"}
    wanted = {"": oracle, "int8 additions": rounded(graph, x.astype(np.float64), further)}
    assert list(model.paths) == list(wanted)
    assert rms(wanted["int8 additions"] - oracle) > model.limit / 100
    for form, path in model.paths.items():
        read = onnx.load(path)
        assert rms(onnx_graph.run(read, {"input": x})["output"] - wanted[form]) < model.limit / 20
        kinds = [node.op_type for node in read.graph.node]
        assert kinds.count("QuantizeLinear") == (4 if form else 3)
        scales = {node.input[1] for node in read.graph.node if node.op_type == "QuantizeLinear"}
        assert all(not each.dims for each in read.graph.initializer if each.name in scales)


def test_parts_keep_a_technique_together(artifact: Callable[[str], Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    made = artifact("dense")
    todo = [(replace(CELL, technique=technique, threads=n), made) for technique in "abc" for n in range(1, 4)]
    for size, wanted in ((100, [9]), (7, [6, 3]), (4, [3, 3, 3]), (2, [2, 1, 2, 1, 2, 1])):
        room = 2 * size * (runner.CHILD_BYTES + runner.BYTES_PER_PARAMETER * made.facts["params"])
        monkeypatch.setattr(runner.psutil, "virtual_memory", lambda room=room: SimpleNamespace(available=room))
        parts = runner._parts(todo)
        assert [len(part) for part in parts] == wanted
        assert [cell for part in parts for cell in part] == todo
