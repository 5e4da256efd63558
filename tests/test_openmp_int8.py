"""int8 kernels where they take a short cut: sums modulo 2^32, and products that are rounded in float32 first."""

import calls
import numpy as np
import pytest

from refstack import ops
from refstack.backends import packing
from refstack.formats import Int8
from refstack.formats.int8 import Quant
from refstack.graph import Node

ROWS = {row.variant: row for row in calls.ROWS if row.name.startswith("conv2d.int8.openmp.")}
pytestmark = pytest.mark.skipif(not ROWS, reason="no C compiler")


def conv(values: np.ndarray, size: int, groups: int, scale: float, zero: int, output: Quant | None) -> Node:
    """A convolution of `size` with padding that keeps the map as it is; its grid is that of whole numbers."""
    op = ops.Conv2d((size, size), (1, 1), (size // 2,) * 4, (1, 1), len(values), groups)
    weight = Int8(values.reshape(len(values), -1), np.full(len(values), scale, np.float32), Quant(1.0, zero), output)
    weight.check()
    return Node("conv", op, ("x",), weight, np.zeros(len(values), np.float32))


def peer(node: Node, x: np.ndarray) -> np.ndarray:
    """What NumPy's row says."""
    return calls.run(next(row for row in calls.ROWS if row.name == "conv2d.int8.numpy.reference"), node, x)


def test_winograd_is_exact_for_the_largest_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """160 channels of the largest weights and inputs: sums of 46.6 million, which take two parts."""
    node = conv(np.full((33, 160 * 9), 127, np.int8), 3, 1, 1.0, -128, None)
    x = np.random.default_rng(0).integers(100, 128, (1, 160, 16, 16)).astype(np.int8)
    x[:, :, 4:10, 4:10] = 127
    wanted = peer(node, x)
    assert wanted.max() == 160 * 9 * 127 * 255 > packing.REACH
    np.testing.assert_array_equal(calls.run(ROWS["winograd"], node, x), wanted)
    monkeypatch.setattr(packing, "REACH", 2**40)  # in one part they must be lost
    assert (calls.run(ROWS["winograd"], node, x) != wanted).any()


@pytest.mark.parametrize("ratio", [0.5, 0.25, 2.0**-9, 0.5 + 2.0**-24, 1.0, 3.7, 1e-3, 0.0123456789, 2.0**-40, 2.0**29])
@pytest.mark.parametrize("variant", ["blocked", "depthwise", "winograd", "stem", "map"])
def test_rounding_near_a_tie(variant: str, ratio: float) -> None:
    """Every second sum lies on a tie, or next to one, or all are far beyond the grid."""
    if variant not in ROWS:
        pytest.skip(f"{variant}: no row without AVX-512")
    c, size, groups = {"depthwise": (40, 3, 40), "stem": (3, 3, 1), "blocked": (24, 1, 1)}.get(variant, (48, 3, 1))
    rng = np.random.default_rng(1)
    values = rng.integers(-3, 4, (40 if groups > 1 else 56, c // groups * size * size)).astype(np.int8)
    node = conv(values, size, groups, ratio, 3, Quant(1.0, -7))
    x = rng.integers(-128, 128, (1, c, *((8, 8) if variant == "map" else (17, 17)))).astype(np.int8)
    np.testing.assert_array_equal(calls.run(ROWS[variant], node, x), peer(node, x))
