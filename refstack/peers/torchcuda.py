"""PyTorch on an NVIDIA GPU with cuDNN: eager or as a CUDA graph, channels first or last; float32 arithmetic, TF32 off.

A run takes a NumPy batch to the device and the logits back, through page-locked memory, as refstack's own device
backend does.
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
    """The network on the first GPU; `threads` are the host's.

    Args        setting     "eager nchw", "eager nhwc", "graph nchw" or "graph nhwc"
    """
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    how, order = setting.split()
    layout = torch.channels_last if order == "nhwc" else torch.contiguous_format
    return _staged(network(model).cuda().to(memory_format=layout), layout, how == "graph")


def _staged(net: Any, layout: torch.memory_format, graphed: bool) -> Callable[[Any], Any]:
    """What is made at the first run, whose shape all runs have: memory, and the graph."""
    held: dict[str, Any] = {}

    def prepare(x: Any) -> None:
        held["in"] = torch.empty(x.shape, pin_memory=True)
        held["x"] = torch.from_numpy(x).cuda().contiguous(memory_format=layout)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                y = net(held["x"])
        torch.cuda.current_stream().wait_stream(side)
        held["out"] = torch.empty(y.shape, pin_memory=True)
        if graphed:
            held["graph"] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(held["graph"]):
                held["y"] = net(held["x"])

    def run(x: Any) -> Any:
        with torch.inference_mode():
            if not held:
                prepare(x)
            held["in"].copy_(torch.from_numpy(x))
            held["x"].copy_(held["in"], non_blocking=True)
            if graphed:
                held["graph"].replay()
            y = held["y"] if graphed else net(held["x"])
            held["out"].copy_(y, non_blocking=True)
            torch.cuda.current_stream().synchronize()
            return held["out"].numpy()

    return run
