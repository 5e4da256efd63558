"""Hypothesis profiles, the option for CIFAR-10; no tuning file and one thread for libraries unless a test says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from threadpoolctl import threadpool_limits

# dev      what a developer waits for, other draws every time
# ci       the same draws every time: per row of the registry, of which a layer in a format has three to six
# nightly  explores: make nightly prints the seed, SEED=... repeats it; what it finds becomes an @example or a test
COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
EXPLORING = {"derandomize": False, "database": DirectoryBasedExampleDatabase(".hypothesis/examples"), **COMMON}
settings.register_profile("dev", max_examples=40, **EXPLORING)
settings.register_profile("ci", max_examples=60, derandomize=True, database=None, **COMMON)
settings.register_profile("nightly", max_examples=5000, **EXPLORING)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))


os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", "2")  # read once, when the runtime is loaded


def pytest_addoption(parser: pytest.Parser) -> None:
    """Given with "=": a folder that stands alone would move pytest's root, and with it this file, out of sight."""
    parser.addoption("--cifar10", metavar="DIR", help="folder with CIFAR-10 archives, for the tests that read images")
    words = (
        "images on which the NumPy engine must give a shipped network's recorded class (default 10; 1000 takes long)"
    )
    parser.addoption("--numpy-images", metavar="N", type=int, default=10, help=words)


def pytest_report_header(config: pytest.Config) -> str:
    folder = config.getoption("--cifar10") or "not given, its tests are skipped"
    profile, seed = settings.get_current_profile_name(), config.getoption("--hypothesis-seed", None)
    drawn = f"seed {seed}" if seed else "the same draws every time" if settings().derandomize else "a seed of its own"
    return f"cifar10: {folder}; hypothesis profile: {profile}, {drawn}"


@pytest.fixture(scope="session")
def cifar10(request: pytest.FixtureRequest) -> Path:
    """The folder with CIFAR-10 archives. A folder that is named but missing is an error, not a skip."""
    asked = request.config.getoption("--cifar10")
    if not asked:
        pytest.skip("CIFAR-10 is not at hand: give the folder of its archives, pytest --cifar10=DIR")
    folder = Path(asked).expanduser().absolute()
    if not folder.is_dir():
        pytest.fail(f"--cifar10={asked}: no such folder", pytrace=False)
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_tuning(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the user had tuned on this machine is neither read nor changed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REFSTACK_TUNING_FILE", str(tmp_path_factory.mktemp("tuning") / "tuning.json"))
        yield


@pytest.fixture(scope="session", autouse=True)
def one_library_thread() -> Iterator[None]:
    """BLAS on one thread: tests compare bits, and several test processes share the cores."""
    with threadpool_limits(1):
        yield
