"""The tree of errors is the one that its docstring draws, and exit codes follow from it."""

from __future__ import annotations

import re

import pytest

from refstack import errors
from refstack.errors import RefstackError

DRAWN = dict(re.findall(r"^ +(\w+) +(\d)  ", errors.__doc__ or "", flags=re.MULTILINE))
CLASSES = {name: value for name, value in vars(errors).items() if isinstance(value, type)}


def test_docstring_lists_every_error() -> None:
    assert set(DRAWN) | {"RefstackError"} == set(CLASSES)
    assert len(DRAWN) == 10


@pytest.mark.parametrize("name", DRAWN)
def test_exit_code(name: str) -> None:
    assert issubclass(CLASSES[name], RefstackError)
    assert CLASSES[name].exit_code == int(DRAWN[name])
    assert CLASSES[name].__doc__


@pytest.mark.parametrize("name", CLASSES)
def test_message_is_kept(name: str) -> None:
    assert str(CLASSES[name]("what, where, got, wanted, next")) == "what, where, got, wanted, next"
