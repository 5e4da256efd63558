"""What the field asks of such results, as rules: each has an id, a level, a source, and finds what breaks it.

error   the figures cannot be believed, or not be compared, as they stand        warn    a claim from them says less
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from refstack.benchmark.rows import Row
from refstack.formats import INTEGER
from refstack.results.cells import accelerator, device, latest, machine, title
from refstack.results.intervals import blocks, latency

SHRINKBENCH = "Blalock et al. 2020, What is the State of Neural Network Pruning?, arXiv 2003.03033, section 6"
MLPERF = "MLPerf Inference rules, https://github.com/mlcommons/inference_policies"
HOEFLER = "Hoefler, Belli 2015, Scientific Benchmarking of Parallel Computing Systems, doi 10.1145/2807591.2807644"
ROOFLINE = "Williams, Waterman, Patterson 2009, Roofline, doi 10.1145/1498765.1498785"
REFSTACK = "docs/benchmark.md, ways to be fooled"

POINTS, SEEDS, NETWORKS = 5, 3, 3
QUERIES = 64
"""Runs from which a 90th percentile can be told at 99 % confidence."""
WIDE = 0.1
BUSY = 0.25
"""Running processes for each processor before the run, above which something else was at work."""
SAVED = 4
"""Multiply-adds of the network for one of the machine: Winograd's F(4,3)."""
SAVED_INT8 = 2 * SAVED
"""The same of int8: in whole numbers F(4,3) takes two products a lane."""
WHOLE = {"dense", "half", "int8", "ternary", "ternary8"}
"""Formats whose kernels skip no zeros."""
WRITES_P50 = 1e-6

Found = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Rule:
    """`find` gives (where, what is wrong) of all rows; `asks` is what should be."""

    id: str
    level: str
    asks: str
    source: str
    find: Callable[[Sequence[Row]], Found]


@dataclass(frozen=True)
class Problem:
    """A rule that rows break."""

    rule: str
    level: str
    where: str
    problem: str
    source: str


def check(rows: Sequence[Row]) -> list[Problem]:
    """Every problem by every rule of RULES, errors first; of each cell the last row counts."""
    rows = latest(rows, builds=True)
    found = [
        Problem(rule.id, rule.level, where, problem, rule.source)
        for rule in RULES
        for where, problem in rule.find(rows)
    ]
    return sorted(found, key=lambda each: each.level)  # stable: error before warn


def _timed(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row["status"] == "ok"]


def _each(holds: Callable[[Row], str]) -> Callable[[Sequence[Row]], Found]:
    """A rule about single timed rows: `holds` gives what is wrong, or nothing."""

    def find(rows: Sequence[Row]) -> Found:
        for row in _timed(rows):
            problem = holds(row)
            if problem:
                yield title(row), problem

    return find


def _lacks(*names: str) -> Callable[[Sequence[Row]], Found]:
    def holds(row: Row) -> str:
        missing = [name for name in names if row.get(name) is None]
        return f"{', '.join(missing)}: not given" if missing else ""

    return _each(holds)


def _controls(rows: Sequence[Row]) -> Found:
    there = {
        (row["model"], row["backend"], row["threads"], row["batch"])
        for row in _timed(rows)
        if row["technique"] == "dense"
    }
    for row in _timed(rows):
        if (row["model"], row["backend"], row["threads"], row["batch"]) not in there:
            yield title(row), "no dense row of the same network, backend, threads and batch beside it"


PRUNED = ("weight", "block", "channel", "ternary")


def _kind(row: Row) -> str:
    """What was done to the network, without level and seed: weight-uniform of weight-uniform-0.9-s1."""
    return "-".join(word for word in row["technique"].split("-") if not re.fullmatch(r"[0-9.]+|s[0-9]+", word))


