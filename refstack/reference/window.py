"""The window view that convolution and pooling share.

    windows[n, c, p, q, r, s] = xpad[n, c, p*st + r*dl, q*st + s*dl]

Next: conv.py
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from refstack.formats import Array
from refstack.ops import Window


def windows(x: Array, op: Window, fill: float = 0) -> Array:
    """Every window of a padded image, as a view.

    Args        x   (n, c, h, w), any dtype          fill   what padding holds
    Returns     (n, c, p, q, r, s), read-only
    """
    (r, s), (sh, sw), (dh, dw) = op.kernel, op.stride, op.dilation
    top, left, bottom, right = op.padding
    xpad = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    reach = (dh * (r - 1) + 1, dw * (s - 1) + 1)
    return sliding_window_view(xpad, reach, axis=(2, 3))[:, :, ::sh, ::sw, ::dh, ::dw]
