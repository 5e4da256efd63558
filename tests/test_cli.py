"""The command line: exit status, messages, and nothing on stdout but what was asked for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from benching import strict_loads
from commands import here, network, refstack_command
from PIL import Image

import refstack
from refstack import checkpoint
from refstack.benchmark import worker
from refstack.datasets import CLASSES
from refstack.graph import Graph

VERBS = (
    "bench", "evaluate", "classify", "compress", "train", "export", "points", "kernels", "explain", "verify", "doctor",
    "tune", "best", "compare", "check", "merge", "findings",
)  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> str:
    checkpoint.save(network(), tmp_path / "small.safetensors")
    return str(tmp_path / "small.safetensors")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An archive with two pictures of each class."""
    rng = np.random.default_rng(0)
    for name in CLASSES:
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(2):
            picture = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8))
            picture.save(tmp_path / "set" / name / f"{i}.png")
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "set", "set")
    return tmp_path / "set.tar.gz"


# Start


def test_help_is_quick_and_imports_nothing_heavy(tmp_path: Path) -> None:
    start = time.perf_counter()
    done = refstack_command("--help", cwd=tmp_path)
    seconds = time.perf_counter() - start
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in VERBS)
    assert "130 interrupted" in done.stdout.replace("\n", " ")
    assert seconds < 3, "0.3 s on an idle core; the margin is for busy machines"
    script = "import sys, refstack.cli; print(sorted({'numpy', 'scipy', 'numexpr', 'PIL', 'torch'} & set(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], env=worker.environment(1), capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert here(capfd, "--version").stdout == f"refstack {refstack.__version__}\n"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(capfd: pytest.CaptureFixture[str], verb: str) -> None:
    done = here(capfd, verb, "--help")
    assert done.returncode == 0
    assert "--format" in re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("bench", "-m", "mobilnet"), 2, "unknown model 'mobilnet': did you mean 'mobilenet'"),
        (("bench", "-m", "mobilenet", "-t", "prune"), 2, "unknown technique 'prune'"),
        (("bench", "-m", "mobilenet", "-b", "openmpi"), 2, "unknown backend 'openmpi': did you mean 'openmp'"),
        (("bench", "-m", "mobilenet", "--threads", "0"), 2, "threads: got 0, wanted a whole number of at least 1"),
        (("bench", "-m", "mobilenet", "--threads", "two"), 2, "--threads: got 'two', wanted whole numbers"),
        (("bench", "-m", "mobilenet", "--batch", "0"), 2, "batch: got 0"),
        (("bench", "-m", "mobilenet", "--data", "nowhere"), 2, "'nowhere': cannot be read"),
        (("explain", "mobilenet", "-t", "prune"), 2, "unknown technique 'prune'"),
        (("explain", "mobilenet", "-b", "gpu"), 2, "unknown backend 'gpu'"),
        (("explain", "mobilenet", "-b", "numpy", "--threads", "0"), 2, "threads is 0"),
        (("explain", "nowhere.safetensors"), 2, "nowhere.safetensors: cannot be read"),
        (("evaluate", "-m", "resnet", "--data", "x"), 2, "unknown model 'resnet': did you mean 'resnet18'"),
        (("evaluate", "-m", "vgg16/wait-0.9", "--data", "x"), 2, "no trained point 'vgg16/wait-0.9'"),
        (
            ("bench", "-m", "mobilenet", "-t", "weight-0.12"),
            2,
            "unknown technique 'weight-0.12': did you mean 'weight'",
        ),
        (
            ("compress", "mobilenet", "-t", "prune", "-o", "x"),
            2,
            "no training is known for 'prune', wanted one of weight",
        ),
        (("compress", "mobilenet", "-t", "weight", "-o", "x"), 2, "weight needs --level, for example --level 0.9"),
        (("compress", "mobilenet", "-t", "int8", "--epochs", "1", "-o", "x"), 2, "--epochs are for training"),
        (("train", "vgg", "--data", ".", "-o", "x"), 2, "no model 'vgg', wanted one of vgg16"),
        (("kernels", "-k", "conv9*"), 2, "no kernel is called 'conv9*'"),
        (("kernels", "-b", "cuda"), 2, "unknown backend 'cuda'"),
        (("verify", "-k", "conv9*"), 2, "no kernel is called 'conv9*'"),
        (("verify", "--case", "conv2d.dense"), 2, "case 'conv2d.dense': 'conv2d.dense' is no op.format"),
        (("verify", "--profile", "slow"), 2, "profile 'slow', wanted one of quick, full"),
        (("verify", "--plugin", "none.toml"), 2, "plug-in none.toml: cannot be read"),
        (("verify", "--threads", "0"), 2, "threads [0], wanted whole numbers of at least 1"),
        (("verify", "--profile", "soak", "--minutes", "0"), 2, "--minutes: got 0, wanted more than 0"),
        (("doctor", "--require", "gpu"), 2, "cannot look for gpu"),
        (("tune", "mobilnet"), 2, "unknown model 'mobilnet': did you mean 'mobilenet'"),
        (("tune", "mobilenet", "--threads", "0"), 2, "threads: got 0"),
        (("tune", "mobilenet", "-b", "gpu"), 2, "unknown backend 'gpu'"),
        (("explain", "mobilenet", "-b", ""), 2, "--backends names none"),
        (("data", "fetch", "imagenet"), 2, "unknown data set 'imagenet', wanted cifar10"),
    ],
)
def test_bad_input_is_one_message_and_a_status(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...],
    status: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REFSTACK_DATA_DIR", str(tmp_path / "none"))
    done = here(capfd, *arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_usage_errors_are_status_2(capfd: pytest.CaptureFixture[str]) -> None:
    assert here(capfd, "dance").returncode == 2
    assert here(capfd, "bench", "--format", "xml").returncode == 2
    assert here(capfd, "evaluate").returncode == 2


def test_debug_shows_where_an_error_comes_from(tmp_path: Path) -> None:
    done = refstack_command("--debug", "kernels", "-b", "cuda", cwd=tmp_path)
    assert "Traceback" in done.stderr
    assert "UsageError" in done.stderr


def test_what_is_asked_for_but_missing_is_status_3(model: str, tmp_path: Path) -> None:
    for arguments in (
        ("bench", "-m", model, "-b", "openmp"),
        ("explain", model, "-b", "openmp"),
        ("kernels", "-b", "openmp"),
        ("verify", "-b", "openmp"),
        ("doctor", "--require", "compiler"),
    ):
        done = refstack_command(*arguments, cwd=tmp_path, REFSTACK_CC="/nonexistent")
        assert done.returncode == 3, (arguments, done.stderr)
        said = done.stderr if arguments[0] != "doctor" else " ".join(done.stdout.split())
        assert "no C compiler found (looked for: $REFSTACK_CC=/nonexistent" in said, arguments
        assert "Traceback" not in done.stderr


def test_without_a_compiler_the_next_best_backend_is_taken(model: str, images: Path, tmp_path: Path) -> None:
    ask = ("evaluate", "-m", model, "--data", str(images), "-f", "json")
    done = refstack_command(*ask, cwd=tmp_path, REFSTACK_CC="/nonexistent")
    assert done.returncode == 0, done.stderr
    assert [row["backend"] for row in strict_loads(done.stdout)] == ["opencl"]
    assert "backend openmp is left out: no C compiler found" in done.stderr


def test_evaluate_without_a_data_set_says_how_to_get_one(model: str, tmp_path: Path) -> None:
    done = refstack_command("evaluate", "-m", model, "-b", "numpy", cwd=tmp_path)
    assert done.returncode == 2
    assert "refstack data fetch cifar10" in done.stderr


# Verbs


def test_bench_end_to_end(tmp_path: Path) -> None:
    ask = ("bench", "--quick", "--models", "mobilenet", "--techniques", "dense", "--backends", "numpy,blas")
    done = refstack_command(*ask, "--threads", "1", "--format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = strict_loads(done.stdout)
    assert [(row["backend"], row["status"], row["quick"]) for row in rows] == [
        ("numpy", "ok", True), ("blas", "ok", True),
    ]  # fmt: skip
    assert rows[0]["artifact_sha256"] == rows[1]["artifact_sha256"]
    assert "journal: results/bench.jsonl" in done.stderr
    lines = (tmp_path / "results" / "bench.jsonl").read_text().splitlines()
    assert len([strict_loads(line) for line in lines]) == 2

    done = refstack_command(*ask, "--threads", "1", cwd=tmp_path)
    assert "2 of 2 cells are in the journal" in done.stderr
    assert "mobilenet" in done.stdout
    assert "journal" not in done.stdout
    assert "\x1b" not in done.stdout
    assert "quick run: few samples" in done.stdout


def test_bench_with_failed_cells_is_status_4(
    capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "COMMAND", (sys.executable, "-c", "import os; os._exit(9)"))
    done = here(capfd, "bench", "-m", model, "-t", "dense", "-b", "numpy", "-o", str(tmp_path / "j"), "-f", "jsonl")
    assert done.returncode == 4
    assert "1 of 1 cells failed" in done.stderr
    assert strict_loads(done.stdout)["status_reason"] == "the process ended with exit status 9"


def test_bench_measures_top1_on_a_data_set(
    capfd: pytest.CaptureFixture[str], model: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from refstack.benchmark import artifacts

    monkeypatch.setattr(artifacts, "source", lambda name, seed: as_trained(name))
    done = here(
        capfd, "bench", "-m", model, "-t", "dense,weight", "-b", "numpy", "--quick", "-o", str(tmp_path / "j"), "-f",
        "json", "--data", str(images),
    )  # fmt: skip
    rows = strict_loads(done.stdout)
    assert [row["top1_n"] for row in rows] == [20, 20]
    assert {row["top1_source"].split(":")[0] for row in rows} == {"measured"}
    assert all(0 <= row["top1"] <= 100 for row in rows)


def as_trained(name: str) -> Graph:
    from dataclasses import replace

    return replace(checkpoint.load(name), meta={})


def test_evaluate_counts_on_every_backend(capfd: pytest.CaptureFixture[str], model: str, images: Path) -> None:
    done = here(capfd, "evaluate", "-m", model, "--data", str(images), "-b", "numpy,blas", "-f", "json")
    assert done.returncode == 0, done.stderr
    first, second = strict_loads(done.stdout)
    assert (first["backend"], second["backend"]) == ("numpy", "blas")
    assert first["correct"] == second["correct"]
    assert first["n"] == 20
    table = here(capfd, "evaluate", "-m", model, "--data", str(images), "-b", "numpy", "--limit", "10")
    assert table.returncode == 0
    assert "10" in table.stdout


def test_classify_names_classes_with_probabilities(
    capfd: pytest.CaptureFixture[str], model: str, tmp_path: Path
) -> None:
    Image.new("RGB", (50, 40), (200, 30, 30)).save(tmp_path / "red.png")
    done = here(capfd, "classify", str(tmp_path / "red.png"), "-m", model, "-b", "numpy", "-f", "json")
    guesses = strict_loads(done.stdout)
    assert len(guesses) == 5
    assert [guess["probability"] for guess in guesses] == sorted((g["probability"] for g in guesses), reverse=True)
    assert {guess["class"] for guess in guesses} <= set(CLASSES)
    (tmp_path / "no.png").write_text("no picture")
    done = here(capfd, "classify", str(tmp_path / "no.png"), "-m", model, "-b", "numpy")
    assert done.returncode == 2
    assert "no.png" in done.stderr


def test_points_lists_what_the_manifest_holds(capfd: pytest.CaptureFixture[str]) -> None:
    from refstack.models import zoo

    rows = strict_loads(here(capfd, "points", "-f", "json").stdout)
    assert [row["point"] for row in rows] == [point.name for point in zoo.points()]
    assert sum(row["shipped"] for row in rows) == sum(point.file is not None for point in zoo.points())
    rows = strict_loads(here(capfd, "points", "vgg16", "-t", "weight", "-f", "json").stdout)
    assert all(row["point"].startswith("vgg16/weight-") for row in rows)
    assert here(capfd, "points").returncode == 0


def test_kernels_lists_the_registry(capfd: pytest.CaptureFixture[str]) -> None:
    from refstack.backends import blas

    rows = strict_loads(here(capfd, "kernels", "-b", "blas", "-f", "json").stdout)
    assert [row["kernel"] for row in rows] == [row.name for row in blas.kernels()]
    assert rows[0]["needs"] == ["is_depthwise"]
    (row,) = strict_loads(here(capfd, "kernels", "-b", "blas,numpy", "-k", "linear.csr.blas.*", "-f", "json").stdout)
    assert row["layouts"] == "nchw > nchw"


def test_explain_says_why_a_kernel_was_refused(capfd: pytest.CaptureFixture[str], model: str) -> None:
    done = here(capfd, "explain", model, "-b", "blas", "-f", "json")
    steps = strict_loads(done.stdout)
    first = next(step for step in steps if step["layer"] == "conv1")
    assert first["kernel"] == "conv2d.dense.blas.gemm"
    assert any("this kernel is depthwise" in reason for reason in first["refused"])
    assert "arena" in done.stderr


def test_verify_passes_one_kernel(capfd: pytest.CaptureFixture[str]) -> None:
    done = here(capfd, "verify", "-k", "linear.dense.blas.gemm", "-b", "blas", "--examples", "4", "-f", "json")
    (verdict,) = strict_loads(done.stdout)
    assert (done.returncode, verdict["state"]) == (0, "PASS")
    assert "1 PASS with seed 0" in done.stderr


def test_verify_a_network(capfd: pytest.CaptureFixture[str], model: str) -> None:
    done = here(capfd, "verify", "--model", model, "-b", "blas", "--threads", "1", "-f", "json")
    layers = strict_loads(done.stdout)
    assert done.returncode == 0
    assert layers
    assert all(layer["passed"] and layer["compared"] for layer in layers)
    assert "the float32 reference differs by" in done.stderr


def test_doctor_says_what_is_there(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REFSTACK_DATA_DIR", str(tmp_path))
    done = here(capfd, "doctor", "-f", "json")
    found = {each["what"]: each for each in strict_loads(done.stdout)}
    assert done.returncode == 0
    assert found["python"]["ok"]
    assert found["numpy"]["ok"]
    assert not found["data"]["ok"]
    assert found["data"]["get"] == "refstack data fetch cifar10"
    done = here(capfd, "doctor", "--require", "data")
    assert done.returncode == 3
    assert "missing: data" in done.stderr


def test_data_list_and_offline_fetch(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REFSTACK_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("REFSTACK_OFFLINE", "1")
    (row,) = strict_loads(here(capfd, "data", "list", "-f", "json").stdout)
    assert row == {"name": "cifar10", "path": None, "get": "refstack data fetch cifar10"}
    done = here(capfd, "data", "fetch", "cifar10")
    assert done.returncode == 2
    assert "REFSTACK_OFFLINE forbids the download" in done.stderr


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    """refstack kernels | head -1"""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "refstack", "kernels", "-b", "numpy", "-f", "json"], cwd=tmp_path, stdout=writer,
        stderr=subprocess.PIPE, text=True, env=worker.environment(1), timeout=60,
    )  # fmt: skip
    os.close(writer)
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 always looks in the current folder first")
def test_a_module_of_the_same_name_in_the_folder_is_not_imported(model: str, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    done = refstack_command("bench", "-m", model, "-t", "dense", "-b", "numpy", "--quick", "-f", "jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "ok"
