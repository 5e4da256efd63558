"""Answers from rows that bench wrote: read them, how sure they are, what to ship, what changed, what is missing.

    load() -> rows -> intervals, best(), compare(), check(), merge()

Next: reading.py, cells.py, intervals.py
"""

from refstack.results.cells import device as device
from refstack.results.cells import key as key
from refstack.results.cells import latest as latest
from refstack.results.cells import machine as machine
from refstack.results.intervals import Interval as Interval
from refstack.results.intervals import latency as latency
from refstack.results.intervals import ratio as ratio
from refstack.results.reading import load as load

__all__ = ["Interval", "device", "key", "latency", "latest", "load", "machine", "ratio"]
