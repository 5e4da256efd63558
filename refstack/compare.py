"""The numeric contract at work: hold one layer, one step of a plan, or a whole plan to what contract.py allows.

    T0  equal bits where only one answer is right      (integer formats, layers that round once; fills.py makes more)
    T1  every element inside its a-priori bound         never flaky, loose for long sums
    T2  root mean square error at most 4 times the textbook loop's on the same random data      sharp for long sums
Next: verification/harness.py
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import reduce

import numpy as np

from refstack.backends import Step, backend
from refstack.contract import SAMPLE, Bound, U, bound, textbook
from refstack.errors import UsageError
from refstack.formats import Array
from refstack.graph import INPUT, Graph, Node
from refstack.kernels import Reorder, from_nchw, to_nchw
from refstack.ops import Flatten
from refstack.planner import Plan
from refstack.reference import run

WORSE = 4.0
"""How many times the textbook loop's error is too much. Other orders of summation lie between 0.5 and 1.7, inputs that
were rounded to TF32 far above (docs/checker-study.md)."""
WORSE_BY = {"winograd4": 32.0}
"""The same for algorithms that lose more by nature: F(4,3) is some 10 times worse, since its transforms cancel."""
LEAST = 256
"""Outputs below which a root mean square says too little."""


@dataclass(frozen=True)
class Check:
    """The verdict on one layer.

    worst       largest |error| / limit over the compared elements; inf for a wrong exact or non-finite value
    compared    elements that were compared; `skipped` are those whose sum may overflow in some order
    where       position of the worst element
    """

    name: str
    kernel: str
    case: str
    compared: int
    skipped: int
    worst: float
    where: tuple[int, ...] = ()
    got: float = 0.0
    wanted: float = 0.0
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Something was compared, nothing is outside its bound."""
        return self.compared > 0 and self.worst <= 1 and not self.problem

    @property
    def finding(self) -> str:
        """How far off the worst element is, or what else is wrong."""
        error = f"error {self.worst:.3g} of the bound"
        if self.passed:
            return error
        return f"{error} at {self.where}, got {self.got!r}, wanted {self.wanted!r}. {self.problem}".rstrip()

    def __str__(self) -> str:
        return f"{'ok' if self.passed else 'FAILED'} {self.name} {self.kernel} {self.case}: {self.finding}"


def check(
    node: Node, inputs: tuple[Array, ...], output: Array, kernel: str = "", case: str = "", allowed: Bound | None = None
) -> Check:
    """Hold one output to its bound (`allowed`, if it is known already). NaN passes only where the reference has NaN."""
    wanted = allowed or bound(node, inputs)
    shape, r = wanted.value.shape, wanted.value
    if output.shape != shape or (wanted.exact and output.dtype != r.dtype):
        problem = f"output is {output.dtype} {output.shape}, wanted {r.dtype} {shape}"
        return Check(node.name, kernel, case, 0, 0, np.inf, problem=problem)
    if output.size == 0:
        return Check(node.name, kernel, case, 0, 0, 0.0, problem="the output is empty, nothing was compared")
    y = output.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # a limit of 0 makes any error infinite
        unsure = wanted.indeterminate
        same = (y == r) | (np.isnan(y) & np.isnan(r))
        ratio = np.where(same, 0.0, np.abs(y - r) / wanted.limit)
    ratio[np.isnan(ratio)] = np.inf  # NaN on one side only
    ratio[unsure & ~same] = 0
    worst = np.unravel_index(int(np.argmax(ratio)), shape)
    where = tuple(int(i) for i in worst)
    skipped = int((unsure & ~same).sum())
    return Check(
        node.name, kernel, case, output.size - skipped, skipped,
        float(ratio[worst]), where, float(y[worst]), float(r[worst]),
    )  # fmt: skip


@dataclass(frozen=True)
class RmsCheck:
    """T2's verdict: `ratio` is the output's root mean square error over the textbook loop's (u/8 at least), so that 4
    passes and more does not. compared = 0: nothing was said."""

    ratio: float
    limit: float
    compared: int

    @property
    def passed(self) -> bool:
        """Something was compared, and is no worse than allowed."""
        return self.compared > 0 and self.ratio <= self.limit


