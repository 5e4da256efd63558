"""ncnn: float32 storage and arithmetic (its default is half precision where the processor has it), Winograd on or off.

The converter is pnnx's program. ncnn computes one image at a time; a batch is so many runs.
"""

import importlib.util
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ncnn
import numpy as np


def convert(model: str, folder: str) -> Path:
    """ONNX to ncnn, by way of a copy: pnnx writes beside its input."""
    spec = importlib.util.find_spec("pnnx")  # importing it would import torch
    assert spec is not None and spec.origin is not None
    source = Path(folder, "model.onnx")
    source.symlink_to(model)
    subprocess.run([Path(spec.origin).with_name("pnnx"), source, "fp16=0"], check=True, stdout=subprocess.DEVNULL)
    return source.with_suffix(".ncnn.param")


def load(model: str, threads: int, setting: str) -> Callable[[Any], Any]:
    """A net whose options hold float32 and the number of threads."""
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_winograd_convolution = setting == "winograd"
    for narrow in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage", "bf16_packed"):
        setattr(net.opt, f"use_{narrow}", False)
    if net.load_param(model) or net.load_model(model.removesuffix("param") + "bin"):
        raise ValueError("ncnn does not read the model")

    def one(image: Any) -> Any:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(image))
        return np.array(extractor.extract("out0")[1])

    return lambda x: np.stack([one(image) for image in x])
