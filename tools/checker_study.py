"""Does the checker raise false alarms, and what does it let through? The tables of docs/checker-study.md.

    python tools/checker_study.py [--trials 2000] [--repeats 25] [--seed 0]

Right kernels add the same products in other orders; wrong ones lose a little on the way. Each computes 3x3 convolutions
of K = 27, 288, 1152 and 4608 terms on data of the four checks:

    T0a  integers whose every partial sum float32 holds         equal bits
    T0b  one power of two a filter                              equal bits
    T1   real numbers of every kind                             each element inside its bound
    T2   normal random numbers                                  root mean square error at most 4 times the plain loop's
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from refstack import ops
from refstack.compare import check, rms_check
from refstack.contract import Bound, bound
from refstack.formats import Array, Dense
from refstack.graph import Node
from refstack.kernels import Case
from refstack.reference.conv import unfold
from refstack.verification.cases import Problem
from refstack.verification.fills import REAL, inputs_of, node_of

DEPTHS = (27, 288, 1152, 4608)
CHECKS = ("T0a", "T0b", "T1", "T2")
USUAL = {"1.3e-6, 1e-5": (1.3e-6, 1e-5), "1e-2, 1e-2": (1e-2, 1e-2)}
"""Fixed tolerances, relative and absolute: PyTorch's for float32, and one that benchmarks of kernels have used."""

Product = Callable[[Array, Array], Array]
"""(k, K) float32 weights and (K, m) float32 columns -> (k, m), before the bias."""


def backwards(w: Array, x: Array) -> Array:
    """One product and one addition at a time, from the last to the first."""
    return forwards(w[:, ::-1], x[::-1])


def forwards(w: Array, x: Array, dtype: type = np.float32) -> Array:
    """One product and one addition at a time, the sum kept in `dtype`."""
    acc = np.zeros((len(w), x.shape[1]), dtype)
    for j in range(len(x)):
        acc = (acc + w[:, j, None] * x[j]).astype(dtype)
    return acc.astype(np.float32)


