"""The mathematics of compression while training, in NumPy: masks, Fisher's saliency and costs, ternary gradients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import chain, small

from refstack.compression import fisher
from refstack.compression.channel import units
from refstack.compression.layers import count
from refstack.compression.magnitude import smallest_to_zero
from refstack.compression.masks import block_sums, masks, ramp, score
from refstack.compression.ternary import gradients, quantise, start, threshold
from refstack.errors import UsageError
from refstack.formats import Array
from refstack.models import MODELS, zoo
from refstack.passes import shrink_channels

LEVELS = st.floats(0, 0.99)


def drawn(seed: int, *shapes: tuple[int, int]) -> dict[str, Array]:
    """Matrices with many equal magnitudes and a scale of their own."""
    rng = np.random.default_rng(seed)
    return {f"m{i}": (rng.integers(-4, 5, shape) * 10.0**i).astype(np.float32) for i, shape in enumerate(shapes)}


# Masks


def test_ramp() -> None:
    assert [ramp(t, 0.8) for t in (0, 0.5, 1, 2)] == pytest.approx([0, 0.7, 0.8, 0.8])


@given(st.integers(0, 99), LEVELS)
def test_layer_masks_are_one_shot_pruning(seed: int, level: float) -> None:
    matrices = drawn(seed, (5, 7), (3, 4))
    for name, mask in masks(matrices, level, "layer").items():
        assert mask.dtype == bool
        assert (~mask).sum() == count(level, mask.size)
        assert np.array_equal(matrices[name] * mask, smallest_to_zero(matrices[name], level))


@given(st.integers(0, 99), LEVELS, st.sampled_from(["global", "lamp"]))
def test_masks_over_all_layers_take_the_lowest_scores(seed: int, level: float, scope: str) -> None:
    matrices = drawn(seed, (5, 7), (3, 4), (1, 6))
    kept = masks(matrices, level, scope)  # type: ignore[arg-type]
    scores = {name: score(np.abs(matrix), scope) for name, matrix in matrices.items()}  # type: ignore[arg-type]
    gone = np.concatenate([scores[name][~kept[name]] for name in kept])
    stay = np.concatenate([scores[name][kept[name]] for name in kept])
    assert gone.size == count(level, sum(matrix.size for matrix in matrices.values()))
    assert not gone.size or gone.max() <= stay.min()


def test_lamp_score() -> None:
    w = np.array([[3.0, -1.0], [2.0, 0.0]])
    assert score(np.abs(w), "lamp") == pytest.approx(np.array([[1, 1 / 14], [4 / 13, 0]]))
    assert score(np.zeros((2, 2)), "lamp").tolist() == [[0, 0], [0, 0]]
    # the scale of a layer does not matter, and every layer keeps its largest weight
    matrices = {"large": 1e3 * w, "little": 1e-3 * w}
    kept = masks(matrices, 0.5, "lamp")
    assert np.array_equal(kept["large"], kept["little"])
    assert kept["large"].tolist() == [[True, False], [True, False]]
    assert not masks(matrices, 0.75, "global")["little"].any()


@pytest.mark.parametrize("block", [(2, 1), (4, 3), (16, 1)])
def test_blocks_stay_or_go_whole(block: tuple[int, int]) -> None:
    matrices = drawn(3, (9, 7), (4, 5))
    r, c = block
    for scope in ("layer", "lamp"):
        kept = masks(matrices, 0.6, scope, block)  # type: ignore[arg-type]
        blocks = 0
        for name, mask in kept.items():
            assert mask.shape == matrices[name].shape
            for i in range(0, mask.shape[0], r):
                for j in range(0, mask.shape[1], c):
                    part = mask[i : i + r, j : j + c]
                    assert part.all() or not part.any()
                    blocks += not part.any()
        sizes = [block_sums(matrix, block).size for matrix in matrices.values()]
        assert blocks == (sum(count(0.6, n) for n in sizes) if scope == "layer" else count(0.6, sum(sizes)))


def test_block_sums() -> None:
    assert block_sums(np.arange(6.0).reshape(2, 3), (2, 2)).tolist() == [[0 + 1 + 3 + 4, 2 + 5]]


# Fisher


def test_saliency() -> None:
    products = np.array([[1.0, -2.0], [3.0, 0.0]], np.float32)
    assert fisher.saliency(products).tolist() == [(1 + 9) / 4, 4 / 4]


def test_saliency_is_what_the_loss_gains_without_a_channel() -> None:
    """For log-likelihoods that are quadratic in the gate, delta is the mean gain to second order, over many images."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(200_000)  # dL/dz of -log N(y; z, 1/h) at the true z is sqrt(h) * noise
    h = 0.3
    products = np.sqrt(h) * noise[:, None]
    gain = 0.5 * h  # E[L(0)] - E[L(1)] = h/2 * (0 - 1)**2
    assert fisher.saliency(products)[0] == pytest.approx(gain, rel=0.02)


