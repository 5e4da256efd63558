"""DeepSparse, which skips zeros of pruned weights. Its last release reads ONNX of 2021, which these models fit too."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["NM_DISABLE_ANALYTICS"] = "true"
import deepsparse

OPSET, IR = 13, 7


def convert(model: str, folder: str) -> Path:
    """The same nodes under the older operator set; onnx's checker refuses what that has not."""
    import onnx

    path, read = Path(folder, "model.onnx"), onnx.load(model)
    read.opset_import[0].version, read.ir_version = OPSET, IR
    onnx.checker.check_model(read, full_check=True)
    onnx.save(read, path)
    return path


def load(model: str, threads: int, setting: str) -> Callable[[Any], Any]:
    """An engine of one stream."""
    import onnx

    size = onnx.load(model).graph.input[0].type.tensor_type.shape.dim[0].dim_value
    engine = deepsparse.Engine(model, batch_size=size, num_cores=threads)
    return lambda x: engine.run([x])[0]
