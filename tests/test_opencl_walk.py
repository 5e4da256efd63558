"""The launch that walks a network on a processor: the bits of the steps one by one, and what must not go unseen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from refstack.backends import opencl
from refstack.backends.opencl import devices
from refstack.compare import check_plan
from refstack.errors import ResourceError
from refstack.graph import Graph
from refstack.models.builder import Builder
from refstack.models.zoo import draw
from refstack.passes import prepare
from refstack.planner import Plan, plan

pytestmark = [
    pytest.mark.skipif(opencl.unavailable() is not None, reason=str(opencl.unavailable())),
    pytest.mark.skipif(
        opencl.unavailable() is None and devices.chosen().kind != "cpu", reason="the chosen device is no processor"
    ),
]


Planned = tuple[Plan, list[tuple[np.ndarray, np.ndarray]]]


def network() -> Graph:
    """Few channels in, a strided branch beside two convolutions, a depthwise one, one of groups, which only the plain
    loop does, a pool, a linear layer."""
    net = Builder("branches", (3, 16, 16)).conv("stem", 24, 3, padding=1).batchnorm().relu()
    start = net.last
    main = net.conv("one", 40, 3, stride=2, padding=1).batchnorm().relu().conv("two", 40, 1).batchnorm().last
    side = net.at(start).conv("side", 40, 1, stride=2).batchnorm().last
    net.add("sum", main, side).relu().conv("deep", 40, 3, padding=1, groups=40).batchnorm().relu()
    net.conv("groups", 20, 3, padding=1, groups=4).batchnorm()
    return prepare(draw(net.globalavgpool().flatten().linear("fc", 7).graph(), 1))


@pytest.fixture(scope="module")
def planned() -> Planned:
    """A plan that walks; inputs and the outputs of its steps one by one. Two, since memory keeps the last one's."""
    made = plan(network(), 2, "opencl", threads=2)
    x = np.random.default_rng(0).standard_normal(made.x.shape).astype(np.float32)
    found = [check_plan(made, each) for each in (x, -x)]
    assert all(each.passed for each in found), [each.problem for each in found]
    return made, [(x, found[0].output), (-x, found[1].output)]


def walk_of(made: Plan) -> Any:
    """The walk that the plan runs."""
    from refstack.backends.opencl.fused import Walk

    (run,) = made.segments
    assert isinstance(run.__self__, Walk)
    return run.__self__


def units_of(walk: Any) -> int:
    """Groups that run at once."""
    return int(walk.runtime.context.devices[0].max_compute_units)


def test_a_walk_gives_the_bits_of_the_steps_one_by_one(planned: Planned) -> None:
    from refstack.backends.opencl.segment import Segment

    made, pairs = planned
    walk = walk_of(made)
    assert walk.groups == min(2, units_of(walk))
    assert {bool(call.size) for call in walk.layout.calls} == {True, False}, "kernels of one kind only"
    segment = Segment(made.steps, [made.y])  # reads the weights where the walk has put them
    for x, wanted in 10 * pairs:
        np.testing.assert_array_equal(made.run(x), wanted)
        made.x[...] = x
        segment.run()
        np.testing.assert_array_equal(made.y, wanted)


def test_every_row_for_processors_walks() -> None:
    from refstack.backends.opencl.segment import Launch

    for row in opencl.kernels():
        launches = row.run if isinstance(row.run, tuple) else (row.run,)
        if ".cpu_" in row.name:
            assert all(isinstance(each, Launch) and each.walks and each.alone for each in launches), row.name


def uncovered(layout: Any, lines: Any) -> list[int]:
    """Calls that come too early: a group may still read or write what they write, or write what they read."""
    found: list[int] = []
    since: list[Any] = []
    for i, (call, line) in enumerate(zip(layout.calls, lines, strict=True)):
        since = [] if line["wait"] else since
        if any(each.writes & (call.reads | call.writes) or each.reads & call.writes for each in since):
            found.append(i)
        since.append(call)
    return found


