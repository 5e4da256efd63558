"""Batch normalisation and softmax.

Next: pointwise.py
"""

from __future__ import annotations

import numpy as np

from refstack.formats import Array, Weight
from refstack.ops import BatchNorm, Softmax


def batchnorm(x: Array, weight: Weight, bias: Array | None, mean: Array, var: Array, op: BatchNorm) -> Array:
    """y[n,c] = gamma[c] * (x[n,c] - mean[c]) / sqrt(var[c] + eps) + beta[c],  gamma = weight, beta = bias.

    Args        x  (n, c, h, w) float      weight  Weight (c, 1)      bias, mean, var  float32 (c,)
    Returns     (n, c, h, w), same dtype
    Numerics    gamma(8) * (|a x| + |a mean| + |beta|),  a = gamma / sqrt(var + eps)
    Source      Ioffe, Szegedy: Batch Normalization, ICML 2015
    """
    op.shape(x.shape)
    column = (-1, 1, 1)
    dtype = x.dtype.type
    a = weight.decode()[:, 0].astype(dtype) / np.sqrt(var.astype(dtype) + dtype(op.eps))
    beta = np.zeros_like(a) if bias is None else bias.astype(dtype)
    return (x - mean.astype(dtype).reshape(column)) * a.reshape(column) + beta.reshape(column)


def softmax(x: Array, op: Softmax) -> Array:
    """y[n,i] = exp(x[n,i] - max x[n]) / sum over j of exp(x[n,j] - max x[n]).

    Args        x  (n, c) float            Returns     (n, c), rows sum to 1; a row with NaN or +inf is NaN
    """
    op.shape(x.shape)
    with np.errstate(invalid="ignore"):  # inf - inf is the documented NaN
        e = np.exp(x - x.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)