def pairwise(w: Array, x: Array) -> Array:
    """Neighbours are added until one number is left."""
    terms = w[:, :, None] * x
    while terms.shape[1] > 1:
        odd = terms[:, terms.shape[1] // 2 * 2 :]
        terms = np.concatenate((terms[:, :-1:2] + terms[:, 1::2], odd), axis=1)
    return terms[:, 0]


def lanes(w: Array, x: Array, count: int = 8) -> Array:
    """Eight sums side by side, as in a vector register, added at the end."""
    w, x = np.pad(w, ((0, 0), (0, -len(x) % count))), np.pad(x, ((0, -len(x) % count), (0, 0)))
    w, x = w.reshape(len(w), -1, count), x.reshape(-1, count, x.shape[1])
    acc = np.zeros((len(w), count, x.shape[2]), np.float32)
    for j in range(len(x)):
        acc += w[:, j, :, None] * x[j]
    return forwards(np.ones((1, count), np.float32), acc.transpose(1, 0, 2).reshape(count, -1)).reshape(len(w), -1)


def fused(w: Array, x: Array) -> Array:
    """Multiply-adds that round once: the product is exact in float64, and so, but for a hair, is the sum."""
    w64, x64, acc = w.astype(np.float64), x.astype(np.float64), np.zeros((len(w), x.shape[1]), np.float32)
    for j in range(len(x)):
        acc = (acc + w64[:, j, None] * x64[j]).astype(np.float32)
    return acc


RIGHT: dict[str, Product] = {
    "BLAS": lambda w, x: w @ x, "backwards": backwards, "pairwise": pairwise, "8 lanes": lanes, "FMA chain": fused,
}  # fmt: skip


def cut(bits: int, values: Array) -> Array:
    """float32 rounded to `bits` bits of fraction, halves to even."""
    drop = 23 - bits
    raw = values.view(np.uint32).astype(np.uint64)
    raw += (1 << (drop - 1)) - 1 + ((raw >> drop) & 1)
    return (raw >> drop << drop).astype(np.uint32).view(np.float32)


def on_rounded(rounding: Callable[[Array], Array]) -> Product:
    """Weights and inputs are rounded, then multiplied and added in float32."""
    return lambda w, x: rounding(w) @ rounding(np.ascontiguousarray(x))


def one_weight_off(w: Array, x: Array) -> Array:
    """The middle one of the weights that are not zero is 2**-10 larger than it should be."""
    rows, cols = np.nonzero(w)
    wrong, middle = w.copy(), len(rows) // 2
    wrong[rows[middle], cols[middle]] *= np.float32(1 + 2.0**-10)
    return wrong @ x


def small_weights_dropped(w: Array, x: Array) -> Array:
    """The smallest 2 % of the weights that are not zero are taken for zero."""
    sizes = np.sort(np.abs(w[w != 0]))
    return np.where(np.abs(w) <= sizes[max(1, len(sizes) // 50) - 1], np.float32(0), w) @ x


WRONG: dict[str, Product] = {
    "TF32 inputs": on_rounded(partial(cut, 10)),
    "fp16 inputs": on_rounded(lambda v: v.astype(np.float16).astype(np.float32)),
    "bf16 inputs": on_rounded(partial(cut, 7)),
    "fp16 accumulator": partial(forwards, dtype=np.float16),
    "one weight off by 2^-10": one_weight_off,
    "2 % of weights dropped": small_weights_dropped,
    "+1e-5 everywhere": lambda w, x: w @ x + np.float32(1e-5),
}


@dataclass(eq=False)
class Layer:
    """A convolution on one kind of data, what is allowed, and its input unfolded."""

    node: Node
    x: Array
    fill: str
    columns: Array = field(init=False)
    allowed: Bound = field(init=False)

    def __post_init__(self) -> None:
        assert isinstance(self.node.op, ops.Conv2d)
        self.columns, self.allowed = unfold(self.x, self.node.op), bound(self.node, (self.x,))

    def output(self, product: Product) -> Array:
        """(1, k, p, q) float32, bias added."""
        assert isinstance(self.node.weight, Dense)
        assert self.node.bias is not None
        with np.errstate(over="ignore", invalid="ignore"):  # half precision overflows
            y = product(self.node.weight.values, self.columns) + self.node.bias[:, None]
        return y.reshape(self.allowed.value.shape)


def layer(depth: int, fill: str, seed: int) -> Layer:
    """A 3x3 convolution of `depth` terms with at least 256 outputs, sizes and data drawn from the seed."""
    k, h, w = (int(v) for v in np.random.default_rng(seed).integers((16, 4, 4), (25, 7, 7)))
    case = Case(ops.Conv2d((3, 3), (1, 1), (1, 1, 1, 1), (1, 1), k), "dense", ((1, depth // 9, h, w),))
    problem = Problem(case, fill, seed)
    return Layer(node_of(problem), inputs_of(problem)[0], fill)


def alarms(here: Layer, product: Product) -> Iterator[tuple[str, bool, float]]:
    """(check, whether it rejects, its figure) for every check that this kind of data is for."""
    y = here.output(product)
    if here.fill in ("integer", "impulse"):
        wrong = float((y != here.allowed.value.astype(np.float32)).mean())
        yield ("T0a" if here.fill == "integer" else "T0b"), wrong > 0, wrong
        return
    found = check(here.node, (here.x,), y, allowed=here.allowed)
    yield "T1", not found.passed, found.worst
    if here.fill == "normal":
        rms = rms_check(here.node, here.x, y, here.allowed)
        assert rms.compared >= 256
        yield "T2", not rms.passed, rms.ratio


def usual(here: Layer, product: Product) -> Iterator[tuple[str, bool]]:
    """What fixed tolerances say on normal numbers."""
    y, r = here.output(product), here.allowed.value
    for name, (relative, absolute) in USUAL.items():
        yield name, not np.allclose(y, r, relative, absolute)


@dataclass
class Tally:
    """Trials and rejections by (kernel, depth, check), and the range of every check's figure."""

    trials: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    rejected: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    figures: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def note(self, name: str, depth: int, what: str, reject: bool, figure: float | None = None) -> None:
        self.trials[name, depth, what] += 1
        self.rejected[name, depth, what] += reject
        if figure is not None:
            self.figures.setdefault((name, what), []).append(figure)

    def share(self, name: str, depth: int, what: str) -> float:
        """Rejections by trials."""
        return self.rejected[name, depth, what] / self.trials[name, depth, what]


def study(products: dict[str, Product], trials: int, seed: int, depths: Sequence[int] = DEPTHS) -> Tally:
    """Judge every product `trials` times, the depths in turn, on integers, impulses, normal and other real numbers."""
    tally, kinds = Tally(), [word for word in REAL if word != "normal"]
    for trial in range(trials):
        depth, own = depths[trial % len(depths)], seed * 1_000_003 + trial
        other = kinds[trial // len(depths) % len(kinds)]
        caught = dict.fromkeys(products, False)
        for fill in ("integer", "impulse", "normal", other):
            here = layer(depth, fill, own)
            for name, product in products.items():
                for what, reject, figure in alarms(here, product):
                    tally.note(name, depth, what, reject, figure)
                    caught[name] |= reject
                for what, reject in usual(here, product) if fill == "normal" else ():
                    tally.note(name, depth, what, reject)
        for name, reject in caught.items():
            tally.note(name, depth, "any", reject)
    return tally


def false_alarm_table(tally: Tally) -> str:
    """Rows of Markdown: alarms by check, all depths together, and the range of T1 and T2."""
    lines = ["| kernel | trials | T0a | T0b | T1 | T2 | largest error / bound | T2 ratio | alarms of 1.3e-6, 1e-5 |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name in RIGHT:
        depths = sorted({depth for kernel, depth, _ in tally.trials if kernel == name})
        count = sum(tally.trials[name, depth, "any"] for depth in depths)
        each = [str(sum(tally.rejected[name, depth, what] for depth in depths)) for what in CHECKS]
        torch = sum(tally.rejected[name, depth, "1.3e-6, 1e-5"] for depth in depths) / count
        ratios = tally.figures[name, "T2"]
        worst = max(tally.figures[name, "T1"])
        cells = [name, f"{count:,}", *each, f"{worst:.3f}", f"{min(ratios):.2f} to {max(ratios):.2f}", f"{torch:.0%}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sharpness_table(tally: Tally) -> str:
    """Rows of Markdown: in how many percent of the trials each check rejects, the depths one after the other."""
    columns = (*CHECKS, "any", *USUAL)
    lines = [
        "| fault | T0a | T0b | T1 | T2 | any of the four | " + " | ".join(f"allclose {name}" for name in USUAL) + " |"
    ]
    lines.append("|---" * (1 + len(columns)) + "|")
    for name in WRONG:
        cells = (" ".join(f"{100 * tally.share(name, depth, what):.0f}" for depth in DEPTHS) for what in columns)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000, help="of every right kernel, the depths in turn")
    parser.add_argument("--repeats", type=int, default=25, help="of every wrong kernel at each depth")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(false_alarm_table(study(RIGHT, options.trials, options.seed)), flush=True)
    print()
    print(sharpness_table(study(WRONG, options.repeats * len(DEPTHS), options.seed)))
