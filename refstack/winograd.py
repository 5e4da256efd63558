"""Winograd's F(m, 3): m x m outputs of a 3 x 3 convolution from (m+2) x (m+2) products.

    y = A' [ (G w G') * (B' d B) ] A            d a tile of (m+2) x (m+2) inputs, * element by element

Source      Lavin, Gray: Fast Algorithms for Convolutional Neural Networks, CVPR 2016
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refstack.formats import Array


@dataclass(frozen=True, eq=False)
class Winograd:
    """The matrices A' (at), B' (bt) and G (g), and the roundings that a term sees beside its sum over channels."""

    at: Array  # (m, m + 2)
    bt: Array  # (m + 2, m + 2)
    g: Array  # (m + 2, 3)
    roundings: int

    @property
    def m(self) -> int:
        """Outputs of a tile along one axis."""
        return len(self.at)

    def filters(self, w: Array) -> Array:
        """G w G':  (k, c, 3, 3) -> (k, c, m+2, m+2), in float64."""
        return np.asarray(self.g @ w.astype(np.float64) @ self.g.T)

    def absolute(self) -> Winograd:
        """The same with absolute values, for bounds."""
        return Winograd(np.abs(self.at), np.abs(self.bt), np.abs(self.g), self.roundings)

    def conv2d(self, x: Array, w: Array, padding: tuple[int, int, int, int], plane: tuple[int, int]) -> Array:
        """The convolution by its formula, in float64.

        Args        x   (n, c, h, w)       w   (k, c, 3, 3)      plane   (p, q)
        Returns     (n, k, p, q)
        """
        (top, left, _, _), (p, q), m, a = padding, plane, self.m, self.m + 2
        rows, columns = -(-p // m), -(-q // m)
        n, c, height, width = x.shape
        xpad = np.zeros((n, c, rows * m + 2, columns * m + 2))
        inside = xpad[:, :, top : top + height, left : left + width]
        inside[...] = x[:, :, : inside.shape[2], : inside.shape[3]]
        tiles = np.lib.stride_tricks.sliding_window_view(xpad, (a, a), axis=(2, 3))[:, :, ::m, ::m]
        points = self.bt @ tiles @ self.bt.T  # n c rows columns a a
        v = points.transpose(4, 5, 1, 0, 2, 3).reshape(a, a, c, -1)
        u = self.filters(w).transpose(2, 3, 0, 1)  # a a k c
        products = (u @ v).reshape(a, a, len(w), n, rows, columns)
        y = self.at @ products.transpose(3, 2, 4, 5, 0, 1) @ self.at.T  # n k rows columns m m
        return y.transpose(0, 1, 2, 4, 3, 5).reshape(n, len(w), rows * m, columns * m)[:, :, :p, :q]


F2 = Winograd(
    at=np.array([[1, 1, 1, 0], [0, 1, -1, -1]], float),
    bt=np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], float),
    g=np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
    roundings=14,
)
F4 = Winograd(
    at=np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], float),
    bt=np.array(
        [
            [4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1],
        ],
        float,
    ),
    g=np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24,
    roundings=22,
)  # fmt: skip
ALGORITHMS = {"winograd2": F2, "winograd4": F4}
"""By the word that a kernel's row declares."""
