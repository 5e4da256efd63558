"""Findings as a page of Markdown: docs/findings.md, or the same of another machine."""

from __future__ import annotations

from collections.abc import Sequence

from refstack.benchmark.rows import Row
from refstack.findings.cases import Case, Finding
from refstack.results.cells import machine, names
from refstack.results.comparing import BUSY

HEAD = """# Findings

What Turner et al. concluded in 2018, and what their successor DLAS did, each as a hypothesis that rows of
`refstack bench` bear out or not. A case is one test; *open* where the rows do not decide it, mostly for noise. A claim
*holds* if all its cases do that are not open, *fails* if none does, and *depends* otherwise. Times are medians with
95 % intervals, bootstrapped over blocks ([results](results.md)). The study is Turner et al., IISWC 2018
(doi 10.1109/IISWC.2018.8573503); its figures are those of the authors' talk. DLAS is Gibson et al., ACM TACO 2024
(doi 10.1145/3688609).

This page is made from the rows in `data/results/` (`make findings` takes them anew); nobody writes it. Elsewhere:

    refstack bench -t dense,weight,channel,ternary,ternary+int8,int8 -b openmp -o mine.jsonl
    refstack bench -t dense -b openmp,blas -o mine.jsonl
    refstack findings mine.jsonl                      # --format md: this page for your machine

Rows of a GPU (`-b openmp,opencl`) or of a second machine may join them: `refstack findings mine.jsonl other.jsonl`.
"""
SIGNS = {True: "yes", False: "no", None: "open"}


def page(found: Sequence[Finding], rows: Sequence[Row]) -> str:
    """The whole page: a table of verdicts, then every hypothesis with its cases; untested ones only if all are."""
    machines = dict.fromkeys(each.machine for each in found)
    known = {each.hypothesis.id for each in found if each.verdict != "untested"}
    told = [each for each in found if each.verdict != "untested" or each.hypothesis.id not in known]
    parts = [HEAD, _table(told)]
    for name in machines:
        mine = [each for each in told if each.machine == name]
        parts.append("\n".join([f"## {name[:1].upper()}{name[1:]}", *_taken(name, rows)]))
        parts += [_one(each) for each in mine]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _taken(name: str, rows: Sequence[Row]) -> list[str]:
    """When and with what a machine's rows were taken."""
    places = names([row for row in rows if row["status"] == "ok"])
    mine = [row for row in rows if places.get(machine(row)) == name]
    if not mine:
        return []
    days = sorted({row["created_utc"][:10] for row in mine})
    env = mine[-1]["env"]
    words = [
        f"{len(mine)} rows of {' and '.join(days)}",
        f"{env.get('threads_allowed')} threads allowed",
        str(env.get("compiler")),
    ]
    if any(row["quick"] for row in mine):
        words.append("**a quick run: few samples**")
    loads = [row["env"].get("load_average") or [0.0] for row in mine]
    most, processors = max(load[0] for load in loads), env.get("threads_allowed") or 1
    if most > BUSY * processors:
        words.append(f"**a busy machine, load average {most:g}: do not believe these times**")
    return ["", "; ".join(words) + "."]


def _table(found: Sequence[Finding]) -> str:
    lines = ["| hypothesis | claim | machine | verdict | cases |", "|---|---|---|---|---|"]
    for each in found:
        name, claim = each.hypothesis.id, each.hypothesis.claim
        lines.append(f"| [{name}](#{name}) | {claim} | {each.machine} | **{each.words}** | {_counts(each.cases)} |")
    return "\n".join(lines)


def _counts(cases: Sequence[Case]) -> str:
    counts = [(word, sum(case.holds is holds for case in cases)) for holds, word in SIGNS.items()]
    return ", ".join(f"{n} {word}" for word, n in counts if n) or "none"


def _one(found: Finding) -> str:
    """A hypothesis with its source, test, verdict, reason and cases."""
    about = found.hypothesis
    lines = [
        f"### {about.id}", "", f"> {about.claim}", "", f"Source: {about.source}.  ", f"Tested: {about.tested}.  ",
        f"Verdict: **{found.words}**. {found.reason}{'' if found.reason.endswith('.') else '.'}",
    ]  # fmt: skip
    if found.cases:
        lines += ["", "| case | figures | holds |", "|---|---|---|"]
        lines += [f"| {case.where} | {case.figures} | {SIGNS[case.holds]} |" for case in found.cases]
    return "\n".join(lines)
