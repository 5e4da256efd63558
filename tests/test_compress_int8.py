"""int8: the grids, where they stand, and what they may cost a layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from networks import chain, images, matrix, small

import refstack as rs
from refstack import ops
from refstack.compression import compress
from refstack.compression.quantize import best_grid, grid
from refstack.compression.trained import under
from refstack.errors import UsageError
from refstack.formats import Dense, Int8, Quant, Ternary, Ternary8
from refstack.graph import INPUT, Graph, Node
from refstack.models import MODELS
from refstack.models.builder import Builder
from refstack.models.zoo import draw
from refstack.reference import layer, trace

NETWORKS = {"small": small, "chain": chain}
U = 2.0**-24


def assert_layers_within_half_a_step(graph: Graph, x: np.ndarray) -> int:
    """Every int8 layer gives the float64 answer on its own grid: half a step of the output (it is rounded once) and
    half a step of the accumulator (the bias is) away, and 2**-22 of S for the float32 scales."""
    values, compared = trace(graph, x), 0
    for node in graph:
        weight = node.weight
        if not isinstance(weight, Int8):
            continue
        real = weight.input.scale * (values[node.inputs[0]].astype(np.float64) - weight.input.zero_point)
        exact = replace(node, weight=Dense(weight.decode().astype(np.float64)))  # type: ignore[arg-type]
        wanted = layer(exact, real)
        bias = None if node.bias is None else np.abs(node.bias)
        size = layer(replace(exact, weight=Dense(np.abs(weight.decode())), bias=bias), np.abs(real))
        unit = weight.unit.reshape((-1, 1, 1) if wanted.ndim == 4 else -1)
        limit, got = 0.5 * unit + 2.0**-22 * size, values[node.name].astype(np.float64)
        if weight.output:
            got = weight.output.scale * (got - weight.output.zero_point)
            ends = [weight.output.scale * (end - weight.output.zero_point) for end in (-128, 127)]
            wanted, limit = np.clip(wanted, *ends), limit + 0.5 * weight.output.scale
        assert (np.abs(got - wanted) <= limit).all(), node.name
        compared += got.size
    return compared


@pytest.mark.parametrize("ranges", ["minmax", "mse"])
@pytest.mark.parametrize("network", NETWORKS)
def test_int8_layers_are_within_half_a_step(network: str, ranges: str) -> None:
    graph = draw(NETWORKS[network](), 8)
    quantized = compress(graph, "int8", calibration=images(graph, 30), ranges=ranges)
    assert assert_layers_within_half_a_step(quantized, images(graph, 5, seed=9)) > 1000
    for name in ("b",) if network == "chain" else ("stem",):
        weight = quantized[name].weight
        assert isinstance(weight, Int8)
        wrong = replace(quantized[name], weight=replace(weight, scale=weight.scale * np.float32(1.02)))
        broken = quantized.with_nodes([wrong if node.name == name else node for node in quantized])
        other = trace(broken, images(graph, 1))[name], trace(quantized, images(graph, 1))[name]
        assert (other[0] != other[1]).any()  # a scale that is 2 % off shows


def test_a_wrong_grid_is_caught_by_the_bound() -> None:
    graph = draw(chain(), 8)
    quantized = compress(graph, "int8", calibration=images(graph, 30))
    weight = quantized["b"].weight
    assert isinstance(weight, Int8)
    assert weight.output is not None
    x = images(graph, 5)
    values = trace(quantized, x)
    off = replace(weight.output, scale=weight.output.scale * 1.02)
    got = off.scale * (values["b"].astype(np.float64) - off.zero_point)
    wanted = weight.output.scale * (values["b"].astype(np.float64) - weight.output.zero_point)
    assert np.abs(got - wanted).max() > 0.5 * weight.output.scale


def test_int8_is_exact_on_integers_of_its_range() -> None:
    """Rows that reach 127 and inputs that fill -128..127 have scale 1: the layer gives the very integers."""
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (4, 27)).astype(np.float32)
    weight[:, 0] = 127
    bias = rng.integers(-1000, 1000, 4).astype(np.float32)
    nodes = (
        Node("conv", ops.Conv2d((3, 3), padding=(1, 1, 1, 1), out_channels=4), (INPUT,), Dense(weight), bias),
        Node("gap", ops.GlobalAvgPool(), ("conv",)),
        Node("flat", ops.Flatten(), ("gap",)),
        Node("fc", ops.Linear(2), ("flat",), Dense.encode(np.ones((2, 4)))),
    )
    graph = Graph("exact", (3, 8, 8), nodes)
    x = rng.integers(-128, 128, (2, 3, 8, 8)).astype(np.float32)
    x[0, 0, 0, :2] = -128, 127
    quantized = compress(graph, "int8", calibration=x)
    weight8 = quantized["conv"].weight
    assert isinstance(weight8, Int8)
    assert weight8.input == Quant(1.0, 0)
    np.testing.assert_array_equal(trace(quantized, x)["conv"], trace(graph, x)["conv"])


def test_where_numbers_are_int8() -> None:
    names = {name: [node.name for node in compress(draw(build(), 1), "int8") if isinstance(node.op, ops.Quantize)]
             for name, build in MODELS.items()}  # fmt: skip
    assert names["vgg16"] == names["mobilenet"] == ["input_int8"]
    adds = [f"layer{stage}_{block}_add_int8" for stage in (1, 2, 3, 4) for block in (1, 2)][:-1]
    assert names["resnet18"] == ["input_int8", "conv1_int8", *adds]

    quantized = compress(draw(small(), 1), "int8", calibration=images(small(), 20))
    kinds = {name: np.dtype(kind).name for name, kind in quantized.dtypes().items()}
    assert {name for name, kind in kinds.items() if kind == "int8"} == {
        "input_int8", "stem", "mid", "add_int8", "dw", "flatten_int8",
    }  # fmt: skip
    outputs = {node.name: node.weight.output for node in quantized if isinstance(node.weight, Int8)}
    assert [name for name, output in outputs.items() if output is None] == ["back", "proj", "pw", "fc1"]
    assert all(output.zero_point == -128 for output in outputs.values() if output)  # after ReLU nothing is below 0

    carried = compress(draw(chain(), 1), "int8", calibration=images(chain(), 20))
    assert [node.name for node in carried if isinstance(node.op, ops.Quantize)] == ["input_int8"]
    assert {carried.dtypes()[name] for name in ("pool", "pool2", "flatten")} == {np.int8}


def test_a_value_with_other_readers_stays_float32() -> None:
    """Max-pool's int8 input would not do for the addition that reads the same value."""
    net = Builder("shared", (3, 8, 8)).conv("a", 4, 3, padding=1).relu().maxpool("pool", 2)
    net.conv("b", 4, 1).add("sum", "b", "pool").globalavgpool().flatten().linear("fc", 2)
    graph = draw(net.graph(), 0)
    quantized = compress(graph, "int8", calibration=images(graph, 9))
    assert [node.name for node in quantized if isinstance(node.op, ops.Quantize)] == ["input_int8", "pool_int8"]
    weight = quantized["a"].weight
    assert isinstance(weight, Int8)
    assert weight.output is None
    assert assert_layers_within_half_a_step(quantized, images(graph)) > 100


