"""The arena is what is alive at once, outputs take inputs' places where they may, and every reorder is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from networks import images, small

import refstack as rs
from refstack import kernels, memory, planner
from refstack.backends import BACKENDS, Step, backend, rows
from refstack.compression.trained import under
from refstack.formats import Array, activate
from refstack.graph import INPUT, Graph
from refstack.kernels import Kernel, Reorder, same_bytes
from refstack.memory import Block
from refstack.models import MODELS, zoo
from refstack.models.builder import Builder
from refstack.ops import Add
from refstack.planner import Plan
from refstack.verification.verdicts import verdict

USABLE = [name for name in BACKENDS if not backend(name).unavailable()]
TECHNIQUES = ("dense", "weight", "channel", "ternary", "int8")
MARGIN = 1.1


def blocks(graph: Graph, batch: int, name: str) -> list[Block]:
    """What the arena of this plan must hold."""
    drafts, slots, output = planner.choose(graph, batch, rows((name,)), {})
    planner._share(drafts, slots, output)
    return planner._blocks(drafts, slots, output)[2]


def waste(graph: Graph, batch: int, name: str) -> float:
    """The arena's bytes in units of the most that is alive at one step."""
    needed = blocks(graph, batch, name)
    return memory.offsets(needed)[1] / memory.live_peak(needed)


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("model", MODELS)
def test_the_arena_is_close_to_what_is_alive_at_once(model: str, technique: str) -> None:
    graph, _ = under(model, zoo.load(model), technique)
    ratios = {(name, batch): waste(graph, batch, name) for name in USABLE for batch in (1, 8)}
    assert all(1 <= ratio <= MARGIN for ratio in ratios.values()), ratios


def test_that_is_the_arena_of_the_plan() -> None:
    graph = zoo.draw(small())
    for name in USABLE:
        needed = blocks(graph, 2, name)
        assert rs.plan(graph, 2, (name,)).arena_bytes == memory.offsets(needed)[1] >= memory.live_peak(needed)


def test_a_wasteful_packer_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def in_turn(blocks: Sequence[Block]) -> tuple[list[int], int]:
        ends = np.cumsum([0, *(memory.align(block.nbytes) for block in blocks)]).tolist()
        return ends[:-1], ends[-1]

    monkeypatch.setattr(memory, "offsets", in_turn)
    assert waste(zoo.load("resnet18"), 1, "numpy") > MARGIN


def test_a_packer_that_overlaps_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = zoo.draw(small())
    monkeypatch.setattr(memory, "offsets", lambda blocks: ([0] * len(blocks), max(b.nbytes for b in blocks)))
    found = rs.check_plan(rs.plan(graph, backends=("numpy",)), images(graph, 1))
    assert not found.passed
    assert "it does not get what stem_relu wrote: the arena overlaps" in found.problem


def test_an_output_that_is_written_over_is_caught() -> None:
    graph = zoo.draw(small())
    plan = rs.plan(graph, backends=("numpy",))
    elsewhere = replace(plan, y=plan.y.copy())
    assert rs.check_plan(plan, images(graph, 1)).passed
    assert "the output is not what fc2 wrote" in rs.check_plan(elsewhere, images(graph, 1)).problem


# In place


def shared(plan: rs.Plan, name: str) -> list[bool]:
    """Which inputs' place the output of a node takes."""
    (step,) = (step for step in plan.steps if step.node.name == name)
    return [np.shares_memory(step.output, x) for x in step.inputs]


@pytest.mark.parametrize("name", USABLE)
def test_additions_are_done_in_place(name: str) -> None:
    plan = rs.plan(rs.compress(zoo.load("resnet18"), "dense"), backends=(name,))
    adds = [step for step in plan.steps if isinstance(step.node.op, Add)]
    assert len(adds) == 8
    assert all(sum(shared(plan, step.node.name)) == 1 for step in adds)


@pytest.mark.parametrize("name", USABLE)
def test_what_is_read_again_keeps_its_place(name: str) -> None:
    """Two additions of the same two values: the first must leave both, the second may take one."""
    net = Builder("twice", (3, 8, 8))
    a = net.conv("a", 3, 1).last
    b = net.at(INPUT).conv("b", 3, 1).last
    first = net.add("first", a, b).last
    second = net.add("second", a, b).last
    net.add("same", first, first)
    net.add("all", net.last, second).globalavgpool().flatten()
    graph = zoo.draw(net.graph())
    plan = rs.plan(graph, 2, (name,))
    assert shared(plan, "first") == [False, False]
    assert sum(shared(plan, "second")) == 1
    assert shared(plan, "same") == [False, False], "one array for both inputs and the output is more than was verified"
    assert sum(shared(plan, "all")) == 1
    assert rs.check_plan(plan, images(graph, 2)).passed


def careless(step: Step) -> None:
    """Right, unless the output is one of the inputs."""
    step.output[...] = 0
    for x in step.inputs:
        np.add(step.output, x, out=step.output)
    step.output[...] = activate(step.output, step.node.op.activation)  # type: ignore[attr-defined]


def test_a_kernel_that_is_not_safe_in_place_may_not_say_so() -> None:
    row = Kernel("add", "float32", "numpy", "careless", careless)
    assert verdict(row).state == "PASS"
    found = verdict(Kernel("add", "float32", "numpy", "careless", careless, in_place=True))
    assert found.state == "FAIL"
    assert "in the place of input 0 it gives other bits: it reads what it has written over" in found.reason


def half_careful(step: Step) -> None:
    """Right in the place of the first input, not of the second."""
    step.output[...] = step.inputs[0]
    np.add(step.output, step.inputs[1], out=step.output)
    step.output[...] = activate(step.output, step.node.op.activation)  # type: ignore[attr-defined]


