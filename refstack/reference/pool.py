"""Pooling: the same windows as convolution, reduced instead of multiplied.

Next: norm.py
"""

from __future__ import annotations

import numpy as np

from refstack.formats import Array
from refstack.ops import AvgPool2d, GlobalAvgPool, MaxPool2d
from refstack.reference.window import windows


def maxpool(x: Array, op: MaxPool2d) -> Array:
    """y[n,c,p,q] = max over r,s of xpad[n, c, p*st + r*dl, q*st + s*dl];  padding is the least value, NaN wins.

    Args        x  (n, c, h, w) float or int8          Returns     (n, c, p, q), same dtype
    Numerics    bitwise
    """
    op.shape(x.shape)
    least = np.iinfo(x.dtype).min if np.issubdtype(x.dtype, np.integer) else -np.inf
    return windows(x, op, least).max(axis=(4, 5))


def avgpool(x: Array, op: AvgPool2d) -> Array:
    """y[n,c,p,q] = (sum over r,s of xpad[...]) / count,  count = r*s, or the pixels that are not padding.

    Args        x  (n, c, h, w) float                  Returns     (n, c, p, q), same dtype
    Numerics    |error| <= gamma(count + 1) * mean|x|
    """
    op.shape(x.shape)
    total = windows(x, op).sum(axis=(4, 5))
    count = windows(np.full_like(x[:1, :1], 1), op, fill=int(op.count_include_pad)).sum(axis=(4, 5))
    return total / count


def globalavgpool(x: Array, op: GlobalAvgPool) -> Array:
    """y[n,c] = mean over h,w of x[n,c,h,w].

    Args        x  (n, c, h, w) float                  Returns     (n, c, 1, 1), same dtype
    Numerics    |error| <= gamma(h*w + 1) * mean|x|
    """
    op.shape(x.shape)
    return x.mean(axis=(2, 3), keepdims=True)
