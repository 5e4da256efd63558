"""tune and the verbs that use what it kept, on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tuned
from benching import strict_loads
from commands import here
from PIL import Image
from tuned import HONEST, clock, rows

from refstack import checkpoint
from refstack.backends import Step
from refstack.benchmark import choices, tuning

B = "conv2d.dense:n1c8h8w8_k8r3s3_st1pd1g1_relu"
FAST, SLOW, WRONG = (f"conv2d.dense.numpy.{name}" for name in ("fast", "slow", "wrong"))


def wrong(step: Step) -> None:
    step.output[...] += 1


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A checkpoint, a file of this test's own, and three rows for its convolutions: slow, wrong, fast."""
    monkeypatch.setenv("REFSTACK_TUNING_FILE", str(tmp_path / "tuning.json"))
    checkpoint.save(tuned.network(), tmp_path / "tuned.safetensors")
    rows(monkeypatch, {"slow": HONEST, "wrong": wrong, "fast": HONEST})
    clock(monkeypatch, {"slow": 4000, "wrong": 1, "fast": 2000})
    return str(tmp_path / "tuned.safetensors")


def test_tune_as_json(capfd: pytest.CaptureFixture[str], model: str) -> None:
    done = here(capfd, "tune", model, "--technique", "dense", "-b", "numpy", "--threads", "1", "-f", "json")
    assert done.returncode == 0, done.stderr
    (network,) = strict_loads(done.stdout)
    assert (network["technique"], network["backend"], network["threads"], network["batch"]) == ("dense", "numpy", 1, 1)
    assert network["gain"] == pytest.approx(2, rel=0.01)
    case = next(each for each in network["cases"] if each["case"] == B)
    assert (case["layers"], case["default"], case["winner"], case["gain"]) == (["b", "c"], SLOW, FAST, 2)
    assert case["us"] == {SLOW: 4, FAST: 2}
    assert list(case["left_out"]) == [WRONG]
    assert f"kept in {choices.path()}" in done.stderr


def test_tune_as_a_table(capfd: pytest.CaptureFixture[str], model: str) -> None:
    done = here(capfd, "tune", model, "-t", "dense", "-b", "numpy")
    assert "slow 4, fast 2" in done.stdout
    assert "wrong: FAILED" in " ".join(done.stdout.split())
    assert "linear" not in done.stdout, "a layer with one row has nothing to choose"
    last = done.stderr.splitlines()[-2]
    assert last.startswith(f"{model} dense, numpy, 1 thread: default 0.012 ms, tuned 0.006 ms, ratio 2.000")


def test_what_was_dropped_is_said(
    capfd: pytest.CaptureFixture[str], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock(monkeypatch, {"slow": 4000, "fast": 2000}, whole={"slow": 4000, "fast": 5000})
    done = here(capfd, "tune", model, "-t", "dense", "-b", "numpy")
    assert "ratio 1.000; 2 choices dropped, the whole network was not faster with them" in done.stderr


def test_explain_shows_candidates_times_and_winner(capfd: pytest.CaptureFixture[str], model: str) -> None:
    def step(*arguments: str) -> dict[str, object]:
        done = here(capfd, "explain", model, "-b", "numpy", "-f", "json", *arguments)
        return next(each for each in strict_loads(done.stdout) if each["layer"] == "b")

    before = step()
    assert (before["kernel"], before["candidates"]) == (SLOW, dict.fromkeys((SLOW, WRONG, FAST)))
    assert "no times of this machine and build are kept: `refstack tune` measures them" in here(
        capfd, "explain", model, "-b", "numpy"
    ).stderr  # fmt: skip
    here(capfd, "tune", model, "-t", "dense", "-b", "numpy")
    after = step()
    assert (after["kernel"], after["candidates"]) == (FAST, {SLOW: 4, WRONG: None, FAST: 2})
    assert any("wrong: FAILED" in reason for reason in after["refused"])  # type: ignore[attr-defined]
    assert step("--no-tuning") == before
    assert step("--threads", "2") == before
    done = here(capfd, "explain", model, "-b", "numpy")
    assert "* fast 2 us" in done.stdout
    assert "slow 4 us" in done.stdout
    assert "4 layers have times of this machine, 3 have another kernel because of them" in done.stderr


def test_classify_and_evaluate_use_what_was_kept(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from commands import network

    monkeypatch.setenv("REFSTACK_TUNING_FILE", str(tmp_path / "tuning.json"))
    checkpoint.save(network(), tmp_path / "small.safetensors")
    used: list[str] = []
    rows(monkeypatch, {name: lambda step: used.append(step.kernel.variant) for name in ("slow", "fast")})
    for i in range(2):
        (tmp_path / "set" / "cat").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 32, 3), 50 * i, np.uint8)).save(tmp_path / "set" / "cat" / f"{i}.png")
    model, picture = str(tmp_path / "small.safetensors"), str(tmp_path / "set" / "cat" / "0.png")
    verbs = (
        ("classify", picture, "-m", model, "-b", "numpy"),
        ("evaluate", "-m", model, "--data", str(tmp_path / "set"), "-b", "numpy", "--batch", "1"),
    )
    clock(monkeypatch, {"slow": 4000, "fast": 2000})
    assert here(capfd, "tune", model, "-t", "dense", "-b", "numpy").returncode == 0
    for verb in verbs:
        for arguments, variant in ((verb, "fast"), ((*verb, "--no-tuning"), "slow")):
            used.clear()
            done = here(capfd, *arguments)
            assert done.returncode == 0, done.stderr
            assert set(used) == {variant}


def test_forget(capfd: pytest.CaptureFixture[str], model: str) -> None:
    here(capfd, "tune", model, "-t", "dense", "-b", "numpy")
    done = here(capfd, "tune", "--forget")
    assert (done.returncode, done.stdout) == (0, "")
    assert "tuning.json: removed" in done.stderr
    assert not choices.path().exists()
    assert "nothing was kept" in here(capfd, "tune", "--forget").stderr


def test_interrupted_after_the_first_network(
    capfd: pytest.CaptureFixture[str], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = tuning._Run.outcome, [0]

    def outcome(*arguments: object) -> tuning.Tuning:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return honest(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(tuning._Run, "outcome", outcome)
    done = here(capfd, "tune", model, "-t", "dense,half", "-b", "numpy")
    assert done.returncode == 130
    assert "networks that were finished are kept" in done.stderr
    assert choices.tuned("numpy", 1)[B] == FAST
