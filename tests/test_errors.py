"""What is told of an exception."""

import pytest

from dynnas_jax.errors import first_line


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("\n first, \nsecond"), "first, "),
        (KeyError("name"), "'name'"),
        (MemoryError(), "MemoryError"),
        (MemoryError(" \n"), "MemoryError"),
        ("a text\nof two lines", "a text"),
    ],
)
def test_one_line_is_told(error, told):
    assert first_line(error) == told
