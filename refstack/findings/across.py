"""Judges of claims about machines, and of what DLAS found: size, time, hardware, tuning, primitives.

A place is what a network ran on: a machine's processor, or an accelerator in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from refstack.benchmark.rows import Row
from refstack.findings.cases import NETWORKS, Bench, Case, at, counted, differ, order, ranked
from refstack.results import accelerator, latency, machine, ratio

HARDWARE = 1.5
"""Factor between two places' speed-ups from which they are called very different."""


def places(bench: Bench) -> dict[str, Bench]:
    """The rows of each place, under names that tell them apart."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in bench.rows:
        if not row.get("peer"):
            name = accelerator(row) or str(row["env"].get("cpu"))
            found.setdefault((name, machine(row)), []).append(row)
    names = [name for name, _ in found]
    return {
        name if names.count(name) == 1 else f"{name} ({i})": Bench(rows)
        for i, ((name, _), rows) in enumerate(found.items(), 1)
    }


def machines_agree(bench: Bench) -> Iterator[Case]:
    """The order of the study's techniques by time, machine against machine, one thread."""
    for model in NETWORKS:
        rows = {name: each.of(model, 1) for name, each in places(bench).items()}
        orders = {name: found for name, each in rows.items() if (found := order(each))}
        if len(orders) > 1:
            figures = "; ".join(f"{name}: {ranked(rows[name])}" for name in orders)
            apart = differ(list(orders.values()))
            yield Case(model, figures, None if apart is None else not apart)


def speedups_differ(bench: Bench) -> Iterator[Case]:
    """The speed-up of a technique over dense, at the places where it is largest and smallest."""
    for model in NETWORKS:
        for technique in ("weight", "channel", "ternary", "int8"):
            found = {}
            for name, each in places(bench).items():
                dense, small = each.row(model, "dense", 1), each.row(model, technique, 1)
                if dense and small and (speedup := ratio(dense, small)):
                    found[name] = speedup
            if len(found) > 1:
                most, least = (pick(found, key=lambda name: found[name].mid) for pick in (max, min))
                low, high = found[most].low / found[least].high, found[most].high / found[least].low
                holds = True if low > HARDWARE else False if high < HARDWARE else None
                words = "; ".join(f"{name} x {each}" for name, each in found.items())
                yield Case(f"{model}, {technique}", words, holds)


def sizes_mislead(bench: Bench) -> Iterator[Case]:
    """Counterexamples: what is smaller and slower, smaller and more accurate, more accurate and faster."""
    for threads in bench.threads():
        rows = [row for row in bench.rows if (row["backend"], row["threads"]) == (bench.own, threads)]
        rows = [row for row in rows if row.get("top1") and row.get("stored_bytes")]
        if len(rows) < 4:
            continue
        times = {id(row): found for row in rows if (found := latency(row))}
        rows = [row for row in rows if id(row) in times]
        pairs: list[tuple[Row, Row]] = [(a, b) for a in rows for b in rows if a is not b]
        size = [(a, b) for a, b in pairs if a["stored_bytes"] < b["stored_bytes"]]
        kinds: dict[str, list[tuple[Row, Row]]] = {
            "smaller, yet slower": [(a, b) for a, b in size if times[id(a)].low > times[id(b)].high],
            "smaller, yet more accurate": [(a, b) for a, b in size if a["top1"] > b["top1"]],
            "more accurate, yet faster": [
                (a, b) for a, b in pairs if a["top1"] > b["top1"] and times[id(a)].high < times[id(b)].low
            ],
        }
        for kind, examples in kinds.items():
            words = f"{len(examples)} of {len(rows) * (len(rows) - 1) // 2} pairs"
            if examples:
                one, other = max(examples, key=_apart)
                words += f", for example {_words(one)} against {_words(other)}"
            yield Case(f"{kind}, {counted(threads)}", words, bool(examples))


def _apart(pair: tuple[Row, Row]) -> float:
    """How far two rows are apart in size and time."""
    a, b = pair
    times = sorted((a["latency_p50_ms"], b["latency_p50_ms"]))
    return float(times[1] / times[0]) * float(abs(a["stored_bytes"] - b["stored_bytes"]))


def _words(row: Row) -> str:
    figures = f"{row['stored_bytes'] / 1e6:.2f} MB, {row['latency_p50_ms']:.3g} ms, {row['top1']:.2f} %"
    return f"{row['model']} {row['technique']} ({figures})"


def tuning_reorders(bench: Bench) -> Iterator[Case]:
    """The order of techniques with the default kernels against that with tuned ones; many have no tuned row.

    Where `refstack tune` found nothing faster a technique keeps its default kernels, and so its row.
    """
    plain = Bench([row for row in bench.every if not row.get("tuned")])
    tuned = Bench([row for row in bench.every if row.get("tuned")])
    for model in NETWORKS:
        for threads in tuned.threads(bench.own):
            before, changed = plain.of(model, threads), tuned.of(model, threads)
            after = list({row["technique"]: row for row in (*before, *changed)}.values())
            both = sorted(row["technique"] for row in before)
            if changed and len(both) > 1:
                words = f"default: {ranked(before, both)}; tuned: {ranked(after, both)}"
                yield Case(at(model, threads), words, differ([order(before, both), order(after, both)]))


def primitives_differ(bench: Bench) -> Iterator[Case]:
    """Which algorithm most convolutions of a network get, in float32 and in int8."""
    for model in NETWORKS:
        for threads in bench.threads():
            rows = bench.row(model, "dense", threads), bench.row(model, "int8", threads)
            used = [_primitives(row.get("kernels") or {}) for row in rows if row]
            if len(used) == 2 and all(used):
                words = [", ".join(f"{name} {n}" for name, n in each.most_common()) for each in used]
                yield Case(at(model, threads), f"dense: {words[0]}; int8: {words[1]}", set(used[0]) != set(used[1]))


def _primitives(kernels: Mapping[str, int]) -> Counter[str]:
    """Layers by algorithm; the first layer and depthwise ones have no choice."""
    found: Counter[str] = Counter()
    for name, n in kernels.items():
        op, *_, variant = name.split(".")
        if op == "conv2d" and variant not in ("stem", "depthwise"):
            found[variant] += n
    return found
