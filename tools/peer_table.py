"""One line for each network, technique, threads and batch; a column for each runtime: docs/peers.md's table.

    make peers && python tools/peer_table.py results/peers.jsonl            Markdown on stdout

Medians in ms of one call. `x fastest peer` is the fastest peer's over refstack's, above 1 where refstack is faster.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from refstack.benchmark.journal import Journal
from refstack.benchmark.machine import limits
from refstack.benchmark.rows import Row
from refstack.peers import PEERS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("journals", nargs="+", type=Path)
    rows: list[Row] = []
    for path in parser.parse_args().journals:
        with Journal(path) as journal:
            rows += [row for row in journal.rows if not row["quick"]]
    lines: dict[tuple[object, ...], dict[str, Row]] = {}
    for row in rows:  # a cell that was measured again counts with its last time
        lines.setdefault((row["model"], row["technique"], row["batch"], row["threads"]), {})[row["backend"]] = row
    there = [name for name in PEERS if any(name in line for line in lines.values())]
    print(f"| network | technique | batch | threads | openmp | x fastest peer | {' | '.join(there)} |")
    print(f"|---|---|--:|--:|--:|--:|{'--:|' * len(there)}")
    for key, line in lines.items():
        times = {name: row["latency_p50_ms"] for name, row in line.items() if row["latency_p50_ms"] is not None}
        own, rivals = times.get("openmp"), [times[name] for name in there if name in times]
        ratio = f"{min(rivals) / own:.2f}" if own and rivals else ""
        cells = [f"{times[name]:.3g}" if name in times else "" for name in ("openmp", *there)]
        print(f"| {' | '.join(map(str, key))} | {cells[0]} | {ratio} | {' | '.join(cells[1:])} |")
    for words in dict.fromkeys(_machine(row) for row in rows):
        print(f"\n{words}")


def _machine(row: Row) -> str:
    """Processor and its limits as they were at the beginning of a run."""
    roofs = "; ".join(limits(roof) for roof in row["env"]["roofs"] or ())
    return f"{row['env']['cpu']}; {roofs}; {row['env']['measured_utc'][:10]}"


if __name__ == "__main__":
    main()
