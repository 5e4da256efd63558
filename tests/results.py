"""Rows as bench writes them, drawn: what the tests of results, comparisons and findings share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from refstack.benchmark.journal import encode
from refstack.benchmark.rows import SCHEMA_VERSION, Row

ENV = {
    "key": "0123456789abcdef", "host": "here", "cpu": "a processor", "cpu_features": "f", "cores_physical": 2,
    "cores_logical": 2, "threads_allowed": 2, "caches_bytes": {"L1": 32768}, "code": "c0de",
    "measured_utc": "2026-11-25T12:00:00+00:00", "load_average": [0.1, 0.1, 0.1],
    "roofs": [{"threads": 1, "flops": 1e11, "read_bytes_per_s": 1e10}],
}  # fmt: skip


def times(ms: float, seed: int = 0, rounds: int = 10, noise: float = 0.02, drift: float = 0.02) -> dict[str, Any]:
    """samples_ns and what follows from them: noise of single runs, and of whole blocks, which only ever slow down."""
    rng = np.random.default_rng(seed)
    fit = max(1, int(40 / ms))
    slow = 1 + np.abs(rng.normal(0, drift, rounds))
    blocks = [ms * 1e6 * each * (1 + np.abs(rng.normal(0, noise, fit))) for each in slow]
    samples = [int(ns) for block in blocks for ns in block]
    p50, p90 = (np.quantile(samples, (0.5, 0.9)) / 1e6).tolist()
    return {"samples_ns": samples, "rounds": [fit] * rounds, "latency_p50_ms": p50, "latency_p90_ms": p90}


def row(model: str = "vgg16", technique: str = "dense", ms: float | None = 2.0, seed: int = 0, **more: Any) -> Row:
    """One whole row; `ms` None: a cell that failed."""
    timed = {"samples_ns": [], "rounds": [], "latency_p50_ms": None, "latency_p90_ms": None}
    return {
        "schema_version": SCHEMA_VERSION, "cell_id": f"{model}-{technique}-{seed}", "refstack_version": "0.1.0",
        "created_utc": "2026-11-25T12:00:01+00:00", "quick": False,
        "status": "failed" if ms is None else "ok", "status_reason": "a reason" if ms is None else None,
        "model": model, "technique": technique, "backend": "openmp", "threads": 1, "batch": 1,
        "format": "dense", "weights": "trained", "level": None, "point": None, "params": 1000, "macs": 10**6,
        "nnz": 1000, "stored_bytes": 4000, "stored_as": "float32", "artifact_sha256": f"{model}-{technique}",
        "checkpoint_sha256": model, "top1": 90.0, "top1_n": 10000, "top1_source": "recorded:cifar10-test",
        "top1_reason": None, "planned_bytes": 5000, "arena_bytes": 1000, "weight_bytes": 4000,
        "baseline_rss_bytes": 10**7, "peak_rss_bytes": 2 * 10**7, "running_rss_bytes": 10**7 + 5000,
        "peak_rss_since": "baseline", "max_error_vs_bound": 0.5, "n_checked": 10, "n_elements_checked": 1000,
        "logit_error": 1e-6, "logit_scale": 10.0, "kernels": {"conv2d.dense.openmp.direct": 10}, "fallbacks": 0,
        "tuned": 0, "env": ENV, **(timed if ms is None else times(ms, seed)), **more,
    }  # fmt: skip


def journal(path: Path, rows: list[Row]) -> Path:
    """A file as bench leaves it."""
    path.write_bytes(b"".join(encode(each) for each in rows))
    return path


def dumped(path: Path, rows: list[Row]) -> Path:
    """A file as --format json prints it."""
    path.write_text(json.dumps(rows, indent=1))
    return path
