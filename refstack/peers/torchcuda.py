"""PyTorch on an NVIDIA GPU with cuDNN: a CUDA graph (eager was slower throughout), channels first or last;
float32 arithmetic, TF32 off.

A run takes a NumPy batch to the device and the logits back, as refstack's own device backend does.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch

WARM_UP = 10
"""Runs in which cuDNN tries its algorithms."""


def network(model: str) -> Any:
    """The module of torch.py, which lies beside this file."""
    spec = importlib.util.spec_from_file_location("peer_torch_network", Path(__file__).with_name("torch.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Network(onnx.load(model).graph).eval()


def load(model: str, threads: int, setting: str) -> Callable[[Any], Any]:
    """The network on the first GPU; `threads` are the host's."""
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    layout = torch.channels_last if setting.endswith("nhwc") else torch.contiguous_format
    return _graph(network(model).cuda().to(memory_format=layout), layout)


def _graph(net: Any, layout: torch.memory_format) -> Callable[[Any], Any]:
    """Captured at the first run, whose shape all runs have."""
    held: dict[str, Any] = {}

    def capture(x: Any) -> None:
        held["x"] = torch.from_numpy(x).cuda().contiguous(memory_format=layout)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                net(held["x"])
        torch.cuda.current_stream().wait_stream(side)
        held["graph"] = torch.cuda.CUDAGraph()
        with torch.cuda.graph(held["graph"]):
            held["y"] = net(held["x"])

    def run(x: Any) -> Any:
        with torch.inference_mode():
            if not held:
                capture(x)
            held["x"].copy_(torch.from_numpy(x))
            held["graph"].replay()
            return held["y"].cpu().numpy()

    return run
