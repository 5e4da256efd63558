"""The engine to read: every layer as its formula in NumPy. Imports nothing that is fast."""

from refstack.reference.engine import layer, run, trace

__all__ = ["layer", "run", "trace"]
