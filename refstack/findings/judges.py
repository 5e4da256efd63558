"""Judges of what Turner et al. (2018) concluded: each yields the cases of one claim (claims.toml)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from refstack.findings.cases import (
    NETWORKS,
    STUDIED,
    Bench,
    Case,
    above,
    at,
    counted,
    differ,
    longer,
    order,
    p50,
    ranked,
)
from refstack.results import ratio

MISLEAD = 1.25
"""Factor by which multiply-adds must be off to be called a bad proxy."""


def channel_is_fastest(bench: Bench, among: tuple[str, ...] = STUDIED) -> Iterator[Case]:
    """The channel-pruned network against the fastest of the others."""
    for model, threads in bench.each():
        rows = [row for name in among if (row := bench.row(model, name, threads))]
        channel = bench.row(model, "channel", threads)
        others = [row for row in rows if row is not channel]
        if channel and len(others) >= 2:
            holds, figures = longer(min(others, key=lambda row: row["latency_p50_ms"]), channel)
            yield Case(at(model, threads), figures, holds)


def channel_is_smallest(bench: Bench) -> Iterator[Case]:
    """Bytes stored and bytes that running takes."""
    for model in NETWORKS:
        rows = [row for name in STUDIED if (row := bench.row(model, name, min(bench.threads(), default=1)))]
        channel = next((row for row in rows if row["technique"] == "channel"), None)
        others = [row for row in rows if row is not channel]
        for field, word in (("stored_bytes", "stored"), ("planned_bytes", "to run")):
            if channel and len(others) >= 2 and all(row.get(field) for row in rows):
                least = min(others, key=lambda row: row[field])
                figures = f"channel {channel[field] / 1e6:.2f} MB, {least['technique']} {least[field] / 1e6:.2f} MB"
                yield Case(f"{model}, {word}", figures, channel[field] < least[field])


def slower_than_dense(bench: Bench, technique: str) -> Iterator[Case]:
    """A technique's time over dense's."""
    for model, threads in bench.each():
        dense, small = bench.row(model, "dense", threads), bench.row(model, technique, threads)
        if dense and small:
            holds, figures = longer(small, dense)
            yield Case(at(model, threads), figures, holds)


def less_than_proportional(bench: Bench) -> Iterator[Case]:
    """Speed-up against the factor by which weights that are not zero became fewer."""
    for model, threads in bench.each():
        dense = bench.row(model, "dense", threads)
        for name in ("weight", "channel"):
            small = bench.row(model, name, threads)
            if dense and small and (found := ratio(dense, small)):
                fewer = dense["nnz"] / small["nnz"]
                holds = above(found, fewer)
                figures = f"{fewer:.1f} times fewer weights, {found} times as fast"
                yield Case(f"{at(model, threads)}, {name}", figures, None if holds is None else not holds)


def macs_mislead(bench: Bench) -> Iterator[Case]:
    """Time against multiply-adds: channel-pruned over dense, and one dense network over another."""
    for threads in bench.threads():
        dense = [row for model in NETWORKS if (row := bench.row(model, "dense", threads))]
        pairs = [(row, channel) for row in dense if (channel := bench.row(row["model"], "channel", threads))]
        pairs += [(dense[0], row) for row in dense[1:]]
        for one, other in pairs:
            found = ratio(one, other)
            if found:
                promised = one["macs"] / other["macs"]
                names = [f"{row['model']} {row['technique']}" for row in (one, other)]
                yield Case(
                    f"{' over '.join(names)}, {counted(threads)}",
                    f"{promised:.2f} times the multiply-adds, {found} times the time",
                    _outside(found.low / promised, found.high / promised),
                )


def _outside(low: float, high: float) -> bool | None:
    """Whether a ratio is off by more than MISLEAD for sure, or within it for sure."""
    if low > MISLEAD or high < 1 / MISLEAD:
        return True
    return False if low > 1 / MISLEAD and high < MISLEAD else None


def order_differs(bench: Bench) -> Iterator[Case]:
    """The order of the study's techniques by time, network against network."""
    for threads in bench.threads():
        rows = {model: bench.of(model, threads) for model in NETWORKS}
        orders = {model: found for model in NETWORKS if (found := order(rows[model]))}
        if len(orders) > 1:
            figures = "; ".join(f"{model}: {ranked(rows[model])}" for model in orders)
            yield Case(at("all", threads), figures, differ(list(orders.values())))


