"""Convolution: unfold, multiply, fold. One definition for every weight format, depthwise included.

Next: linear.py, then graph.py and run.py
"""

from __future__ import annotations

import numpy as np

from refstack.errors import ShapeError
from refstack.formats import Array, Weight
from refstack.ops import Conv2d, Window
from refstack.reference.window import windows


def unfold(x: Array, op: Window, fill: float = 0) -> Array:
    """columns[c*r*s, n*p*q]: every window as a column (im2col).

    Args        x   (n, c, h, w)
    Returns     (c*r*s, n*p*q)
    """
    view = windows(x, op, fill)  # n c p q r s
    n, c, p, q, r, s = view.shape
    return view.transpose(1, 4, 5, 0, 2, 3).reshape(c * r * s, n * p * q)


def conv2d(x: Array, weight: Weight, bias: Array | None, op: Conv2d) -> Array:
    """Slide k filters over n images and add up the products.

        y[n,k,p,q] = activation(bias[k] + sum over c,r,s of  xpad[n, c, p*st + r*dl, q*st + s*dl] * w[k,c,r,s])

    With groups, filter k sees only the c/g channels of its group; g = c is depthwise.

    Args
        x       (n, c, h, w)                  float32, float64, or int8 for an int8 weight
        weight  Weight (k, c/g * r * s)       any format; row k is filter k, flattened c, r, s
        bias    float32 (k,) or None
    Returns     (n, k, p, q)                  p = (h + pd_top + pd_bottom - dl*(r-1) - 1) // st + 1
    Raises      ShapeError                    the weight is not what x and op ask for
    Cost        n*k*p*q * (c/g)*r*s multiply-adds
    Numerics    exact on integers below 2**24; otherwise docs/numerics
    """
    n, k, p, q = op.shape(x.shape)
    if weight.shape != op.weight_shape(x.shape):
        raise ShapeError(f"conv2d: weight is {weight.shape}, input {x.shape} wants {op.weight_shape(x.shape)}")
    columns = unfold(x, op, weight.zero).reshape(op.groups, -1, n * p * q)
    k_group = k // op.groups
    y = [
        weight.rows(g * k_group, (g + 1) * k_group).affine(
            columns[g], None if bias is None else bias[g * k_group : (g + 1) * k_group], op.activation
        )
        for g in range(op.groups)
    ]
    return np.ascontiguousarray(np.concatenate(y).reshape(k, n, p, q).swapaxes(0, 1))
