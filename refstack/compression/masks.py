"""Which weights stay, while a network is trained to do with fewer: scores, a level, a mask for every layer.

    magnitude   score[i] = |w[i]|
    lamp        score[i] = w[i]**2 / sum of w[j]**2 over the weights of the layer that are not smaller
    block       the score of a block is the sum of |w| in it; all of a block stays or goes
    ramp        level(t) = level * (1 - (1 - t)**3)         t from 0 to 1 over the steps in which weights go

The scores of equal weights rank the first lower. A lamp score can be compared across layers: each layer's largest
weight scores 1, so no layer is ever emptied. The training loop does the same on its device (train/pruning.py), and a
test holds it to this file.
Source      Han et al., NIPS 2015 (magnitude); Lee et al.: Layer-Adaptive Sparsity for the Magnitude-Based Pruning,
            ICLR 2021 (lamp); Zhu, Gupta: To Prune, or Not to Prune, 2017 (ramp)
Next: channel.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from refstack.compression.layers import count
from refstack.formats import Array

Scope = Literal["layer", "global", "lamp"]
Block = tuple[int, int]


def ramp(progress: float, level: float) -> float:
    """The formula above; `level` itself from progress 1 on."""
    return level * (1 - (1 - min(1.0, progress)) ** 3)


def masks(
    matrices: Mapping[str, Array], level: float, scope: Scope = "lamp", block: Block = (1, 1)
) -> dict[str, Array]:
    """Where each weight matrix keeps its entries.

    Args
        matrices    name -> float (rows, cols)
        level       share of the weights (of the blocks) that goes, rounded down: of every layer, or of all together
        scope       "layer": every layer loses the same share; "global": the smallest of all; "lamp": by that score
        block       (rows, cols) that stay or go together; a block at the edge may be smaller
    Returns         name -> bool (rows, cols)
    """
    scored = {name: score(block_sums(np.abs(matrix), block), scope) for name, matrix in matrices.items()}
    if scope == "layer":
        kept = {name: _all_but_smallest(each, level) for name, each in scored.items()}
    else:
        joined = _all_but_smallest(np.concatenate([each.ravel() for each in scored.values()]), level)
        parts = np.split(joined, np.cumsum([each.size for each in scored.values()])[:-1])
        kept = {name: part.reshape(scored[name].shape) for name, part in zip(scored, parts, strict=True)}
    return {name: spread(kept[name], block, matrix.shape) for name, matrix in matrices.items()}


def score(size: Array, scope: Scope) -> Array:
    """What is compared: float64, the shape of `size`, which holds |w| or a block's sum of them."""
    size = size.astype(np.float64)
    if scope != "lamp":
        return size
    flat = size.ravel() ** 2
    order = np.argsort(flat, kind="stable")
    not_smaller = np.cumsum(flat[order][::-1])[::-1]
    out = np.empty_like(flat)
    out[order] = flat[order] / np.maximum(not_smaller, np.finfo(np.float64).tiny)
    return out.reshape(size.shape)


def block_sums(size: Array, block: Block) -> Array:
    """(rows, cols) -> (ceil(rows/r), ceil(cols/c)): the sum over each block."""
    (rows, cols), (r, c) = size.shape, block
    padded = np.pad(size, ((0, -rows % r), (0, -cols % c)))
    return padded.reshape(padded.shape[0] // r, r, padded.shape[1] // c, c).sum((1, 3))


def spread(kept: Array, block: Block, shape: tuple[int, ...]) -> Array:
    """A mask of blocks as a mask of weights."""
    return kept.repeat(block[0], 0).repeat(block[1], 1)[: shape[0], : shape[1]]


def _all_but_smallest(scores: Array, level: float) -> Array:
    mask = np.ones(scores.shape, bool)
    mask.flat[np.argsort(scores, axis=None, kind="stable")[: count(level, scores.size)]] = False
    return mask