def mobilenet_slows_down(bench: Bench) -> Iterator[Case]:
    """Dense MobileNet with all threads over one thread."""
    counts = bench.threads()
    one, many = (bench.row("mobilenet", "dense", n) for n in (counts[0], counts[-1])) if counts else (None, None)
    if one and many and one is not many:
        found = ratio(many, one)
        yield Case(f"mobilenet, {many['threads']} threads over 1", f"x {found}", above(found))


def vgg_beats_mobilenet(bench: Bench) -> Iterator[Case]:
    """Channel-pruned VGG-16 against dense MobileNet, if it is about as accurate."""
    for threads in bench.threads():
        big, small = bench.row("vgg16", "channel", threads), bench.row("mobilenet", "dense", threads)
        if big and small and big.get("top1") and small.get("top1"):
            holds, figures = longer(small, big)
            accurate = big["top1"] > small["top1"] - 0.5
            words = f"mobilenet {small['top1']:.2f} %, vgg16 channel {big['top1']:.2f} %; mobilenet {figures}"
            yield Case(at("vgg16 against mobilenet", threads), words, holds if accurate else False)


def ternary_costs_mobilenet_most(bench: Bench) -> Iterator[Case]:
    """Points of accuracy that ternary weights cost, and by how much a network's cost exceeds the others'."""
    costs = {}
    for model in NETWORKS:
        dense, small = (bench.row(model, name, min(bench.threads(), default=1)) for name in ("dense", "ternary"))
        if dense and small and dense.get("top1") and small.get("top1") and small.get("top1_n"):
            error = 100 * math.sqrt(2 * small["top1"] / 100 * (1 - small["top1"] / 100) / small["top1_n"])
            costs[model] = dense["top1"] - small["top1"], error
    if "mobilenet" in costs and len(costs) > 1:
        cost, error = costs["mobilenet"]
        most = max(value for model, (value, _) in costs.items() if model != "mobilenet")
        figures = "; ".join(f"{model} {value:.2f} points" for model, (value, _) in costs.items())
        apart = cost - most
        yield Case("accuracy", figures, True if apart > 2 * error else False if apart < 0 else None)
        yield Case("ruins it (10 points or more)", figures, cost >= 10)


def channel_beats_weight(bench: Bench) -> Iterator[Case]:
    """Accuracy and stored bytes of both: one is better if it is no worse in either."""
    for model in NETWORKS:
        weight, channel = (bench.row(model, name, min(bench.threads(), default=1)) for name in ("weight", "channel"))
        if weight and channel and weight.get("top1") and channel.get("top1"):
            smaller = channel["stored_bytes"] < weight["stored_bytes"]
            better = channel["top1"] > weight["top1"]
            words = [
                f"{row['technique']} {row['top1']:.2f} %, {row['stored_bytes'] / 1e6:.2f} MB"
                for row in (weight, channel)
            ]
            yield Case(model, "; ".join(words), smaller if smaller == better else None)


def library_is_slower(bench: Bench) -> Iterator[Case]:
    """im2col and a BLAS library against kernels of this repository, on the same processor, dense."""
    for model in NETWORKS:
        for threads in bench.threads("blas"):
            library, own = (bench.row(model, "dense", threads, name) for name in ("blas", "openmp"))
            if library and own:
                found = ratio(library, own)
                words = f"blas {p50(library):.3g} ms over openmp {p50(own):.3g} ms: x {found}"
                yield Case(at(model, threads), words, above(found))


def gpu_gains(bench: Bench) -> Iterator[Case]:
    """The graphics processor against the processor's best dense row; MobileNet is to gain nothing."""
    for model in NETWORKS:
        cpu = [row for n in bench.threads("openmp") if (row := bench.row(model, "dense", n, "openmp"))]
        gpu = [row for row in bench.devices() if (row["model"], row["technique"]) == (model, "dense")]
        if cpu and gpu:
            fast, best = min(gpu, key=p50), min(cpu, key=p50)
            holds = above(found := ratio(best, fast))
            words = f"{counted(best['threads'])} {p50(best):.3g} ms, device {p50(fast):.3g} ms: x {found}"
            yield Case(model, words, holds if model != "mobilenet" or holds is None else not holds)
