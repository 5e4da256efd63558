"""Networks as ONNX files: what is written, that others compute the same, and that nothing wrong gets a file."""

from __future__ import annotations

import builtins
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnx
import pytest
from benching import strict_loads
from commands import here
from onnx import numpy_helper

import refstack as rs
from refstack import checkpoint, exporter, onnx_graph, ops
from refstack.errors import BackendUnavailable, CheckFailed, FormatError, UsageError
from refstack.exporter import JUDGES, compare, export
from refstack.formats import Csr, Int8
from refstack.graph import INPUT, Graph, Node
from refstack.kernels import Reorder
from refstack.models import MODELS
from refstack.models.zoo import draw


@pytest.fixture(scope="module")
def small() -> Graph:
    return draw(networks.small())


def changed(graph: Graph, name: str, by: float, place: int = 0) -> onnx.ModelProto:
    """The model of `graph` with one number of a constant multiplied."""
    model = onnx_graph.network(graph)
    (constant,) = (each for each in model.graph.initializer if each.name == name)
    values = numpy_helper.to_array(constant).copy()
    values.flat[place] *= by
    constant.CopyFrom(numpy_helper.from_array(values, name))
    return model


# What is written


@pytest.mark.parametrize("name", [*MODELS, "vgg16/weight-0.9", "mobilenet/ternary", "mobilenet/channel"])
def test_shipped(name: str, tmp_path: Path) -> None:
    """A file that says what it is, whose logits are refstack's as far as float32 goes."""
    graph = rs.load(name)
    done = rs.export(graph, tmp_path / "x.onnx")
    assert [each.name for each in done.layers] == [node.name for node in graph]
    assert all(each.passed for each in done.layers)
    assert done.worst.worst <= 1
    assert done.compared_by.startswith("onnxruntime ")
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]
    assert done.size_bytes == done.path.stat().st_size
    model = onnx.load(done.path)
    assert (model.producer_name, model.producer_version) == ("refstack", rs.__version__)
    facts = {each.key: each.value for each in model.metadata_props}
    assert facts["graph"] == graph.sha256()
    for key in ("model", "technique", "sha256"):
        assert facts[key] == graph.meta[key]
    assert facts.get("point") == graph.meta.get("point")
    assert {each.domain for each in model.opset_import} == {""}
    assert all(each.data_type == onnx.TensorProto.FLOAT for each in model.graph.initializer)


@pytest.mark.parametrize("technique", ["weight", "ternary", "half", "block"])
@pytest.mark.parametrize("judge", JUDGES)
def test_formats_become_dense(technique: str, judge: str, small: Graph, tmp_path: Path) -> None:
    graph = networks.like_trained(technique, small)
    wanted = {"weight": "csr", "block": "bsr"}.get(technique, technique)
    assert wanted in networks.formats(graph).values()
    done = export(graph, tmp_path / "x.onnx", compare_by=judge)
    assert done.compared_by.startswith(f"{judge} ")
    constants = {each.name: numpy_helper.to_array(each) for each in onnx.load(done.path).graph.initializer}
    for node in graph:
        if isinstance(node.op, ops.Conv2d | ops.Linear):
            assert node.weight is not None
            assert np.array_equal(constants[f"{node.name}:w"].reshape(node.weight.shape), node.weight.decode())


@pytest.mark.parametrize("judge", JUDGES)
def test_int8_stays_int8(judge: str, tmp_path: Path) -> None:
    """Small, and MobileNet, whose values lie on a half now and then."""
    images = networks.images(networks.chain())
    graphs = (
        rs.compress(draw(networks.chain()), "int8", calibration=images),
        rs.compress(rs.load("mobilenet"), "int8"),
    )
    for graph in graphs:
        done = export(graph, tmp_path / "x.onnx", compare_by=judge)
        assert sum(isinstance(node.weight, Int8) for node in graph) > 2
        model = onnx.load(done.path).graph
        assert {node.op_type for node in model.node} & {"QLinearConv", "ConvInteger", "MatMulInteger"}
        kinds = {each.name: each.data_type for each in model.initializer}
        assert all(kinds[f"{n.name}:w"] == onnx.TensorProto.UINT8 for n in graph if isinstance(n.weight, Int8))


