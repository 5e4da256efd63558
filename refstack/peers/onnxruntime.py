"""ONNX Runtime's processor provider. All graph optimizations are on, as they are unless told otherwise."""

from collections.abc import Callable
from typing import Any

import onnxruntime


def load(model: str, threads: int, setting: str) -> Callable[[Any], Any]:
    """A session of its own pool of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    (feed,), (fetch,) = session.get_inputs(), session.get_outputs()
    return lambda x: session.run([fetch.name], {feed.name: x})[0]
