"""What comes before a peer's child is timed: which Python has it, the model it reads, the faster of its settings.

Next: export.py
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from refstack.errors import RefstackError
from refstack.peers import HOME, PEERS, Peer
from refstack.peers.export import Model, export
from refstack.worker import ChildFailed, Worker

START_S = 60.0
"""For an interpreter to start and to say what is installed."""
TRIAL_NS = 300_000_000
"""Timed for each setting of a peer."""

UNKNOWN_TOP1 = {"top1": None, "top1_n": None, "top1_source": None, "top1_reason": "not measured: a peer's int8"}
"""The recorded one is that of refstack's rounding, which a peer's differs from in the last step."""


class Skipped(Exception):
    """A peer does not run a network here; the message says why."""


@dataclass(frozen=True)
class Host:
    """Where and how a cell of a peer is run: the child's command, the arguments of its `load`, facts for the row."""

    command: tuple[str, ...]
    load: dict[str, Any]
    facts: dict[str, Any]


@dataclass(eq=False)
class Field:
    """The peers that take part.

    folder      environments made for them, <folder>/<name>/bin/python; what has none is looked for in this one
    versions    of those that are installed, "onnxruntime 1.23.0"       missing     why the others are not
    """

    names: tuple[str, ...]
    folder: Path
    timeout_s: float
    versions: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    _models: dict[str, Model] = field(default_factory=dict)
    _converted: dict[tuple[str, Path], str | Skipped] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.names:
            self._find(PEERS[name])

    def host(self, name: str, files: Mapping[str, str], threads: int) -> Host:
        """Everything but the timing.

        Args        files   of one artifact: graph, input, oracle
        Raises      Skipped         not installed, or it cannot take this network
                    ChildFailed     it runs under no setting
        """
        peer = PEERS[name]
        if name in self.missing:
            raise Skipped(self.missing[name])
        model = self._model(files)
        if model.integers and not peer.integers:
            raise Skipped(f"{name} makes int8 networks with its own tools alone, and that would be another network")
        common = {"input": files["input"], "wanted": files["oracle"], "limit": model.limit, "threads": threads}
        ways: dict[str, dict[str, Any]] = {}
        reasons: list[Skipped] = []
        for form, path in model.paths.items():
            try:
                file = {"runtime": str(peer.file), "model": self._convert(peer, path)}
            except Skipped as reason:
                reasons.append(reason)
                continue
            for setting in peer.settings:
                ways[", ".join(filter(None, (form, setting)))] = {**common, **file, "setting": setting}
        if not ways:
            raise reasons[0]
        way = self._fastest(peer, ways)
        facts = {"peer": self.versions[name], "peer_setting": way or None, **_stored(Path(ways[way]["model"]))}
        facts |= UNKNOWN_TOP1 if model.integers else {"format": "dense"}
        return Host(self._command(peer), ways[way], facts)

    def _command(self, peer: Peer) -> tuple[str, ...]:
        return str(peer.python(self.folder)), "-I", str(HOME / "boot.py")

    def _find(self, peer: Peer) -> None:
        with Worker(self._command(peer), 1) as worker:
            try:
                found = worker.ask("versions", START_S, distributions=peer.distributions)["versions"]
            except ChildFailed as error:
                self.missing[peer.name] = f"its Python does not start: {error.reason}"
                return
        absent = [name for name, version in found.items() if version is None]
        if absent:
            self.missing[peer.name] = f"{', '.join(absent)} not installed: {peer.install}"
        else:
            self.versions[peer.name] = ", ".join(f"{name} {version}" for name, version in found.items())

    def _model(self, files: Mapping[str, str]) -> Model:
        if files["graph"] not in self._models:
            try:
                self._models[files["graph"]] = export(files)
            except RefstackError as error:
                raise Skipped(f"no ONNX model: {error}") from None
        return self._models[files["graph"]]

    def _convert(self, peer: Peer, model: Path) -> str:
        """The file that the peer loads, made once; what failed once is not tried again."""
        key = (peer.name, model)
        if key not in self._converted:
            folder = model.with_suffix(f".{peer.name}")
            folder.mkdir()
            with Worker(self._command(peer), 1) as worker:
                arguments = {"runtime": str(peer.file), "model": str(model), "folder": str(folder)}
                try:
                    self._converted[key] = worker.ask("convert", self.timeout_s, **arguments)["model"]
                except ChildFailed as error:
                    self._converted[key] = Skipped(error.reason)
        found = self._converted[key]
        if isinstance(found, Skipped):
            raise found
        return found

    def _fastest(self, peer: Peer, ways: dict[str, dict[str, Any]]) -> str:
        """The way of the lowest median, each tried in a process of its own. Those that fail are out."""
        if len(ways) == 1:
            return next(iter(ways))
        times: dict[str, float] = {}
        failed: list[ChildFailed] = []
        for way, load in ways.items():
            with Worker(self._command(peer), load["threads"]) as worker:
                try:
                    first = worker.ask("load", self.timeout_s, **load)["run_ns"]
                    runs = min(max(3, TRIAL_NS // first), 1000)
                    times[way] = median(worker.ask("time", self.timeout_s, runs=runs, warmup=1)["samples_ns"])
                except ChildFailed as error:
                    failed.append(error)
        if not times:
            raise failed[0]
        return min(times, key=lambda way: times[way])


def _stored(path: Path) -> dict[str, Any]:
    """What the row says of the file that a peer loads; some formats keep their weights in a second one."""
    files = [each for each in (path, path.with_suffix(".bin")) if each.exists()]
    return {"stored_as": path.suffix.removeprefix("."), "stored_bytes": sum(each.stat().st_size for each in files)}
