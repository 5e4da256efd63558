"""Weight formats: how a weight matrix is stored and how it multiplies. One format, one file."""

from refstack.formats.base import Array, Weight, activate
from refstack.formats.bsr import Bsr
from refstack.formats.csr import Csr
from refstack.formats.dense import Dense
from refstack.formats.half import Half
from refstack.formats.int8 import Int8, Quant
from refstack.formats.ternary import Ternary
from refstack.formats.ternary8 import Ternary8

ALL: tuple[type[Weight], ...] = (Dense, Csr, Bsr, Half, Ternary, Int8, Ternary8)
FORMATS: dict[str, type[Weight]] = {format.format: format for format in ALL}
INTEGER = tuple(name for name, format in FORMATS.items() if issubclass(format, Int8))
"""Formats whose layers read int8."""

__all__ = [
    "FORMATS", "INTEGER", "Array", "Bsr", "Csr", "Dense", "Half", "Int8", "Quant", "Ternary", "Ternary8", "Weight",
    "activate",
]  # fmt: skip
