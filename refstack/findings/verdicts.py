"""Every hypothesis with its judge, and the verb that tests them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from refstack.benchmark.rows import Row
from refstack.errors import UsageError
from refstack.findings import across, judges
from refstack.findings.cases import STUDIED, Bench, Case, Finding, Hypothesis, depends_on, verdict
from refstack.models.zoo import data_dir
from refstack.results import latest, machine
from refstack.results.cells import names

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RUN = "refstack bench -t dense,weight,channel,ternary,ternary+int8,int8 -b openmp"
ALL = "all machines"
Judge = Callable[[Bench], Iterator[Case]]
JUDGES: dict[str, Judge] = {
    "channel-fastest": judges.channel_is_fastest,
    "channel-fastest-today": partial(judges.channel_is_fastest, among=(*STUDIED, "ternary+int8", "int8")),
    "channel-smallest": judges.channel_is_smallest,
    "csr-slower": partial(judges.slower_than_dense, technique="weight"),
    "ternary-slower": partial(judges.slower_than_dense, technique="ternary"),
    "less-than-proportional": judges.less_than_proportional,
    "macs-proxy": judges.macs_mislead,
    "order-by-network": judges.order_differs,
    "mobilenet-threads": judges.mobilenet_slows_down,
    "vgg-beats-mobilenet": judges.vgg_beats_mobilenet,
    "ternary-mobilenet": judges.ternary_costs_mobilenet_most,
    "channel-beats-weight": judges.channel_beats_weight,
    "library-slower": judges.library_is_slower,
    "gpu-gains": judges.gpu_gains,
    "dlas-size-time-accuracy": across.sizes_mislead,
    "dlas-tuning": across.tuning_reorders,
    "dlas-primitive": across.primitives_differ,
}
BETWEEN: dict[str, Judge] = {"machines-agree": across.machines_agree, "dlas-hardware": across.speedups_differ}
"""Judges that hold machines against each other."""
VERDICTS = ("holds", "depends", "fails")


def hypotheses() -> tuple[Hypothesis, ...]:
    """claims.toml, each with its judge, in its order."""
    content: dict[str, Any] = tomllib.loads(Path(__file__).with_name("claims.toml").read_text("utf-8"))
    return tuple(
        Hypothesis(
            name, each["claim"], each["source"], each["tested"],
            {word: each[word] for word in VERDICTS if word in each},
            each.get("run", RUN), (JUDGES | BETWEEN)[name], name in BETWEEN,
        )
        for name, each in content.items()
    )  # fmt: skip


HYPOTHESES = hypotheses()


def shipped() -> list[Path]:
    """The record that docs/findings.md is made from."""
    return sorted((data_dir() / "results").glob("*.jsonl"))


def findings(rows: Sequence[Row]) -> list[Finding]:
    """Test every hypothesis on every machine's rows, those between machines on all of them.

    Raises      UsageError      no row has times
    """
    timed = [row for row in rows if row["status"] == "ok"]
    if not timed:
        raise UsageError(f"findings: no row has times; `{RUN}` gives some")
    found = []
    for key, name in names(timed).items():
        mine = [row for row in timed if machine(row) == key]
        found += [judged(each, mine, name) for each in HYPOTHESES if not each.machines]
    return found + [judged(each, timed, ALL) for each in HYPOTHESES if each.machines]


def judged(hypothesis: Hypothesis, rows: Sequence[Row], name: str = ALL) -> Finding:
    """Test one hypothesis on rows of one machine, or of all."""
    cases = tuple(hypothesis.judge(Bench(latest(rows), rows)))
    word = verdict(cases)
    reason = hypothesis.why.get(word, "")
    if word == "untested":
        reason = "the noise is larger than the differences" if cases else f"no rows for it; {hypothesis.run} gives them"
    return Finding(hypothesis, name, word, cases, reason, depends_on(cases) if word == "depends" else "")
