"""The yardstick: time of work that only the processor's clock makes slower, beside every block of a row."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import pytest

from refstack import yardstick


def test_the_least_of_its_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: the last reading, or their mean, would take an interruption for a slow clock."""
    times = iter([0, 50, 60, 70, 80, 190, *range(200, 1400, 60)])
    monkeypatch.setattr(yardstick, "time", SimpleNamespace(perf_counter_ns=lambda: next(times)))
    assert yardstick.yardstick_ns() == 10


def test_the_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []

    def sha256(work: bytes) -> SimpleNamespace:
        done.append(len(work))
        return SimpleNamespace(digest=hashlib.sha256(work).digest)

    monkeypatch.setattr(yardstick, "hashlib", SimpleNamespace(sha256=sha256))
    assert yardstick.yardstick_ns() > 0
    assert done == [len(yardstick.WORK)] * yardstick.READINGS