def rms_check(
    node: Node, x: Array, output: Array, allowed: Bound | None = None, seed: int = 0, worse: float = WORSE
) -> RmsCheck:
    """T2:  rms(|y - R| / S)  <=  max(4 * rms(|y_textbook - R| / S), u / 2),  on at most 4096 outputs.

    Only where S > 0 and no activation clips.

    Args        node    a convolution or linear layer in a float format        x, output   float32
                        independent draws of one distribution in x and in the weights, or the ratio means little
                worse   another number than 4, for algorithms that are known to lose more (WORSE_BY)
    Returns     RmsCheck, with compared = 0 where fewer than 256 outputs are there to be compared
    """
    wanted = allowed or bound(node, (x,))
    scale = np.broadcast_to(wanted.scale, wanted.value.shape).ravel()
    clipped = np.zeros(scale.shape, bool)
    if activation := node.op.activation:  # type: ignore[attr-defined]  # where it clips every kernel is right
        clipped = (wanted.value <= 0).ravel() | ((wanted.value >= 6).ravel() if activation == "relu6" else False)
    places = np.flatnonzero((scale > 0) & ~clipped & ~wanted.indeterminate.ravel())
    if output.shape != wanted.value.shape or len(places) < LEAST:
        return RmsCheck(0.0, worse, 0)
    if len(places) > SAMPLE:
        places = np.sort(np.random.default_rng(seed).choice(places, SAMPLE, replace=False))

    def rms(y: Array) -> float:
        error = (y.astype(np.float64) - wanted.value.ravel()[places]) / scale[places]
        return float(np.sqrt(np.mean(error**2)))

    plain, found = rms(textbook(node, x, places)), rms(output.ravel()[places])
    unit = max(plain, U / 2 / WORSE)
    return RmsCheck(found / unit if np.isfinite(found) else np.inf, worse, len(places))


def check_step(step: Step, threads: int, node: Node | None = None) -> Check:
    """Run one kernel on the values that stand in the arena and hold it to its bound.

    `node` is the step's with its weights, which a lean plan's steps lack.

    Output and scratch are filled with 0xFF (NaN, -1) first, so what is not written shows. (An output in the place of an
    input holds that: what is not written then shows unless it was right already.) Lanes that a blocked layout adds
    must come out as zeros.
    """
    source, target = _layouts(step)
    inputs = tuple(np.array(to_nchw(x, source, shape)) for x, shape in zip(step.inputs, step.case.inputs, strict=True))
    in_place = any(np.may_share_memory(step.output, x) for x in step.inputs)
    for written in (step.scratch,) if in_place else (step.output, step.scratch):
        written.view(np.uint8).reshape(-1)[...] = 0xFF
    backend(step.kernel.backend).lower((step,), threads)()
    output = to_nchw(step.output, target, step.case.shape)
    node = node or step.node
    allowed = bound(node, inputs, step.kernel.algorithm)
    result = check(node, inputs, output, step.kernel.name, step.case.word, allowed)
    if not np.array_equal(step.output, from_nchw(output, target), equal_nan=step.output.dtype != np.int8):
        return replace(result, worst=np.inf, problem=f"the lanes that {target} adds are not zero")
    return result


def _layouts(step: Step) -> tuple[str, str]:
    """Of what a step reads and writes."""
    op = step.case.op
    return (op.source, op.target) if isinstance(op, Reorder) else step.kernel.layouts