def test_groups_meet_wherever_one_call_hangs_on_another(planned: Planned) -> None:
    layout = walk_of(planned[0]).layout
    lines = layout.table({call.kind: 0 for call in layout.calls}, 2)
    assert not uncovered(layout, lines)
    assert not lines["wait"].all(), "the branch needs no meeting of its own"
    for i in np.flatnonzero(lines["wait"]):
        fewer = lines.copy()
        fewer["wait"][i] = 0
        assert uncovered(layout, fewer), f"the meeting before call {i} was for nothing"


def test_calls_write_what_the_table_says(planned: Planned) -> None:
    """All arrays lie in the buffer, or are the network's input, which nobody writes."""
    from refstack.backends.opencl.calls import GIVEN

    layout = walk_of(planned[0]).layout
    assert layout.calls[0].at[0] == GIVEN
    assert not any(GIVEN in call.writes for call in layout.calls)
    starts = sorted({place for call in layout.calls for place in call.at} - {GIVEN})
    assert starts[0] >= 16, "the counters are nobody's"
    assert starts[-1] < layout.size
    assert all(place % 64 == 0 for place in starts)


def wrong(walk: Any, made: Plan, pairs: list[tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether one of its outputs is not as it should be."""
    for x, wanted in 10 * pairs:
        made.x[...] = x
        walk.run()
        if not np.array_equal(made.y, wanted):
            return True
    return False


@pytest.mark.parametrize("field", ["items", "wait"])
def test_a_wrong_table_is_seen(field: str, planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last work-item of a convolution is nobody's; each group runs through alone."""
    from refstack.backends.opencl import fused

    made, pairs = planned
    if walk_of(made).groups == 1 and field == "wait":
        pytest.skip("one compute unit: there is nobody to meet")
    whole = fused.Layout.table

    def table(*given: Any) -> Any:
        lines = whole(*given)
        if field == "wait":
            lines["wait"] = 0
        else:
            lines["items"][1, 2] -= 1
        return lines

    monkeypatch.setattr(fused.Layout, "table", table)
    assert wrong(fused.Walk(made.steps, [made.y], walk_of(made).groups), made, pairs)


def test_a_group_that_does_not_come_ends_the_launch(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    """More groups than run at once: those that wait keep the others out."""
    from refstack.backends.opencl import fused

    made, [(x, wanted), _] = planned
    units = units_of(walk_of(made))
    with monkeypatch.context() as impatient:
        impatient.setattr(fused, "CALM", 1 << 14)
        impatient.setattr(fused, "resident", lambda *given: units + 1)
        walk = fused.Walk(made.steps, [made.y], units)
    made.y[...] = np.nan
    with pytest.raises(ResourceError, match=f"{units + 1} work-groups of one launch waited for each other in vain"):
        walk.run()
    assert np.isnan(made.y).all(), "what is wrong came back"
    walk.groups = units
    walk.kernel.set_arg(5, np.int32(fused.CALM))
    made.x[...] = x
    walk.run()
    np.testing.assert_array_equal(made.y, wanted)


def test_where_groups_do_not_run_at_once_steps_are_launched(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    from refstack.backends.opencl import fused
    from refstack.backends.opencl.segment import Segment

    made, [(x, wanted), _] = planned
    monkeypatch.setattr(fused, "resident", lambda *given: 0)
    run: Any = opencl.lower(made.steps, 2, [made.y])
    assert isinstance(run.__self__, Segment)
    made.x[...] = x
    run()
    np.testing.assert_array_equal(made.y, wanted)


def test_groups_are_counted_by_a_trial(planned: Planned) -> None:
    from refstack.backends.opencl.fused import resident

    walk = walk_of(planned[0])
    assert 1 <= resident(walk.runtime, walk.kernel, 4 * units_of(walk), 1, 1 << 16) <= units_of(walk)