def test_every_input_must_do() -> None:
    row = Kernel("add", "float32", "numpy", "half_careful", half_careful, in_place=True)
    assert verdict(replace(row, in_place=False)).state == "PASS"
    found = verdict(row)
    assert "in the place of input 1" in found.reason


def test_a_plan_on_a_row_that_lies_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = backend("numpy").kernels()
    lies = Kernel("add", "float32", "numpy", "careless", careless, in_place=True)
    monkeypatch.setattr(backend("numpy"), "kernels", lambda: (lies, *rows))
    graph = zoo.draw(small())
    assert not rs.check_plan(rs.plan(graph, backends=("numpy",)), images(graph, 1)).passed


# Reorders


def use(step: Step, value: Array) -> bool | None:
    """Whether a step reads a value (True) or writes over it (False), or neither."""
    if any(np.shares_memory(x, value) for x in step.inputs):
        return True
    return False if np.shares_memory(step.output, value) or np.shares_memory(step.scratch, value) else None


def idle_reorders(steps: Sequence[Step]) -> list[str]:
    """Reorders whose output nobody reads, or that repeat another."""
    found, seen = [], set()
    for i, step in enumerate(steps):
        if isinstance(step.case.op, Reorder):
            read = next((reads for later in steps[i + 1 :] if (reads := use(later, step.output)) is not None), False)
            twice = (step.node.inputs, step.case.op.target) in seen
            seen.add((step.node.inputs, step.case.op.target))
            if step.case.op.source == step.case.op.target or twice or not (read or i == len(steps) - 1):
                found.append(step.node.name)
    return found


@pytest.mark.parametrize("technique", TECHNIQUES)
@pytest.mark.parametrize("model", MODELS)
def test_reorders_are_where_layouts_differ(model: str, technique: str) -> None:
    graph, _ = under(model, zoo.load(model), technique)
    for name in USABLE:
        steps = rs.plan(graph, backends=(name,)).steps
        assert idle_reorders(steps) == []
        if name not in ("openmp", "opencl"):
            assert not any(isinstance(step.case.op, Reorder) for step in steps)


def test_an_idle_reorder_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    if "openmp" not in USABLE:
        pytest.skip("no compiler: nothing is reordered")
    graph = zoo.draw(small())
    steps = rs.plan(graph, backends=("openmp",)).steps
    reorder = next(step for step in steps if isinstance(step.case.op, Reorder))
    assert idle_reorders(steps) == []
    assert idle_reorders([reorder, *steps]) == [reorder.node.name]


def test_every_row_is_held_to_what_it_says() -> None:
    """Elementwise rows say in place, and a row that changes sizes never can."""
    for name in USABLE:
        saying = {row.op for row in backend(name).kernels() if row.in_place}
        assert saying <= {"add", "relu", "batchnorm", "softmax"}
        assert "add" in saying


def test_layouts_of_the_same_bytes_need_no_reorder() -> None:
    assert same_bytes("nchw16c", "nchw", (3, 32, 1, 1))
    assert not same_bytes("nchw16c", "nchw", (3, 33, 1, 1)), "lanes of zeros lie between images"
    assert not same_bytes("nchw16c", "nchw", (3, 32, 1, 2))
    assert not same_bytes("nchw16n", "nchw", (16, 32, 1, 1)), "channels lie between images"
    assert same_bytes("nchw16p", "nchw", (2, 3, 4, 4))
    assert same_bytes("nchw8p", "nchw", (2, 3, 2, 4))
    assert not same_bytes("nchw16p", "nchw", (2, 3, 4, 8)), "patches of two pixels"
    assert not same_bytes("nchw16p", "nchw16c", (1, 16, 4, 4))
    if "openmp" in USABLE:
        plan = rs.plan(rs.compress(zoo.load("resnet18"), "dense"), backends=("openmp",))
        assert not any(isinstance(step.case.op, Reorder) for step in plan.steps)


def lanes() -> int:
    """Images that lie side by side in a vector of the OpenMP kernels."""
    return max(kernels.layout_block(x) for row in rows(("openmp",)) for x in row.layouts if kernels.of_images(x))


def sparse(threads: int, batch: int) -> tuple[Graph, Plan]:
    graph, _ = under("mobilenet", zoo.load("mobilenet"), "weight-uniform-0.9")
    return graph, rs.plan(graph, batch, ("openmp",), threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_images_side_by_side_go_a_vector_of_them_a_thread(threads: int) -> None:
    part = lanes() * threads
    graph, made = sparse(threads, 3 * part)
    assert (made.part, len(made.parts), made.x.shape[0]) == (part, 3, part)
    x = images(graph, made.batch)
    assert rs.check_plan(made, x).passed
    one = rs.plan(graph, part, ("openmp",), threads)
    assert np.array_equal(made.run(x), np.concatenate([one.run(x[each]) for each in made.parts]))
    assert made.planned_bytes == one.planned_bytes


def test_a_batch_that_is_no_whole_parts_goes_at_once() -> None:
    size = lanes()
    for threads, batch in ((1, 1), (1, size + 1), (2, 3 * size)):
        assert sparse(threads, batch)[1].part == batch
    graph = zoo.load("mobilenet")  # dense: weights are read once for all images
    assert rs.plan(graph, 2 * size, ("openmp",)).part == 2 * size


def test_a_part_that_is_left_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    size = lanes()
    graph, made = sparse(1, 2 * size)
    monkeypatch.setattr(Plan, "parts", property(lambda self: [slice(0, size)] * 2))
    found = rs.check_plan(made, images(graph, made.batch))
    assert not found.passed
    assert "differs from its steps" in found.problem
