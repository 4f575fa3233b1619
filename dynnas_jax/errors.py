"""What is told of an exception of another library."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Of its text; of an exception without one its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