@pytest.mark.parametrize("make", [small, chain, *MODELS.values()])
def test_size_is_that_of_the_shrunk_network(make: object) -> None:
    graph = zoo.draw(make())  # type: ignore[operator]
    rng = np.random.default_rng(1)
    keep = {}
    for unit, names in units(graph).items():
        width = graph[unit].weight.shape[0]  # type: ignore[union-attr]
        keep |= dict.fromkeys(names, np.sort(rng.choice(width, rng.integers(1, width + 1), replace=False)))
    assert keep
    shrunk = shrink_channels(graph, keep)
    assert fisher.size(graph, keep) == (shrunk.params, shrunk.macs)
    assert fisher.size(graph, {}) == (graph.params, graph.macs)


def test_costs() -> None:
    graph = zoo.draw(chain())
    without = shrink_channels(graph, {"b": np.arange(4)})
    params, macs = 1 - without.params / graph.params, 1 - without.macs / graph.macs
    assert fisher.costs(graph, ("b",), 4, 1.0) == pytest.approx(params / 4)
    assert fisher.costs(graph, ("b",), 4, 0.0) == pytest.approx(macs / 4)
    assert fisher.costs(graph, ("b",), 4, 0.25) == pytest.approx((0.25 * params + 0.75 * macs) / 4)


@pytest.mark.parametrize("multiple", [1, 4])
@pytest.mark.parametrize("level", [0.0, 0.4, 0.8, 0.99])
def test_choice_is_the_penalised_one_and_as_large_as_allowed(level: float, multiple: int) -> None:
    graph = zoo.draw(chain())
    tied = units(graph)
    rng = np.random.default_rng(2)
    scores = {unit: rng.random(graph[unit].weight.shape[0]) for unit in tied}  # type: ignore[union-attr]
    cost = {unit: float(rng.random()) + 0.1 for unit in tied}
    target = fisher.target(graph, level)
    keep = fisher.choose(graph, tied, scores, target, multiple, cost)
    assert set(keep) == set(tied)
    least_possible = all(len(kept) <= multiple for kept in keep.values())
    assert fisher.size(graph, keep)[0] <= target or (least_possible and level > 0.7)
    for unit, kept in keep.items():
        assert len(kept) == len(scores[unit]) or len(kept) % multiple == 0
        gone = np.setdiff1d(np.arange(len(scores[unit])), kept)
        assert not gone.size or scores[unit][gone].max() <= scores[unit][kept].min()
    if multiple == 1:  # some beta parts those that go, delta < beta * cost, from those that stay
        ratio = {unit: scores[unit] / cost[unit] for unit in tied}
        gone_ratios = [np.delete(ratio[unit], keep[unit]) for unit in tied]
        beta = max((r.max() for r in gone_ratios if r.size), default=0)
        least = {unit: ratio[unit][keep[unit]].min() for unit in tied}
        assert all(least[unit] >= beta for unit in tied if len(keep[unit]) > 1)


def test_equal_ranks_take_the_same_share_of_every_layer() -> None:
    graph = zoo.draw(MODELS["vgg16"]())
    rng = np.random.default_rng(0)
    tied = units(graph)
    scores = {unit: 10.0**i * rng.random(graph[unit].weight.shape[0]) for i, unit in enumerate(tied)}  # type: ignore[union-attr]
    keep = fisher.choose(graph, tied, fisher.ranks(scores), fisher.target(graph, 0.75), 8)
    shares = np.array([len(keep[unit]) / len(scores[unit]) for unit in tied])
    assert 0.9 * graph.params / 4 <= fisher.size(graph, keep)[0] <= graph.params / 4
    assert np.ptp(shares) <= 8 / 64


def test_scores_of_another_network() -> None:
    with pytest.raises(UsageError, match="a: 3 scores for 6 channels"):
        fisher.choose(chain(), units(chain()), {"a": np.zeros(3)}, 10)


# Ternary


def test_ternary_starts_as_in_one_shot() -> None:
    w = np.random.default_rng(0).standard_normal((6, 9)).astype(np.float32)
    np.testing.assert_allclose(quantise(w, *start(w, 0.2), 0.2), threshold(w, 0.2), rtol=1e-6)
    assert start(np.zeros((2, 2), np.float32), 0.1) == (1, 1, 1)


def test_ternary_gradients() -> None:
    rng = np.random.default_rng(1)
    w, g = rng.standard_normal((2, 4, 7))
    unit, positive, negative, level = 0.5, 1.2, 0.7, 0.3
    found = gradients(g, w, unit, positive, negative, level)

    def loss(p: float, n: float) -> float:  # linear in the scales, so that differences are exact
        return float((g * quantise(w, unit, p, n, level)).sum())

    assert found.positive == pytest.approx(loss(positive + 1, negative) - loss(positive, negative))
    assert found.negative == pytest.approx(loss(positive, negative + 1) - loss(positive, negative))
    assert found.negative * g[w < -level * np.abs(w).max()].sum() < 0, (
        "the scale of negative weights enters with a minus"
    )
    delta = level * np.abs(w).max()
    for index in np.ndindex(w.shape):
        factor = positive if w[index] > delta else negative if w[index] < -delta else 1
        assert found.latent[index] == pytest.approx(factor * g[index])
