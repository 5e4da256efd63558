"""Weight formats: how a weight matrix is stored and how it multiplies. One format, one file."""

from refstack.formats.base import Array, Weight, activate
from refstack.formats.bsr import Bsr
from refstack.formats.csr import Csr
from refstack.formats.dense import Dense
from refstack.formats.half import Half
from refstack.formats.int8 import Int8, Quant
from refstack.formats.ternary import Ternary

FORMATS: dict[str, type[Weight]] = {format.format: format for format in (Dense, Csr, Bsr, Half, Ternary, Int8)}

__all__ = ["FORMATS", "Array", "Bsr", "Csr", "Dense", "Half", "Int8", "Quant", "Ternary", "Weight", "activate"]