class _Values:
    """What each layer wrote, byte for byte, until its last reader has been asked whether it found just that.

    Each step is judged on the inputs that it got, so a value that was written over on its way shows nowhere else.
    """

    def __init__(self, graph: Graph, x: Array) -> None:
        self.written = {INPUT: x.tobytes()}
        self.same = {node.name: node.inputs[0] for node in graph if isinstance(node.op, Flatten)}

    def differs(self, name: str, found: Array) -> bool:
        """Whether a value is not what was written; a flattened one is the same bytes."""
        while name in self.same:
            name = self.same[name]
        return found.tobytes() != self.written[name]

    def lost(self, step: Step) -> str:
        """In words which input of a step has not arrived, or nothing."""
        source, _ = _layouts(step)
        for name, x, shape in zip(step.node.inputs, step.inputs, step.case.inputs, strict=True):
            if self.differs(name, to_nchw(x, source, shape)):
                return f"it does not get what {name} wrote: the arena overlaps, or the layout is another"
        return ""

    def keep(self, step: Step) -> None:
        """Remember what a step wrote; a reorder's output is the value that it read."""
        if not isinstance(step.case.op, Reorder):
            self.written[step.node.name] = to_nchw(step.output, _layouts(step)[1], step.case.shape).tobytes()


@dataclass(frozen=True, eq=False)
class PlanCheck:
    """The verdict on a plan.

    layers          a Check for every step, each on the inputs that the plan itself gave it; of all parts of the batch
    repeatable      the whole plan as one call gives the bits that the steps gave one by one
    logit_error     max |y - float64 reference| over the logits; `logit_scale` the largest logit
    """

    layers: tuple[Check, ...]
    repeatable: bool
    logit_error: float
    logit_scale: float
    output: Array = field(repr=False)

    @property
    def worst(self) -> float:
        """Largest error in units of its bound, over all layers."""
        return max(layer.worst for layer in self.layers)

    @property
    def passed(self) -> bool:
        """Every layer inside its bound, and the whole run repeats it."""
        return bool(self.layers) and self.repeatable and all(layer.passed for layer in self.layers)

    @property
    def problem(self) -> str:
        """The first failure in words, or nothing."""
        failed = [str(layer) for layer in self.layers if not layer.passed]
        if failed:
            return failed[0]
        return "" if self.repeatable else "the plan run as a whole differs from its steps run one by one"


def check_plan(plan: Plan, x: Array, oracle: Array | None = None, graph: Graph | None = None) -> PlanCheck:
    """Hold every step of a plan to its bound, then the plan as a whole to its steps.

    Args        x       float32 (batch, c, h, w)
                oracle  the float64 reference's output for x if it is known already
                graph   the network with its weights, for a plan that was made from a file and let them go
    Raises      UsageError  such a plan, and no graph
    """
    if plan.lean and graph is None:
        raise UsageError(f"{plan.graph.name}: its plan was made from a file; to check it, give what `load` reads there")
    graph = graph or plan.graph
    known = {node.name: node for node in graph}
    parts: list[list[Check]] = []
    stepwise = plan.by_parts(x, lambda: parts.append(_check_part(plan, graph, known)))
    layers = tuple(reduce(both, each) for each in zip(*parts, strict=True))
    whole = plan.run(x)
    if oracle is None:
        oracle = run(graph, x.astype(np.float64))
    error = np.abs(whole - oracle).max()
    repeatable = np.array_equal(stepwise, whole)
    return PlanCheck(layers, repeatable, float(error), float(np.abs(oracle).max()), whole)


def _check_part(plan: Plan, graph: Graph, known: Mapping[str, Node]) -> list[Check]:
    """Of every step, on the images that the plan's x holds."""
    values, layers = _Values(graph, plan.x), []
    for step in plan.steps:
        lost = values.lost(step)
        verdict = check_step(step, plan.threads, known.get(step.node.name))
        layers.append(replace(verdict, worst=np.inf, problem=lost) if lost else verdict)
        values.keep(step)
    if layers and values.differs(graph.output, plan.y):
        layers[-1] = replace(layers[-1], worst=np.inf, problem=f"the output is not what {graph.output} wrote")
    return layers


def both(one: Check, other: Check) -> Check:
    """The verdict on a layer that was checked on two parts of a batch: the worse one's, all elements counted."""
    worse = max(one, other, key=lambda each: (bool(each.problem), each.worst))
    return replace(worse, compared=one.compared + other.compared, skipped=one.skipped + other.skipped)


def reference_error(graph: Graph, x: Array, oracle: Array) -> float:
    """max |float32 reference - float64 reference| over the logits: the error that float32 itself makes."""
    return float(np.abs(run(graph, x).astype(np.float64) - oracle).max())
