"""Winograd's algorithm: the identity, its bound by plain loops, where it is chosen, and that wrong ones are caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from networks import images, integers, small

from refstack.backends import Step, backend
from refstack.compare import check_step
from refstack.contract import bound, gamma
from refstack.formats import Array, Dense
from refstack.graph import Node
from refstack.kernels import Case, Kernel, candidates, parse_case
from refstack.ops import Conv2d
from refstack.planner import plan
from refstack.reference.conv import conv2d
from refstack.verification.verdicts import verdict
from refstack.winograd import ALGORITHMS, F2, F4, Winograd

RNG = np.random.default_rng(0)


def layer_of(padding: tuple[int, int, int, int], c: int = 3, k: int = 4) -> tuple[Conv2d, Array]:
    return Conv2d((3, 3), (1, 1), padding, out_channels=k), RNG.standard_normal((k, c, 3, 3)).astype(np.float32)


@pytest.mark.parametrize("algorithm", [F2, F4])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 1, 1, 1), (2, 0, 1, 2)])
@pytest.mark.parametrize("size", [(3, 3), (4, 9), (11, 6)])
def test_it_is_the_convolution(algorithm: Winograd, padding: tuple[int, int, int, int], size: tuple[int, int]) -> None:
    op, w = layer_of(padding)
    x = RNG.standard_normal((2, 3, *size))
    wanted = conv2d(x, Dense.encode(w.reshape(4, -1)), None, op)
    np.testing.assert_allclose(algorithm.conv2d(x, w, padding, wanted.shape[2:]), wanted, rtol=0, atol=1e-12)


def test_f2_is_exact_on_integers() -> None:
    """Its matrices hold halves only, so filters of multiples of 4 stay whole numbers."""
    op, _ = layer_of((1, 1, 1, 1))
    x, w = RNG.integers(-9, 10, (1, 3, 6, 6)).astype(float), 4 * RNG.integers(-9, 10, (4, 3, 3, 3)).astype(np.float32)
    wanted = conv2d(x, Dense.encode(w.reshape(4, -1)), None, op)
    np.testing.assert_array_equal(F2.conv2d(x, w, op.padding, wanted.shape[2:]), wanted)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_bound_by_plain_loops(name: str) -> None:
    """S = |A'| (sum over c of (|G||w||G'|) * (|B'||d||B|)) |A| + |bias|, tile by tile."""
    algorithm = ALGORITHMS[name]
    op, w = layer_of((1, 0, 0, 1), c=2, k=2)
    x, bias = RNG.standard_normal((1, 2, 7, 6)).astype(np.float32), np.array([0.5, -2], np.float32)
    found = bound(Node("y", op, ("x",), Dense.encode(w.reshape(2, -1)), bias), (x,), name)
    at, bt, g, m = np.abs(algorithm.at), np.abs(algorithm.bt), np.abs(algorithm.g), algorithm.m
    wide = np.pad(np.abs(x[0].astype(float)), ((0, 0), (1, 9), (0, 9)))
    n, k, p, q = op.shape(x.shape)
    for f in range(k):
        for i in range(p):
            for j in range(q):
                top, left = i // m * m, j // m * m
                total = np.zeros((m + 2, m + 2))
                for c in range(2):
                    total += (g @ np.abs(w[f, c]) @ g.T) * (bt @ wide[c, top : top + m + 2, left : left + m + 2] @ bt.T)
                s = (at @ total @ at.T)[i - top, j - left] + abs(bias[f])
                assert found.scale[0, f, i, j] == pytest.approx(s, rel=1e-12)
                limit = gamma(3 + algorithm.roundings) * s
                assert np.broadcast_to(found.limit, (n, k, p, q))[0, f, i, j] == pytest.approx(limit, rel=1e-5)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_limit_is_the_formula_and_infinities_add_nothing(name: str) -> None:
    op, w = layer_of((1, 1, 1, 1), c=2, k=2)
    x = RNG.standard_normal((1, 2, 5, 5)).astype(np.float32)
    x[0, 0, 2, 2], x[0, :, 0] = 0, 0
    for scale in (1.0, 1e-42):  # tiny: what underflow may cost decides
        node = Node("y", op, ("x",), Dense.encode(w.reshape(2, -1) * scale))
        found, roundings = bound(node, (x,), name), 2 + ALGORITHMS[name].roundings
        limit = gamma(roundings) * found.scale * (1 + 2.0**-20) + roundings * 2.0**-126
        np.testing.assert_allclose(found.limit, limit, rtol=1e-12)
        holed = x.copy()
        holed[0, 0, 2, 2] = np.inf
        np.testing.assert_array_equal(bound(node, (holed,), name).scale, found.scale)


def computed(algorithm: Winograd) -> Callable[[Step], None]:
    """A kernel that rounds to float32 at every stage, with these matrices."""

    def run(step: Step) -> None:
        op, weight = step.case.op, step.node.weight
        assert isinstance(op, Conv2d)
        assert weight is not None
        w = weight.decode().reshape(op.out_channels, -1, 3, 3)
        y = algorithm.conv2d(step.inputs[0], w, op.padding, step.case.shape[2:])
        y = y + (0 if step.node.bias is None else step.node.bias[:, None, None])
        y = np.maximum(y, 0) if op.activation else y
        step.output[...] = np.minimum(y, 6) if op.activation == "relu6" else y

    return run


def planted(run: Callable[[Step], None], algorithm: str) -> Kernel:
    def window(case: Case) -> str | None:
        op = case.op
        assert isinstance(op, Conv2d)
        plain = (op.kernel, op.stride, op.dilation, op.groups) == ((3, 3), (1, 1), (1, 1), 1)
        return None if plain else "not 3x3 at stride 1"

    return Kernel("conv2d", "dense", "numpy", "planted", run, (window,), exact=False, algorithm=algorithm,
                  nonfinite="spreads", blocks=(4,))  # fmt: skip


def test_the_right_matrices_pass() -> None:
    for name, algorithm in ALGORITHMS.items():
        found = verdict(planted(computed(algorithm), name), examples=40)
        assert found.state == "PASS", found


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_step_is_held_to_its_kernels_own_bound(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    numpy, graph = backend("numpy"), integers(small())
    rows = (planted(computed(ALGORITHMS[name]), name), *numpy.kernels())
    monkeypatch.setattr(numpy, "kernels", lambda: rows)
    made, x = plan(graph, 2, "numpy"), images(graph)
    made.run(x)
    step = next(step for step in made.steps if step.kernel.algorithm == name)
    found = check_step(step, 1)

    def worst(algorithm: str) -> float:
        allowed = bound(step.node, step.inputs, algorithm)
        error = np.abs(step.output - allowed.value)
        return float((error[error > 0] / allowed.limit[error > 0]).max())

    assert found.worst == pytest.approx(worst(name))
    assert worst("direct") > 2 * worst(name)


def changed(matrix: str, at: tuple[int, int], factor: float) -> Winograd:
    values = getattr(F4, matrix).copy()
    values[at] *= factor
    return replace(F4, **{matrix: values})


@pytest.mark.parametrize(
    "wrong",
    [changed("at", (3, 4), -1), changed("bt", (3, 2), -1), changed("g", (3, 1), 0.99), changed("bt", (0, 2), 1.001)],
)
def test_a_wrong_entry_is_caught(wrong: Winograd) -> None:
    assert verdict(planted(computed(wrong), "winograd4"), examples=40).state == "FAIL"


def test_rounded_filters_are_caught() -> None:
    """Transformed filters kept in half precision stay inside the wide bound of long sums; T2 sees them."""

    class Half(Winograd):
        def filters(self, w: Array) -> Array:
            return super().filters(w).astype(np.float16).astype(float)

    half = Half(F4.at, F4.bt, F4.g, F4.roundings)
    found = verdict(planted(computed(half), "winograd4"), examples=60)
    assert found.state == "FAIL"


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("n1c64h32w32_k64r3s3_st1pd1g1_relu", "winograd4"),
        ("n1c256h8w8_k256r3s3_st1pd1g1", "winograd2"),
        ("n2c256h8w8_k256r3s3_st1pd1g1", "winograd4"),
        ("n1c512h4w4_k512r3s3_st1pd1g1", "map"),
        ("n8c512h4w4_k512r3s3_st1pd1g1", "winograd4"),
        ("n8c512h2w2_k512r3s3_st1pd1g1", "winograd2"),
        ("n1c64h32w32_k128r3s3_st2pd1g1", "blocked"),
        ("n1c64h5w5_k64r3s3_st1pd1g1", "winograd2"),
        ("n1c8h32w32_k64r3s3_st1pd1g1", "stem"),
    ],
)
def test_where_it_is_chosen(word: str, wanted: str) -> None:
    rows = backend("openmp").kernels()
    if not any(row.variant == "map" for row in rows):
        pytest.skip("the vectors of this processor are narrower than 16 floats")
    able, _ = candidates(parse_case(f"conv2d.dense:{word}"), rows)
    assert able[0].variant == wanted
