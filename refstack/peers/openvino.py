"""OpenVINO's processor plugin: one stream, float32 arithmetic (it would take bfloat16 where the processor has it)."""

from collections.abc import Callable
from typing import Any

import openvino


def load(model: str, threads: int, setting: str) -> Callable[[Any], Any]:
    """A compiled model with one request, which reads its input and gives its output in place."""
    config = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_HYPER_THREADING": True,  # or it would use fewer threads than asked where two share a core
        "INFERENCE_PRECISION_HINT": "f32",
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(model), "CPU", config).create_infer_request()
    return lambda x: request.infer({0: x}, share_inputs=True, share_outputs=True)[0]
