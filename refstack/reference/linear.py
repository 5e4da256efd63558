"""The fully connected layer.

Next: pool.py
"""

from __future__ import annotations

import numpy as np

from refstack.errors import ShapeError
from refstack.formats import Array, Weight
from refstack.ops import Linear


def linear(x: Array, weight: Weight, bias: Array | None, op: Linear) -> Array:
    """y[n,k] = activation(bias[k] + sum over c of x[n,c] * w[k,c])

    Args        x  (n, c)      weight  Weight (k, c), any format      bias  float32 (k,) or None
    Returns     (n, k)
    Raises      ShapeError     the weight is not what x asks for
    Cost        n*k*c multiply-adds
    """
    if weight.shape != op.weight_shape(x.shape):
        raise ShapeError(f"linear: weight is {weight.shape}, input {x.shape} wants {op.weight_shape(x.shape)}")
    return np.ascontiguousarray(weight.affine(x.T, bias, op.activation).T)
