"""What every weight format offers. A layer never knows the format, a format never knows the layer.

A weight is always a matrix (rows, cols): row k is filter k flattened c, r, s; for a linear layer, output feature k.
They meet at `affine(columns, bias, activation)`, which every layer calls with its input laid out as columns.
Next: formats/dense.py, then csr.py, bsr.py, half.py, ternary.py, int8.py
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from refstack.errors import FormatError
from refstack.ops import Activation

Array = NDArray[Any]


def activate(y: Array, activation: Activation | None) -> Array:
    """None: y;  relu: max(y, 0);  relu6: min(max(y, 0), 6). NaN stays NaN (np.maximum's rule)."""
    if activation is None:
        return y
    y = np.maximum(y, y.dtype.type(0))
    return np.minimum(y, y.dtype.type(6)) if activation == "relu6" else y


@dataclasses.dataclass(frozen=True, eq=False)
class Weight(ABC):
    """One stored weight matrix W of `shape` (rows, cols). Its array fields are what is written to disk.

    Subclasses are frozen dataclasses whose ndarray fields are the encoding; everything else is derived from them.
    """

    format: ClassVar[str]
    roundings: ClassVar[int] = 0
    """Roundings a term sees beyond its product and its additions (enters the error bound, docs/numerics)."""
    sparse: ClassVar[bool] = False
    """Whether zeros are left out, so that density counts."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(rows, cols) of the matrix that is stood for."""

    @classmethod
    @abstractmethod
    def encode(cls, matrix: Array) -> Weight:
        """The encoding of a float32 (rows, cols) matrix. Lossless formats give it back bit for bit."""

    @abstractmethod
    def decode(self) -> Array:
        """The dense float32 (rows, cols) matrix that this encoding stands for."""

    @abstractmethod
    def matmul(self, columns: Array) -> Array:
        """W @ columns: (cols, m) -> (rows, m), in the dtype of `columns` (float32, or float64 for the oracle)."""

    @abstractmethod
    def rows(self, start: int, stop: int) -> Weight:
        """The weight of rows start..stop (the filters of one group)."""

    @abstractmethod
    def check(self) -> None:
        """FormatError naming field and position unless every invariant of the encoding holds."""

    def affine(self, columns: Array, bias: Array | None, activation: Activation | None = None) -> Array:
        """activation(W @ columns + bias):  columns (cols, m), bias (rows,) or None -> (rows, m)."""
        y = self.matmul(columns)
        if bias is not None:
            y = y + bias.astype(y.dtype)[:, None]
        return activate(y, activation)

    @property
    def zero(self) -> float:
        """The number that stands for 0 in this weight's input, so what padding is filled with."""
        return 0

    @property
    def nnz(self) -> int:
        """Number of entries that are not zero."""
        return int(np.count_nonzero(self.decode()))

    @property
    def density(self) -> float:
        """nnz / (rows * cols)."""
        return self.nnz / max(1, self.shape[0] * self.shape[1])

    def arrays(self) -> dict[str, Array]:
        """The arrays of the encoding by field name."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}

    @property
    def nbytes(self) -> int:
        """Bytes of the encoding: what storing it takes, index and scale arrays included."""
        return sum(array.nbytes for array in self.arrays().values())


def as_matrix(matrix: Array, format: str) -> Array:
    """A finite float32 (rows, cols) copy in C order, or FormatError."""
    out = np.array(matrix, dtype=np.float32, order="C")
    if out.ndim != 2:
        raise FormatError(f"{format}: weight has shape {out.shape}, wanted a matrix (rows, cols)")
    require_finite(out, f"{format} weight")
    return out


def require_finite(array: Array, what: str) -> None:
    """FormatError naming the first non-finite entry and their number."""
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise FormatError(f"{what}: {int(bad.sum())} values are not finite, the first is {array[first]} at {first}")


def require_dtype(array: Array, dtype: type[np.generic], ndim: int, what: str) -> None:
    """FormatError unless `array` has this dtype and number of axes."""
    if array.dtype != np.dtype(dtype) or array.ndim != ndim:
        wanted = f"{np.dtype(dtype)} with {ndim} axes"
        raise FormatError(f"{what}: got {array.dtype} with {array.ndim} axes, wanted {wanted}")
