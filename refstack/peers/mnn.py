"""MNN: a session of float32 arithmetic ("high"; its default may be less), with more or less of Winograd's algorithm.

The converter is called in the library itself: MNN's own command, `mnnconvert`, installs packages and reports its use.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import MNN
import numpy as np

WINOGRAD_MEMORY_LEVEL = 3
"""The hint's number in MNN's HintMode; 3 is most memory, and the default."""


def convert(model: str, folder: str) -> Path:
    """ONNX to MNN."""
    import _tools

    path = Path(folder, "model.mnn")
    _tools.mnnconvert(
        ["mnnconvert", "-f", "ONNX", "--modelFile", model, "--MNNModel", str(path), "--bizCode", "refstack"]
    )
    if not path.exists():
        raise ValueError("the converter wrote nothing")
    return path


def load(model: str, threads: int, setting: str) -> Callable[[Any], Any]:
    """A session on its own threads."""
    net = MNN.Interpreter(model)
    net.setSessionHint(WINOGRAD_MEMORY_LEVEL, 3 if setting == "winograd" else 0)
    session = net.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
    feed, fetch = net.getSessionInput(session), net.getSessionOutput(session)

    def tensor(array: Any) -> Any:
        return MNN.Tensor(array.shape, MNN.Halide_Type_Float, array, MNN.Tensor_DimensionType_Caffe)

    y = np.empty(fetch.getShape(), np.float32)
    logits = tensor(y)

    def run(x: Any) -> Any:
        feed.copyFrom(tensor(x))
        net.runSession(session)
        fetch.copyToHostTensor(logits)
        return logits.getNumpyData()

    return run
