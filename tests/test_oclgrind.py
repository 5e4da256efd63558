"""All OpenCL kernels under oclgrind on tiny problems, and the proof that it sees what it should; `make oclgrind`"""

from __future__ import annotations

from importlib.util import find_spec

import oclgrind
import pytest

pytestmark = pytest.mark.skipif(find_spec("pyopencl") is None, reason="pyopencl[oclgrind] is not installed")


@pytest.mark.parametrize("name", oclgrind.PLANTED)
def test_a_planted_fault_is_seen(name: str) -> None:
    """Or a clean run would prove nothing."""
    assert oclgrind.seen(name) == ""


def test_the_kernels_are_clean() -> None:
    """The log is empty, every row had problems, and gave the right numbers."""
    assert oclgrind.clean("*") == ""
