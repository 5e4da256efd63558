"""What a hypothesis is, and what its judge asks of a machine's rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from refstack.benchmark.rows import Row
from refstack.results import Interval, accelerator, latency, ratio

NETWORKS = ("vgg16", "resnet18", "mobilenet")
STUDIED = ("dense", "weight", "channel", "ternary")
"""The study's own techniques, under refstack's names."""


@dataclass(frozen=True)
class Case:
    """One test of a hypothesis: where, its figures, what they say. None: they do not decide, mostly for noise."""

    where: str
    figures: str
    holds: bool | None


@dataclass(frozen=True)
class Hypothesis:
    """A claim that rows can bear out or not.

    claim       as it was made      source      where       tested      what makes a case hold
    why         what explains each verdict, as far as it is known
    run         the command whose rows it takes
    judge       cases from the rows of one machine; of all machines if `machines`
    """

    id: str
    claim: str
    source: str
    tested: str
    why: Mapping[str, str]
    run: str
    judge: Callable[[Bench], Iterator[Case]]
    machines: bool = False


@dataclass(frozen=True)
class Finding:
    """A hypothesis after its test. verdict: holds, fails, depends or untested; `on` says what it depends on."""

    hypothesis: Hypothesis
    machine: str
    verdict: str
    cases: tuple[Case, ...]
    reason: str
    on: str = ""

    @property
    def words(self) -> str:
        """The verdict, and what it depends on."""
        return f"{self.verdict} on {self.on}" if self.on else self.verdict


class Bench:
    """The timed rows of one machine, or of several, one for each cell.

    own         the backend that a case takes where it is not about backends: openmp, or what there is
    every       older rows of the same cells as well, with other kernels for example
    """

    def __init__(self, rows: Sequence[Row], every: Sequence[Row] = ()) -> None:
        self.every = every
        self.rows = [row for row in rows if row["status"] == "ok" and row["batch"] == 1]
        there = [row["backend"] for row in self.rows if not row.get("peer")]
        self.own = "openmp" if "openmp" in there else there[0] if there else ""

    def row(self, model: str, technique: str, threads: int, backend: str | None = None) -> Row | None:
        """The row of a cell, if it was measured with weights that mean something for it."""
        wanted = (model, technique, threads, backend or self.own)
        same = (row for row in self.rows if (row["model"], row["technique"], row["threads"], row["backend"]) == wanted)
        return next(same, None)

    def of(self, model: str, threads: int) -> list[Row]:
        """All techniques of a network."""
        same = (model, threads, self.own)
        return [row for row in self.rows if (row["model"], row["threads"], row["backend"]) == same]

    def threads(self, backend: str | None = None) -> list[int]:
        """Thread counts that were measured."""
        return sorted({row["threads"] for row in self.rows if row["backend"] == (backend or self.own)})

    def each(self) -> Iterator[tuple[str, int]]:
        """Networks and thread counts, in the study's order."""
        for model in NETWORKS:
            for threads in self.threads():
                yield model, threads

    def devices(self) -> list[Row]:
        """Rows of graphics processors."""
        return [row for row in self.rows if accelerator(row)]


def at(model: str, threads: int | None = None) -> str:
    """Where a case is."""
    return model if threads is None else f"{model}, {counted(threads)}"


def counted(threads: int) -> str:
    """So many threads."""
    return f"{threads} thread{'s' * (threads > 1)}"


def above(found: Interval | None, limit: float = 1.0) -> bool | None:
    """Whether a ratio is above a limit for sure, or below it for sure."""
    if found is None or found.low <= limit <= found.high:
        return None
    return found.low > limit


def longer(slow: Row, fast: Row, limit: float = 1.0) -> tuple[bool | None, str]:
    """Whether one row takes more than `limit` times as long as another, and the figures."""
    found = ratio(slow, fast)
    return above(found, limit), f"{ms(slow)} over {ms(fast)}: x {found}" if found else "too few samples"


def ms(row: Row) -> str:
    """Name and median of a row."""
    found = latency(row)
    return f"{row['technique']} {found.mid if found else row['latency_p50_ms']:.3g} ms"


Order = Mapping[tuple[str, str], bool | None]
"""Of each pair of techniques whether the first takes longer; None: not for sure."""


def order(rows: Sequence[Row], wanted: Sequence[str] = STUDIED) -> Order:
    """How techniques rank among rows of one network; nothing if one was not measured."""
    found = {row["technique"]: row for row in rows if row["technique"] in wanted}
    if set(found) != set(wanted):
        return {}
    pairs = [(a, b) for i, a in enumerate(wanted) for b in wanted[i + 1 :]]
    return {(a, b): above(ratio(found[a], found[b])) for a, b in pairs}


def ranked(rows: Sequence[Row], wanted: Sequence[str] = STUDIED) -> str:
    """Techniques from fast to slow, in words."""
    return " < ".join(row["technique"] for row in sorted(rows, key=p50) if row["technique"] in wanted)


def differ(orders: Sequence[Order]) -> bool | None:
    """Whether a pair is one way round for sure in one order and the other way in another; None if noise hides it."""
    said = [{order[pair] for order in orders} for pair in orders[0]]
    if any({True, False} <= each for each in said):
        return True
    return None if any(None in each for each in said) else False


def p50(row: Row) -> float:
    """Median time in ms."""
    return float(row["latency_p50_ms"])


def verdict(cases: Sequence[Case]) -> str:
    """What the cases say together; those that noise leaves open say nothing."""
    said = {case.holds for case in cases} - {None}
    if not said:
        return "untested"
    return "depends" if len(said) == 2 else "holds" if said == {True} else "fails"


def depends_on(cases: Sequence[Case]) -> str:
    """What tells the cases that hold from those that do not, if one part of `where` does."""
    decided = [(case.where.split(", "), case.holds) for case in cases if case.holds is not None]
    for i in range(max((len(parts) for parts, _ in decided), default=0)):
        said: dict[str, set[bool]] = {}
        for parts, holds in decided:
            said.setdefault(parts[i] if i < len(parts) else "", set()).add(holds)
        if all(len(each) == 1 for each in said.values()):
            if all(name in NETWORKS for name in said):
                return "the network"
            return "the number of threads" if all("thread" in name for name in said) else "what is compared"
    return "the case"
