"""How far is refstack's dense float32 from ONNX Runtime on this machine? One interleaved run, outputs compared.

    python tools/onnxruntime_ratio.py [--threads 1] [--rounds 60] [MODEL ...]       needs: pip install onnx onnxruntime

The graph that both run is the same: batch-norm folded, ReLU fused into refstack's layers and written as Relu nodes for
ONNX. Each round times one call of either, in turn; the ratio is the median over rounds of refstack / ONNX Runtime.
"""

import argparse
import statistics
import time

import numpy as np
import onnxruntime

import refstack as rs
from refstack import onnx_graph
from refstack.models import MODELS
from refstack.passes import prepare

PAUSE_S = 0.03  # threads of either runtime go on spinning after a call; until they stop they hold the other's cores


def compare(name: str, threads: int, rounds: int) -> str:
    """One line: medians, ratio, largest difference of the logits."""
    graph = prepare(rs.load(name))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(
        onnx_graph.network(graph).SerializeToString(), options, ["CPUExecutionProvider"]
    )
    plan = rs.plan(graph, backends=("openmp",), threads=threads)
    x = np.random.default_rng(0).standard_normal((1, *graph.input_shape)).astype(np.float32)
    verdict = rs.check_plan(plan, x)
    assert verdict.passed, verdict.problem
    difference = float(np.abs(session.run(None, {"input": x})[0] - plan.run(x)).max())
    assert difference < 1e-3 * verdict.logit_scale, f"{name}: the two disagree by {difference}"
    calls = {"refstack": lambda: plan.run(x), "onnxruntime": lambda: session.run(None, {"input": x})}
    times: dict[str, list[float]] = {label: [] for label in calls}
    for _ in range(rounds):
        for label, call in calls.items():
            time.sleep(PAUSE_S)
            call()  # untimed: the first call after the other runtime finds cold caches in either case
            start = time.perf_counter_ns()
            call()
            times[label].append((time.perf_counter_ns() - start) / 1e6)
    ratio = statistics.median(a / b for a, b in zip(times["refstack"], times["onnxruntime"], strict=True))
    ours, theirs = (statistics.median(times[label]) for label in times)
    figures = f"refstack {ours:6.2f} ms  onnxruntime {theirs:6.2f} ms  ratio {ratio:.2f}"
    return f"{name:<10} {threads} threads  {figures}  (logits differ by {difference:.1e})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    for model in options.models:
        print(compare(model, options.threads, options.rounds), flush=True)
