"""Answers from rows that bench wrote: read them, how sure they are, what to ship, what changed, what is missing.

    load() -> rows -> intervals, best(), compare(), check(), merge()

Next: reading.py, cells.py, intervals.py, comparing.py, choosing.py, rules.py
"""

from refstack.results.cells import accelerator as accelerator
from refstack.results.cells import device as device
from refstack.results.cells import key as key
from refstack.results.cells import latest as latest
from refstack.results.cells import machine as machine
from refstack.results.choosing import best as best
from refstack.results.comparing import compare as compare
from refstack.results.intervals import Interval as Interval
from refstack.results.intervals import latency as latency
from refstack.results.intervals import ratio as ratio
from refstack.results.merging import merge as merge
from refstack.results.reading import load as load
from refstack.results.rules import check as check

__all__ = [
    "Interval", "accelerator", "best", "check", "compare", "device", "key", "latency", "latest", "load", "machine",
    "merge", "ratio",
]  # fmt: skip