@pytest.mark.parametrize("judge", JUDGES)
def test_any_batch(judge: str, small: Graph, tmp_path: Path) -> None:
    """One file for 1 and 3 images, with refstack's logits as far as float32 goes: integers, so to the bit."""
    graph = networks.integers(networks.small())
    path = export(graph, tmp_path / "x.onnx").path
    for n in (1, 3):
        x = networks.images(graph, n, whole=True)
        layers, y = compare(graph, path.read_bytes(), x, judge)
        assert all(each.passed for each in layers)
        assert np.array_equal(y, rs.run(graph, x))
    model = onnx.load(path).graph
    assert [each.name for each in (*model.input, *model.output)] == [INPUT, "output"]
    assert model.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_fixed_batch(small: Graph, tmp_path: Path) -> None:
    path = export(small, tmp_path / "x.onnx", batch=3).path
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    with pytest.raises(CheckFailed, match=r"(?s)onnxruntime does not run the model.*Expected: 3"):
        compare(small, path.read_bytes(), networks.images(small, 2), "onnxruntime")
    with pytest.raises(UsageError, match="batch is 0, wanted at least 1"):
        export(small, tmp_path / "y.onnx", batch=0)


def test_a_last_layer_may_be_called_output_and_no_other(small: Graph, tmp_path: Path) -> None:
    last = small.nodes[-1]
    export(small.with_nodes([*small.nodes[:-1], replace(last, name="output")]), tmp_path / "x.onnx")
    inner = [replace(small.nodes[0], name="output"), *small.nodes[1:]]
    inner[1] = replace(inner[1], inputs=("output",))
    with pytest.raises(FormatError, match="small: a layer before the last is called 'output'; rename it"):
        export(small.with_nodes(inner), tmp_path / "y.onnx")


