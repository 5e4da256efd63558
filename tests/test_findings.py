"""Every claim of the study and of DLAS can come out either way; docs/findings.md is what the shipped record says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from benching import strict_loads
from commands import here
from results import ENV, journal, row, times

from refstack.benchmark.rows import Row
from refstack.errors import UsageError
from refstack.findings import HYPOTHESES, Finding, findings, page, shipped
from refstack.findings.cases import NETWORKS
from refstack.findings.verdicts import judged
from refstack.results import load

ROOT = Path(__file__).resolve().parent.parent
ID = [each.id for each in HYPOTHESES]

MS = {
    ("vgg16", "dense"): 4.0, ("vgg16", "weight"): 2.5, ("vgg16", "channel"): 1.1, ("vgg16", "ternary"): 4.4,
    ("resnet18", "dense"): 6.0, ("resnet18", "weight"): 4.0, ("resnet18", "channel"): 2.0, ("resnet18", "ternary"): 7.0,
    ("mobilenet", "dense"): 1.0, ("mobilenet", "weight"): 0.6, ("mobilenet", "channel"): 0.3,
    ("mobilenet", "ternary"): 0.9,
}  # fmt: skip
NNZ = {"dense": 1000, "weight": 100, "channel": 100, "ternary": 500, "int8": 1000}


def study(changes: dict[tuple[str, str], float] | None = None, threads: int = 1, **more: Any) -> list[Row]:
    """The study's rows on a machine, some times changed."""
    found = []
    for i, ((model, technique), ms) in enumerate({**MS, **(changes or {})}.items()):
        found.append(row(model, technique, ms, i, threads=threads, nnz=NNZ[technique], **more))
    return found


def of(name: str, rows: Sequence[Row]) -> Finding:
    (hypothesis,) = [each for each in HYPOTHESES if each.id == name]
    return judged(hypothesis, rows)


def with_(rows: Sequence[Row], model: str, technique: str, **fields: Any) -> list[Row]:
    """The same rows, fields of one cell changed; "*" is any."""
    return [
        each | fields if model in (each["model"], "*") and technique in (each["technique"], "*") else each
        for each in rows
    ]


AWAY = ENV | {"host": "there", "cpu": "another"}
GPU = ENV | {"device": {"name": "a board", "kind": "gpu"}}
TERNARY = {("vgg16", "ternary"): 0.5, ("resnet18", "ternary"): 0.5, ("mobilenet", "ternary"): 0.1}
IN_8 = {("vgg16", "int8"): 1.0}


def gpu(**ms: float) -> list[Row]:
    return [*study(), *(row(model, ms=each, backend="opencl", env=GPU) for model, each in ms.items())]


