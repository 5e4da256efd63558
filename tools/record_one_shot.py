"""Measure the shipped networks under every one-shot technique, and the trained ternary ones in int8 arithmetic.

    python tools/record_one_shot.py DATA [DATA ...]        data sets, e.g. val-lossless.tar.xz test.tar.xz

Writes data/one_shot.json; what stands there for the same network and data sets is kept. `refstack bench` quotes these
figures for a network of the same sha256 when no data set is at hand.
"""

import json
import os
import sys

import refstack as rs
from refstack import datasets
from refstack.compression import TECHNIQUES
from refstack.compression.trained import under
from refstack.models import MODELS, zoo

if len(sys.argv) < 2:
    sys.exit(__doc__)
sets = [datasets.load(path) for path in sys.argv[1:]]
threads = len(os.sched_getaffinity(0))
known, entries = zoo.one_shot(), {}
for model in MODELS:
    for technique in (*TECHNIQUES, "ternary+int8"):
        if technique == "dense":
            continue  # the manifest has it
        graph, _ = under(model, rs.load(model), technique, one_shot=technique in TECHNIQUES)
        accuracy = known.get(graph.sha256(), {}).get("accuracy", {})
        if set(accuracy) != {data.name for data in sets}:
            accuracy = {}
            for data in sets:
                found = rs.evaluate(graph, data, "openmp", threads)
                accuracy[data.name] = {"top1": round(found.top1, 2), "correct": found.correct, "n": found.n}
        level = graph.meta["compression"]["level"]
        entries[graph.sha256()] = {"model": model, "technique": technique, "level": level, "accuracy": accuracy}
        print(model, technique, level, {name: each["top1"] for name, each in accuracy.items()}, flush=True)
path = zoo.data_dir() / "one_shot.json"
path.write_text(json.dumps(entries, indent=1) + "\n")