# Wrong models


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("constant", ["stem:w", "dw:w", "fc2:w", "fc1:b", "stem_bn:var"])
def test_a_changed_number_is_caught(
    constant: str, judge: str, small: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousandth more; the layer is named, there is no file, an older one stays."""
    old = tmp_path / "old.onnx"
    old.write_bytes(b"as it was")
    graph = small.with_nodes([replace(n, bias=None if n.bias is None else n.bias + 1) for n in small])
    wrong = changed(graph, constant, 1.001)
    monkeypatch.setattr(onnx_graph, "network", lambda graph, batch: wrong)
    for path in (tmp_path / "x.onnx", old):
        layer = constant.partition(":")[0]
        with pytest.raises(CheckFailed, match=rf"not written, 1 of \d+ layers are wrong: FAILED {layer} {judge}"):
            export(graph, path, compare_by=judge)
    assert list(tmp_path.iterdir()) == [old]
    assert old.read_bytes() == b"as it was"


def test_a_changed_weight_of_a_shipped_network_is_caught() -> None:
    graph = rs.load("mobilenet")
    x = exporter._images(graph, 2)
    layers, _ = compare(graph, changed(graph, "conv1:w", 1.01, 100).SerializeToString(), x, "onnxruntime")
    assert [each.name for each in layers if not each.passed] == ["conv1"]


def test_a_changed_int8_weight_is_caught() -> None:
    graph = rs.compress(rs.load("mobilenet"), "int8")
    name = next(node.name for node in graph if isinstance(node.weight, Int8))
    model = onnx_graph.network(graph)
    (constant,) = (each for each in model.graph.initializer if each.name == f"{name}:w")
    values = numpy_helper.to_array(constant).copy()
    values.flat[0] += 1 if values.flat[0] < 255 else -1
    constant.CopyFrom(numpy_helper.from_array(values, constant.name))
    layers, _ = compare(graph, model.SerializeToString(), exporter._images(graph, 2), "onnxruntime")
    assert [each.name for each in layers if not each.passed] == [name]


def test_wrong_wiring_is_caught(small: Graph) -> None:
    """A node that reads its neighbour's input, and an output that is not the last layer's value."""
    x = networks.images(small)
    wrong = onnx_graph.network(small)
    (node,) = (each for each in wrong.graph.node if each.output[0] == "stem_relu")
    node.input[0] = "stem"
    layers, _ = compare(small, wrong.SerializeToString(), x, "onnx")
    assert [each.name for each in layers if not each.passed] == ["stem_relu"]
    wrong = onnx_graph.network(small)
    wrong.graph.node[-1].op_type = "Neg"
    with pytest.raises(CheckFailed, match="the model's output is not the value of its last layer, fc2"):
        compare(small, wrong.SerializeToString(), x, "onnx")


def test_a_model_that_is_none(small: Graph) -> None:
    """Two layers that write the same name, and a layer that ONNX has not."""
    nodes = list(small.nodes)
    clash = small.with_nodes([replace(nodes[0], name="a"), replace(nodes[1], name="a:w", inputs=("a",)), *(
        replace(each, inputs=tuple("a:w" if i == nodes[1].name else i for i in each.inputs)) for each in nodes[2:]
    )])  # fmt: skip
    with pytest.raises(FormatError, match="ONNX's checker refuses the model"):
        compare(clash, onnx_graph.network(clash).SerializeToString(), networks.images(clash), "onnx")

    with pytest.raises(FormatError, match="y: reorder has no ONNX operator"):
        onnx_graph.network(Graph("odd", (3, 4, 4), (Node("y", Reorder(), (INPUT,)),)))


def test_too_large(tmp_path: Path) -> None:
    """Refused before a weight is decoded."""
    rows, cols = 2**15, 2**15
    weight = Csr(np.zeros(rows + 1, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32), cols)
    graph = Graph("wide", (cols, 1, 1), (Node("y", ops.Conv2d((1, 1), out_channels=rows), (INPUT,), weight),))
    with pytest.raises(FormatError, match="wide: 1073741824 parameters are 4294967296 bytes of float32"):
        export(graph, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


# Places and what is missing


def test_bad_place(small: Graph, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nowhere/x.onnx: cannot write \d+ bytes: No such file or directory"):
        export(small, tmp_path / "nowhere" / "x.onnx")
    with pytest.raises(UsageError, match=r"got '.*x.safetensors', wanted a file that ends in .onnx"):
        export(small, tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match="compare_by is 'tvm', wanted onnxruntime or onnx"):
        export(small, tmp_path / "x.onnx", compare_by="tvm")
    assert not list(tmp_path.iterdir())


def test_without_onnxruntime(small: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnx's own reference does it."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    assert export(small, tmp_path / "x.onnx").compared_by == f"onnx {onnx.__version__}"
    with pytest.raises(BackendUnavailable, match="onnxruntime is not installed; pip install onnxruntime"):
        export(small, tmp_path / "x.onnx", compare_by="onnxruntime")


def test_without_onnx(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named; nothing else of refstack needs it."""
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "onnx":
            raise ModuleNotFoundError("No module named 'onnx'")
        return real(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "refstack.onnx_graph")
    monkeypatch.delattr("refstack.onnx_graph")
    monkeypatch.setattr(builtins, "__import__", without)
    done = here(capfd, "export", "mobilenet", "-o", str(tmp_path / "x.onnx"))
    assert done.returncode == 3
    assert (
        "exporting needs onnx, which cannot be imported (No module named 'onnx'); pip install \"refstack-engine["
        in (done.stderr)
    )
    assert not list(tmp_path.iterdir())


# Command line


def test_command(capfd: pytest.CaptureFixture[str], small: Graph, tmp_path: Path) -> None:
    """A file of one's own; the same command again replaces what is there."""
    source, out = tmp_path / "small.safetensors", tmp_path / "small.onnx"
    checkpoint.save(small, source)
    for _ in range(2):
        done = here(capfd, "export", str(source), "-o", str(out), "--batch", "2", "-f", "json")
        assert done.returncode == 0, done.stderr
        (record,) = strict_loads(done.stdout)
        assert record.pop("max_error_vs_bound") <= 1
        assert record.pop("layer") in {node.name for node in small}
        assert record.pop("compared_by").startswith("onnxruntime")
        wanted = {
            "file": str(out),
            "size_bytes": out.stat().st_size,
            "opset": 19,
            "batch": 2,
            "n_checked": len(small.nodes),
        }
        assert record == wanted
    done = here(capfd, "export", str(source), "-o", str(out))
    assert " any " in done.stdout
    facts = {each.key: each.value for each in onnx.load(out).metadata_props}
    assert facts["model"] == "small"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mobilnet", "-o", "x.onnx"), "unknown model 'mobilnet': did you mean 'mobilenet'"),
        (("mobilenet", "-o", "x.pb"), "wanted a file that ends in .onnx"),
        (("vgg16/wait-0.9", "-o", "x.onnx"), "no trained point 'vgg16/wait-0.9'"),
        (("mobilenet", "-o", "x.onnx", "--batch", "0"), "greater than or equal to 1"),
        (("mobilenet",), "--output"),
    ],
)
def test_bad_input(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                   arguments: tuple[str, ...], message: str) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    done = here(capfd, "export", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_failed_comparison_has_status_1(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even for a weight whose input is 0 on the images, which no output shows."""
    wrong = changed(rs.load("mobilenet"), "fc:w", 2.0)
    monkeypatch.setattr(onnx_graph, "network", lambda graph, batch: wrong)
    done = here(capfd, "export", "mobilenet", "-o", str(tmp_path / "x.onnx"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "not written, 1 of 84 layers are wrong: FAILED fc onnxruntime" in done.stderr
    assert "The model's weight is another than the network's." in done.stderr
    assert not list(tmp_path.iterdir())