EVERY: dict[str, dict[str, list[Row]]] = {
    "channel-fastest": {
        "holds": study(), "fails": study({(model, "weight"): 0.2 for model in NETWORKS}),
        "depends on the network": study({("vgg16", "weight"): 0.2}),
        "depends on the number of threads": [*study(), *study({(m, "weight"): 0.2 for m in NETWORKS}, threads=2)],
    },
    "channel-fastest-today": {"holds": study({("vgg16", "int8"): 2.0}), "depends on the network": study(IN_8)},
    "channel-smallest": {
        "holds": with_(study(), "*", "channel", stored_bytes=10, planned_bytes=10),
        "fails": with_(study(), "*", "ternary", stored_bytes=10, planned_bytes=10),
        "depends on what is compared": with_(study(), "*", "channel", stored_bytes=10),
    },
    "csr-slower": {
        "fails": study(), "holds": study({(model, "weight"): 9.0 for model in NETWORKS}),
        "depends on the network": study({("vgg16", "weight"): 9.0}),
    },
    "ternary-slower": {"depends on the network": study(), "fails": study({(m, "ternary"): 0.2 for m in NETWORKS})},
    "less-than-proportional": {"holds": study(), "depends on the case": study({("vgg16", "channel"): 0.2})},
    "macs-proxy": {
        "holds": study(),
        "fails": with_(with_(study(dict.fromkeys(MS, 2.0)), "*", "channel", macs=10**6), "*", "dense", macs=10**6),
    },
    "order-by-network": {
        "holds": study(), "fails": study({("mobilenet", "ternary"): 1.2}),
    },
    "mobilenet-threads": {
        "fails": [*study(), *study({("mobilenet", "dense"): 0.6}, threads=2)],
        "holds": [*study(), *study({("mobilenet", "dense"): 1.6}, threads=2)],
    },
    "vgg-beats-mobilenet": {
        "holds": study({("vgg16", "channel"): 0.5}), "fails": study(),
        "depends on the number of threads": [*study(), *study({("vgg16", "channel"): 0.5}, threads=2)],
    },
    "ternary-mobilenet": {
        "holds": with_(study(), "mobilenet", "ternary", top1=70.0),
        "fails": with_(study(), "vgg16", "ternary", top1=85.0),
        "depends on what is compared": with_(study(), "mobilenet", "ternary", top1=87.0),
    },
    "channel-beats-weight": {
        "holds": with_(study(), "*", "channel", top1=91.0, stored_bytes=10),
        "fails": with_(study(), "*", "weight", top1=91.0, stored_bytes=10),
        "untested": with_(study(), "*", "channel", stored_bytes=10),
    },
    "library-slower": {
        "holds": [*study(), *study(dict.fromkeys(MS, 9.0), backend="blas")],
        "fails": [*study(), *study(dict.fromkeys(MS, 0.2), backend="blas")], "untested": study(),
    },
    "gpu-gains": {
        "holds": gpu(vgg16=1.0, resnet18=2.0, mobilenet=1.5), "fails": gpu(vgg16=8.0, resnet18=9.0, mobilenet=0.5),
        "depends on the network": gpu(vgg16=1.0, mobilenet=0.5), "untested": study(),
    },
    "dlas-size-time-accuracy": {
        "holds": with_(study(TERNARY), "*", "ternary", stored_bytes=10, top1=91.0, planned_bytes=1),
        "depends on what is compared": with_(study(), "*", "channel", stored_bytes=10),
    },
    "dlas-tuning": {
        "holds": [*study(), *(each for each in study(TERNARY, tuned=2) if each["technique"] == "ternary")],
        "fails": [*study(), *study(tuned=2)], "untested": study(),
    },
    "dlas-primitive": {
        "holds": with_(study(IN_8), "*", "dense", kernels={"conv2d.dense.openmp.winograd4": 9}),
        "fails": with_(study(IN_8), "*", "*", kernels={"conv2d.x.openmp.blocked": 9, "conv2d.x.openmp.stem": 1}),
    },
    "machines-agree": {
        "holds": [*study(), *study({k: 2 * ms for k, ms in MS.items()}, env=AWAY)], "untested": study(),
        "fails": [*study(), *study({k: 1 / ms for k, ms in MS.items()}, env=AWAY)],
    },
    "dlas-hardware": {
        "fails": [*study(), *study({k: 2 * ms for k, ms in MS.items()}, env=AWAY)], "untested": study(),
        "depends on the network": [*study(), *study({("vgg16", "dense"): 9.0}, env=AWAY)],
        "holds": [*gpu(vgg16=1.0), row("vgg16", "weight", 3.0, backend="opencl", env=GPU)],
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "wanted"), [(name, wanted) for name, each in EVERY.items() for wanted in each])
def test_each_claim_can_come_out_either_way(name: str, wanted: str) -> None:
    found = of(name, EVERY[name][wanted])
    assert found.words == wanted, [(case.where, case.figures, case.holds) for case in found.cases]
    assert found.reason


def test_every_claim_is_planted_and_explained() -> None:
    assert set(EVERY) == set(ID)
    for each in HYPOTHESES:
        assert each.claim and each.source and each.tested and each.run  # noqa: PT018
        assert {"holds", "fails"} <= set(each.why)
        assert len(EVERY[each.id]) > 1


def test_noise_leaves_a_case_open() -> None:
    rows = study()
    noisy = with_(rows, "*", "weight", **times(4.0, rounds=10, drift=0.8, seed=3))
    noisy = with_(noisy, "*", "dense", **times(4.4, rounds=10, drift=0.8, seed=4))
    found = of("csr-slower", noisy)
    assert found.verdict == "untested"
    assert found.reason == "the noise is larger than the differences"
    assert {case.holds for case in found.cases} == {None}


def test_each_machine_is_judged_by_itself_and_peers_do_not_count() -> None:
    away = study({(model, "weight"): 9.0 for model in NETWORKS}, env=AWAY)
    peer = row("vgg16", "channel", 99.0, backend="mnn", peer="mnn 3")
    found = {
        each.machine: each.verdict for each in findings([peer, *study(), *away]) if each.hypothesis.id == "csr-slower"
    }
    assert found == {"a processor": "fails", "another": "holds"}
    assert of("channel-fastest", [peer, *study()]).words == "holds"
    with pytest.raises(UsageError, match="no row has times; `refstack bench"):
        findings([row(ms=None)])


def test_the_page_is_what_the_shipped_record_says() -> None:
    """docs/findings.md drifted from data/results: `refstack findings --format md > docs/findings.md`."""
    rows = load(shipped())
    assert (ROOT / "docs" / "findings.md").read_text("utf-8") == page(findings(rows), rows)
    assert sum(path.stat().st_size for path in shipped()) < 1_000_000


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = str(journal(tmp_path / "j.jsonl", study()))
    done = here(capfd, "findings", path, "--format", "json")
    assert done.returncode == 0
    assert [each["id"] for each in strict_loads(done.stdout)] == sorted(
        ID, key=lambda name: name in ("machines-agree", "dlas-hardware")
    )
    assert strict_loads(done.stdout)[0]["verdict"] == "holds"
    assert "a processor:" in done.stderr
    done = here(capfd, "findings", path, "--format", "md")
    assert done.stdout == page(findings(study()), study())
    assert "depends on the network" in " ".join(here(capfd, "findings", path).stdout.split())
