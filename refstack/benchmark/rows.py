"""A row: what is known of one cell, as strict JSON: null where nothing is known, never NaN.

cell_id, created_utc, refstack_version, schema_version          what was asked (cells.py), when, by what
model technique backend threads batch quick                     the request itself
status              ok, failed, timeout, or skipped (a peer that is not here, or cannot); without times but for ok
status_reason       in words
format level params macs nnz                                    the artifact
weights             "trained"; "one-shot", compressed here and not trained again; "drawn", at random
point               full name of the trained point that it is; with drawn weights, that it has structure and top1 of
stored_bytes, stored_as                                         of its file's tensors, in float32 or float16
artifact_sha256     of what was computed        checkpoint_sha256   of the file it was made from
latency_p50_ms, latency_p90_ms, samples_ns                      of plan.run: input copied in, output copied out
rounds              how many of the samples each block holds, in order; blocks are seconds apart (rounds.py)
top1 (percent), top1_n, top1_source, top1_reason                measured or recorded, on which data set, or why not
planned_bytes = arena_bytes + weight_bytes                      activations and scratch, packed weights
baseline_rss_bytes  of the child before it has read the network: libraries are loaded, threads started
peak_rss_bytes      of the child while it loads, plans and runs, since `peak_rss_since`; before the check
running_rss_bytes   of the child while it runs what is planned; the network's own weights are gone then
max_error_vs_bound, n_checked, n_elements_checked               largest layer error in units of its bound
logit_error, logit_scale                                        against the float64 reference
kernels, fallbacks  calls by kernel; calls of other backends than the one asked for
tuned               layers that `refstack tune` gave another kernel than the default; 0: none
peer, peer_setting  another runtime with its version, and how it was run where there is a choice; format, stored_bytes
                    are those of its file then, max_error_vs_bound is that of the logits
env                 processor, memory, libraries, compiler and flags, code; load and measured limits (roofs)  machine.py
"""

from __future__ import annotations

from typing import Any

from refstack.worker import strict as strict

SCHEMA_VERSION = 3
"""Raised when a field changes its meaning; new fields do not raise it."""

Row = dict[str, Any]