@pytest.mark.parametrize("network", NETWORKS)
def test_a_ternary_network_keeps_its_two_bits(network: str) -> None:
    """Folded batch-norm gives each row a scale of its own; int8 of the folded network has the very same values."""
    graph = compress(draw(NETWORKS[network](), 8), "ternary", calibration=images(NETWORKS[network](), 20))
    ternary = {node.name for node in graph if isinstance(node.weight, Ternary)}
    assert len(ternary) >= 3
    x = images(graph, 30)
    quantized = compress(graph, "int8", calibration=x)
    kinds = {node.name: type(node.weight) for node in quantized if isinstance(node.weight, Int8)}
    assert {name for name, kind in kinds.items() if kind is Ternary8} == ternary
    assert set(kinds.values()) == {Int8, Ternary8}
    assert not any(isinstance(node.op, ops.BatchNorm) for node in quantized)
    assert assert_layers_within_half_a_step(quantized, images(graph, 5, seed=9)) > 1000
    assert quantized.meta["compression"]["of"]["technique"] == "ternary"
    stored = {name: quantized[name].weight.nbytes for name in ternary}  # type: ignore[union-attr]
    for name in ternary:
        rows, cols = quantized[name].weight.shape  # type: ignore[union-attr]
        assert stored[name] == rows * (-(-cols // 4) + 6)


def test_int8_of_a_trained_point(tmp_path: Path) -> None:
    graph, point = under("mobilenet", rs.load("mobilenet"), "ternary+int8")
    assert point is None
    assert {node.weight.format for node in graph if node.weight is not None} == {"int8", "ternary8", "dense"}
    rs.save(graph, tmp_path / "m.safetensors")
    assert rs.load(tmp_path / "m.safetensors").sha256() == graph.sha256()
    with pytest.raises(UsageError, match=r"unknown technique 'tenary'; .* did you mean mobilenet/ternary"):
        under("mobilenet", rs.load("mobilenet"), "tenary+int8")


def test_grids() -> None:
    assert grid(np.array([0.0, 255.0])) == Quant(1.0, -128)
    assert grid(np.array([-128.0, 127.0])) == Quant(1.0, 0)
    assert grid(np.array([3.0, 510.0])) == Quant(2.0, -128)  # 0 is on every grid
    assert grid(np.array([-510.0, -3.0])) == Quant(2.0, 127)
    assert grid(np.zeros(3)) == Quant(1.0, -128)
    rng = np.random.default_rng(0)
    heavy = np.concatenate([rng.standard_normal(10_000), [40.0]])

    def error(quant: Quant) -> float:
        got = quant.scale * (quant.quantize(heavy) - np.float64(quant.zero_point))
        return float(np.square(got - heavy).mean())

    assert best_grid(heavy).scale < grid(heavy).scale
    assert error(best_grid(heavy)) < error(grid(heavy))


def test_a_dead_filter_keeps_its_bias() -> None:
    """A row of zeros has no scale of its own; its bias must still come out, to half a step of the accumulator."""
    graph = draw(Builder("dead", (3, 8, 8)).conv("a", 8, 3).globalavgpool().flatten().linear("fc", 2).graph(), 1)
    weight, bias = matrix(graph, "a"), np.linspace(1, 2, 8).astype(np.float32)
    weight[3], weight[4] = 0, 1e-30
    x = images(graph, 20)
    for constant in (bias, np.zeros(8, np.float32)):
        nodes = [replace(n, weight=Dense(weight), bias=constant) if n.name == "a" else n for n in graph]
        quantized = compress(graph.with_nodes(nodes), "int8", calibration=x)
        int8 = quantized["a"].weight
        assert isinstance(int8, Int8)
        got = trace(quantized, x)["a"]
        for row in (3, 4):
            half = 0.5 * int8.unit[row] + 2 * U * constant[row] + 1e-28  # the last for row 4's products
            assert half < 1e-3
            assert (np.abs(got[:, row] - constant[row]) <= half).all()
