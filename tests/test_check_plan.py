"""What holds a whole network to the contract: one wrong layer among right ones, and memory as kernels need it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from networks import images, integers, small

from refstack.backends import backend
from refstack.compare import Check, PlanCheck, both, check_plan
from refstack.formats import Array
from refstack.kernels import Kernel
from refstack.memory import ALIGNMENT
from refstack.planner import aligned, plan

GRAPH = integers(small())
X = images(GRAPH, 1, whole=True)
GOOD = Check("a", "kernel", "case", compared=4, skipped=0, worst=0.5)
BAD = replace(GOOD, name="b", worst=1.5, where=(0, 1), got=3.0, wanted=1.0)


def verdict(*layers: Check, repeatable: bool = True) -> PlanCheck:
    return PlanCheck(layers, repeatable, 0.25, 8.0, np.zeros((1, 2), np.float32))


def test_a_right_plan_passes() -> None:
    """On integers even the end-to-end error is zero."""
    found = check_plan(plan(GRAPH, 1, "numpy"), X)
    assert found.passed
    assert found.problem == ""
    assert len(found.layers) > 10
    assert all(layer.compared > 0 for layer in found.layers)
    assert 0 <= found.worst <= 1
    assert found.logit_error == 0
    assert found.logit_scale == np.abs(found.output).max() > 0


@pytest.mark.parametrize("op", ["conv2d", "add", "linear"])
def test_one_wrong_layer_is_named(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first of its kind is wrong: every other layer is judged on the inputs that it got, and is right."""
    numpy, wrong = backend("numpy"), next(node.name for node in GRAPH if node.op.name == op)

    def planted(row: Kernel) -> Kernel:
        def run(step: object) -> None:
            row.run(step)
            if step.node.name == wrong:
                step.output[...] += 1

        return replace(row, run=run) if row.op == op else row

    rows = tuple(planted(row) for row in numpy.kernels())
    monkeypatch.setattr(numpy, "kernels", lambda: rows)
    found = check_plan(plan(GRAPH, 1, "numpy"), X)
    assert not found.passed
    assert [layer.name for layer in found.layers if not layer.passed] == [wrong]
    assert found.problem.startswith(f"FAILED {wrong} {op}.")
    assert found.worst > 1
    assert found.repeatable


def test_all_layers_must_pass() -> None:
    for layers in ((GOOD, BAD), (BAD, GOOD), (BAD,), ()):
        assert not verdict(*layers).passed
    assert verdict(BAD, GOOD).worst == 1.5
    assert verdict(GOOD, BAD).problem == str(BAD)
    assert verdict(GOOD, GOOD).passed
    assert verdict(GOOD, GOOD).problem == ""


def test_the_whole_run_must_repeat_the_steps() -> None:
    assert not verdict(GOOD, repeatable=False).passed
    assert verdict(GOOD, repeatable=False).problem == "the plan run as a whole differs from its steps run one by one"


def test_a_plan_that_forgets_is_not_repeatable() -> None:
    made = plan(GRAPH, 1, "numpy")
    broken = replace(made, segments=(*made.segments, lambda: np.copyto(made.y, made.y + 1)))
    found = check_plan(broken, X)
    assert not found.repeatable
    assert not found.passed
    assert all(layer.passed for layer in found.layers)
    assert found.logit_error == 1


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.reshape(8, -1).T,
        lambda x: x[::2],
        lambda x: x[::-1],
        lambda x: np.broadcast_to(x[:1], (5, 3)),
        *(lambda x, i=i: x[i:] for i in range(17)),
    ],
)
def test_packed_arrays_are_contiguous_and_aligned(view: Callable[[Array], Array]) -> None:
    array = view(aligned(np.arange(64, dtype=np.float32)))
    made = aligned(array)
    assert made.flags.c_contiguous
    assert made.ctypes.data % ALIGNMENT == 0
    np.testing.assert_array_equal(made, array)


def test_of_two_parts_the_worse_one_tells() -> None:
    lost = replace(GOOD, worst=np.inf, problem="it does not get what b wrote")
    for one, other in ((GOOD, BAD), (BAD, GOOD), (GOOD, lost), (lost, BAD)):
        found = both(one, other)
        assert not found.passed
        assert (found.compared, found.worst) == (8, max(one.worst, other.worst))
    assert both(GOOD, GOOD).passed
