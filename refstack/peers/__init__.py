"""Other runtimes, timed beside refstack's own rows: the very weights as an ONNX file, each in a process of its own.

    network -> network.onnx (setup.py) -> the peer's own format, if it has one -> child.py, in the peer's own Python

A peer is a file here with `load(model, threads, setting)`, which gives a function from a batch of images to logits; and
`convert(model, folder)`, if the runtime does not read ONNX itself. Such a file imports the runtime, NumPy and nothing
of refstack.
Next: child.py, setup.py
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

HOME = Path(__file__).resolve().parent
FOLDER = Path(".peers")
"""Where `make peers` puts an environment for every peer; what they require does not go together."""


@dataclass(frozen=True)
class Peer:
    """A runtime that others use.

    distributions   what must be installed; versions of all of them are part of a row's identity
    requires        for pip; `bare`: without what they require in turn
    settings        ways to run it, of which the one that is faster for a network is taken
    integers        whether it runs the int8 file as integers
    newest_python   the last one that it is built for; None: no limit known
    runtime         the file with `load`
    """

    name: str
    distributions: tuple[str, ...]
    requires: tuple[str, ...]
    settings: tuple[str, ...] = ("",)
    bare: tuple[str, ...] = ()
    integers: bool = False
    newest_python: tuple[int, int] | None = None
    runtime: Path | None = None

    @property
    def file(self) -> Path:
        """The file with `load`."""
        return self.runtime or HOME / f"{self.name}.py"

    @property
    def install(self) -> str:
        """What a reader can type."""
        words = " ".join(f'"{each}"' if set(each) & set("<>=") else each for each in self.requires)
        words += "".join(f"; pip install --no-deps {each}" for each in self.bare)
        return f"pip install {words}" + (f" (Python {self.newest} or older)" if self.newest_python else "")

    @property
    def newest(self) -> str:
        """3.11"""
        return ".".join(map(str, self.newest_python or ()))

    def python(self, folder: Path) -> Path:
        """The interpreter of its own environment, or the one that runs now."""
        own = folder / self.name / "bin" / "python"
        return own if own.exists() else Path(sys.executable)


PEERS = {
    peer.name: peer
    for peer in (
        Peer("onnxruntime", ("onnxruntime",), ("onnxruntime>=1.20",), integers=True),
        Peer("openvino", ("openvino",), ("openvino>=2025.0",), integers=True),
        Peer(
            "litert",
            ("ai-edge-litert", "tensorflow-cpu"),
            ("ai-edge-litert>=2", "tensorflow-cpu>=2.19", "onnx>=1.17"),
        ),
        Peer("torch", ("torch",), ("torch>=2.6", "onnx>=1.17", "numpy"), ("compiled", "eager")),
        Peer(
            "torchcuda",
            ("torch",),
            ("torch>=2.6", "onnx>=1.17", "numpy"),
            ("graph nchw", "graph nhwc", "eager nchw", "eager nhwc"),
        ),
        Peer("ncnn", ("ncnn", "pnnx"), ("ncnn", "numpy"), ("winograd", "direct"), bare=("pnnx",)),
        Peer("mnn", ("MNN",), ("MNN>=3.0", "numpy"), ("winograd", "less winograd")),
        Peer(
            "deepsparse",
            ("deepsparse",),
            ("deepsparse>=1.8,<1.9", "onnx<1.15", "numpy<2"),
            integers=True,
            newest_python=(3, 11),
        ),
    )
}
