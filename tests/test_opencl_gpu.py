"""Kernels for GPUs and the launch that walks a network, on whatever device is here: PoCL runs them with one group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from refstack.backends import opencl
from refstack.backends.opencl import devices, packing_gpu
from refstack.compare import check_plan
from refstack.graph import Graph
from refstack.kernels import parse_case
from refstack.models.builder import Builder
from refstack.models.zoo import draw
from refstack.passes import prepare
from refstack.planner import Plan, plan

pytestmark = pytest.mark.skipif(opencl.unavailable() is not None, reason=str(opencl.unavailable()))


def network() -> Graph:
    """A shortcut around two convolutions, a depthwise one, a pool, a linear layer."""
    net = Builder("branches", (3, 6, 6)).conv("stem", 8, 3, padding=1).batchnorm().relu()
    start = net.last
    main = net.conv("one", 8, 3, padding=1).batchnorm().relu().conv("two", 8, 3, padding=1).batchnorm().last
    net.add("sum", main, start).relu().conv("deep", 8, 3, padding=1, groups=8).batchnorm().maxpool("pool", 2)
    return prepare(draw(net.flatten().linear("fc", 5).graph(), 1))


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Plan, np.ndarray]]:
    """The network on the rows of a GPU; one tile, so that little is compiled, and sums in parts."""
    from refstack.backends.opencl.rows import rows

    monkeypatch.setattr(packing_gpu, "SMALL", packing_gpu.SMALL[:1])
    monkeypatch.setattr(packing_gpu, "_parts", lambda tile, case, groups: [min(3, tile.chunks(case))])
    listed = rows("opencl", replace(devices.chosen(), kind="gpu"))
    monkeypatch.setattr(opencl, "kernels", lambda: listed)
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 6), np.float32)
    return plan(network(), 2, "opencl"), x


def test_a_walk_gives_the_bits_of_the_steps_one_by_one(planned: tuple[Plan, np.ndarray]) -> None:
    from refstack.backends.opencl.calls import walkable
    from refstack.backends.opencl.fused import Walk

    made, x = planned
    verdict = check_plan(made, x)
    assert verdict.passed, verdict.problem
    assert walkable(made.steps)
    assert any(step.kernel.run.parts(step.case) > 1 for step in made.steps), "no sum was split"
    walk = Walk(made.steps, [made.y], 0)
    made.x[...] = x
    for _ in range(2):
        made.y[...] = np.nan
        walk.run()
        np.testing.assert_array_equal(made.y, verdict.output)
    assert any(call.args["joined"] >= 0 for call in walk.layout.calls), "the addition stayed a call of its own"


def test_groups_meet_wherever_a_call_reads_what_another_wrote(planned: tuple[Plan, np.ndarray]) -> None:
    from refstack.backends.opencl.calls import Layout

    layout = Layout(planned[0].steps, [planned[0].y])
    kinds = {call.kind: 0 for call in layout.calls}
    fresh: set[int] = set()
    for call, line in zip(layout.calls, layout.table(kinds, 4), strict=True):
        if line["wait"]:
            fresh = set()
        assert not call.reads & fresh, "a call reads what was written since the last meeting"
        assert all(place < layout.size for place in call.at)
        fresh |= call.writes


def test_what_is_read_twice_is_not_swallowed_by_an_addition(planned: tuple[Plan, np.ndarray]) -> None:
    from refstack.backends.opencl.calls import Layout

    net = Builder("twice", (3, 6, 6)).conv("one", 8, 3, padding=1)
    main = net.conv("two", 8, 3, padding=1).last
    net.add("sum", main, "one").add("again", "sum", main)
    made = plan(prepare(draw(net.graph(), 1)), 2, "opencl")
    layout = Layout(made.steps, [made.y])
    assert all(call.args["joined"] < 0 for call in layout.calls)


def test_of_outputs_that_share_a_place_the_last_comes_back() -> None:
    from refstack.backends.opencl.segment import last

    room = np.zeros(64, np.float32)
    early, late = room[:64], room[:8]
    assert [each.size for each in last([early, late])] == [8]


def test_every_tile_is_one_that_its_kernel_can_be() -> None:
    """What conv2d_dense_tile.cl divides must divide, and local memory holds it."""
    for tile in (*packing_gpu.SMALL, *packing_gpu.LARGE, *packing_gpu.SMALL_INT8, *packing_gpu.LARGE_INT8):
        teams, left = divmod(tile.items * tile.tk * tile.tp, tile.kt * tile.pt)
        assert (teams >= 1, left) == (True, 0), tile
        assert (tile.d % teams, tile.items % tile.pt, tile.d % (tile.items // tile.pt)) == (0, 0, 0), tile
        assert tile.room * 4 <= 48 << 10, tile
        assert {tile.tk, tile.tp} <= {4, 8}, tile
        assert tile.stages >= 2, tile


def test_parts_never_outnumber_the_portions_of_a_sum() -> None:
    for word in ("n1c3h32w32_k64r3s3_st1pd1g1", "n1c512h2w2_k512r3s3_st1pd1g1", "n128c64h32w32_k64r3s3_st1pd1g1"):
        for format in ("dense", "int8"):
            chosen = packing_gpu.choose(parse_case(f"conv2d.{format}:{word}"), 264, 48 << 10)
            assert 1 <= chosen.parts <= chosen.tile.chunks(parse_case(f"conv2d.{format}:{word}"))


def test_an_image_takes_as_few_portions_as_its_rows_fill() -> None:
    image, layer = (parse_case(f"conv2d.dense:n1c{c}h32w32_k64r3s3_st1pd1g1") for c in (3, 64))
    tile = packing_gpu.Tile(64, 16, 4, 4, 16, 6)
    assert (tile.chunks(image), tile.chunks(layer)) == (2, 36)
    assert tile.chunks(parse_case("conv2d.int8:n1c3h32w32_k64r3s3_st1pd1g1_to-int8")) == 9


def test_a_shared_sum_leaves_its_counters_at_zero(planned: tuple[Plan, np.ndarray]) -> None:
    """Or the next run would take a group for the last that is not."""
    import pyopencl as cl

    from refstack.backends.opencl.segment import Segment

    step = next(step for step in planned[0].steps if step.kernel.run.parts(step.case) > 1)
    segment = Segment([step], [step.output])
    segment.run()
    (counters,) = [(buffer, array) for buffer, array in segment.packed if array is step.packed["arrived"]]
    held = np.full_like(counters[1], -1)
    cl.enqueue_copy(segment.queue, held, counters[0])
    assert not held.any(), held


def test_long_calls_are_launched_one_by_one(planned: tuple[Plan, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    from refstack.backends.opencl import calls

    steps = planned[0].steps
    macs = sum(step.case.op.macs(*step.case.inputs) for step in steps)
    count = sum(len(calls.segment.launches(step)) for step in steps)
    monkeypatch.setattr(calls, "WALK_MACS", macs / count + 1)
    assert calls.walkable(steps)
    monkeypatch.setattr(calls, "_sparse", lambda step: True)
    assert not calls.walkable(steps), "sparse layers take twice as long"