def _families(rows: Sequence[Row], *kinds: str) -> dict[tuple[str, str], list[Row]]:
    """Compressed rows by network and kind, but for the controls."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in _timed(rows):
        kind = _kind(row)
        if kind.partition("-")[0] in kinds and "random" not in kind:
            found.setdefault((row["model"], kind), []).append(row)
    return found


def _random(rows: Sequence[Row]) -> Found:
    there = {(row["model"], _kind(row)) for row in _timed(rows)}
    for model, kind in _families(rows, "weight", "channel"):
        if (model, f"{kind.partition('-')[0]}-random") not in there:
            yield f"{model} {kind}", "no randomly pruned network beside it"


def _points(rows: Sequence[Row]) -> Found:
    for (model, kind), members in _families(rows, *PRUNED).items():
        levels = {row.get("level") for row in members}
        if len(levels) < POINTS:
            yield f"{model} {kind}", f"{len(levels)} operating points, wanted {POINTS}"


def _seeds(rows: Sequence[Row]) -> Found:
    for (model, kind), members in _families(rows, *PRUNED).items():
        artifacts: dict[object, set[object]] = {}
        for row in members:
            artifacts.setdefault(row.get("level"), set()).add(row.get("artifact_sha256"))
        most = max(map(len, artifacts.values()))
        if most < SEEDS:
            yield f"{model} {kind}", f"{most} trained network(s) at a point, wanted {SEEDS} seeds"


def _networks(rows: Sequence[Row]) -> Found:
    models = {row["model"] for row in _timed(rows)}
    if len(models) < NETWORKS:
        yield "all rows", f"{len(models)} network(s), wanted {NETWORKS}: claims hold for what was run"


def _artifact(row: Row) -> str:
    if row.get("top1") is None:
        return f"no accuracy: {row.get('top1_reason') or 'no reason given'}"
    if row.get("weights") == "drawn":
        return "the accuracy is another artifact's: weights were drawn, not trained"
    return "" if row.get("artifact_sha256") else "no hash says which artifact was timed"


def _threads(row: Row) -> str:
    allowed = row["env"].get("threads_allowed")
    if not allowed:
        return "not recorded how many processors the run could use"
    return f"{row['threads']} threads on {allowed} processors" if row["threads"] > allowed else ""


def _environments(holds: Callable[[Row], str]) -> Callable[[Sequence[Row]], Found]:
    """A rule about the machine: told once for each run."""

    def find(rows: Sequence[Row]) -> Found:
        told = {(str(row["env"].get("measured_utc")), holds(row)): None for row in _timed(rows)}
        for when, problem in told:
            if problem:
                yield f"run of {when}", problem

    return find


def _governor(row: Row) -> str:
    governor = row["env"].get("governor")
    if governor is None:
        return "the processor's frequency governor is not known"
    return "" if governor == "performance" else f"the frequency governor is {governor}, wanted performance"


def _load(row: Row) -> str:
    load = row["env"].get("load_average")
    if not load:
        return "not recorded what else was running"
    cores = row["env"].get("threads_allowed") or 1
    return f"load average {load[0]:g} on {cores} processors before the run" if load[0] > BUSY * cores else ""


def _quick(row: Row) -> str:
    return "a quick run: few samples" if row["quick"] else ""


def _samples(row: Row) -> str:
    n = len(row["samples_ns"])
    return f"{n} samples, wanted {QUERIES} for a 90th percentile" if n < QUERIES else ""


def _spread(row: Row) -> str:
    found = latency(row)
    if found is None:
        return f"{len(blocks(row))} blocks of samples: nothing is known of the spread"
    width = (found.high - found.low) / found.mid
    return f"the 95 % interval of the median is {width:.0%} of it wide" if width > WIDE else ""


def _checked(row: Row) -> str:
    error = row.get("max_error_vs_bound")
    if error is None:
        return "not recorded that outputs were checked in the timed process"
    return "" if error <= 1 else f"an output is {error:.3g} times as far off as its bound allows"


def _honest(rows: Sequence[Row]) -> Found:
    for row in rows:
        samples, p50 = row["samples_ns"], row["latency_p50_ms"]
        if row["status"] != "ok" and (samples or p50 is not None):
            yield title(row), f"status is {row['status']}, but it has times"
        elif row["status"] == "ok" and (not samples or p50 is None):
            yield title(row), "status is ok, but it has no times"
        elif samples and not math.isclose(p50, float(np.median(samples)) * 1e-6, rel_tol=WRITES_P50):
            yield title(row), f"latency_p50_ms is {p50:g}, its samples say {np.median(samples) * 1e-6:g}"


def _roof(row: Row) -> str:
    roofs = {roof["threads"]: roof["flops"] for roof in row["env"].get("roofs") or ()}
    formats = set((row.get("format") or "").split("+"))
    flops = roofs.get(row["threads"])
    if accelerator(row):
        flops = (device(row).get("roof") or {}).get("flops")
    if row["backend"] == "torchcuda":  # on a graphics processor, of which its row knows nothing
        return ""
    if not flops or not row.get("macs") or not formats <= WHOLE:
        return ""
    reached = 2 * row["macs"] * row["batch"] / (row["latency_p50_ms"] * 1e-3)
    if reached <= (SAVED_INT8 if formats & set(INTEGER) else SAVED) * flops:
        return ""
    return f"{reached / flops:.1f} times the machine's multiply-adds: no kernel does that, the time cannot be right"


def _one(what: str, of: Callable[[Row], object]) -> Callable[[Sequence[Row]], Found]:
    def find(rows: Sequence[Row]) -> Found:
        n = len({of(row) for row in _timed(rows)})
        if n > 1:
            yield "all rows", f"rows of {n} {what}: compare only within one"

    return find


def _bytes(rows: Sequence[Row]) -> Found:
    for model in dict.fromkeys(row["model"] for row in _timed(rows)):
        forms = {str(row["stored_as"]) for row in _timed(rows) if row["model"] == model and row.get("stored_as")}
        if len(forms) > 1:
            yield model, f"stored_bytes are of {' and '.join(sorted(forms))} files: a part of their ratio is rounding"


def _failures(rows: Sequence[Row]) -> Found:
    for row in rows:
        if row["status"] in ("failed", "timeout"):
            yield title(row), f"{row['status']}: {row['status_reason']}"


RULES = (
    Rule("controls", "error", "the uncompressed network beside every compressed one", SHRINKBENCH, _controls),
    Rule("sizes", "error", "parameters and multiply-adds, both", SHRINKBENCH, _lacks("params", "nnz", "macs")),
    Rule("stored-bytes", "error", "bytes as they are stored, indices included", SHRINKBENCH, _lacks("stored_bytes")),
    Rule("times", "error", "times are those of the samples, and only cells that ran have any", MLPERF, _honest),
    Rule("outputs", "error", "outputs checked in the process that was timed", MLPERF + ", TEST01", _each(_checked)),
    Rule("threads", "error", "no more threads than processors", MLPERF, _each(_threads)),
    Rule("quick", "error", "runs that are long enough to be compared", REFSTACK, _each(_quick)),
    Rule("roof", "error", "nothing faster than the machine can be", ROOFLINE, _each(_roof)),
    Rule("artifact", "warn", "accuracy of the very artifact that was timed", MLPERF, _each(_artifact)),
    Rule("samples", "warn", "enough samples for the percentiles given", MLPERF + ", early stopping", _each(_samples)),
    Rule("spread", "warn", "medians with narrow intervals", HOEFLER, _each(_spread)),
    Rule("random", "warn", "random pruning as a control", SHRINKBENCH, _random),
    Rule("points", "warn", f"at least {POINTS} operating points", SHRINKBENCH, _points),
    Rule("seeds", "warn", f"at least {SEEDS} seeds", SHRINKBENCH, _seeds),
    Rule("networks", "warn", f"at least {NETWORKS} networks", SHRINKBENCH, _networks),
    Rule("governor", "warn", "a fixed processor frequency, recorded", MLPERF, _environments(_governor)),
    Rule("load", "warn", "nothing else running, recorded", HOEFLER, _environments(_load)),
    Rule("machine", "warn", "one machine", HOEFLER, _one("machines", machine)),
    Rule("build", "warn", "one build", HOEFLER, _one("builds", lambda row: row["env"].get("key"))),
    Rule("rounding", "warn", "bytes of one precision", REFSTACK, _bytes),
    Rule("failures", "warn", "cells that failed are told", REFSTACK, _failures),
)  # fmt: skip
"""In order of gravity. Not held, since nothing records it yet: denormal numbers."""
