"""Programs of one call each: quick to compile rather than to run."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def quick(quick_programs):
    with quick_programs():
        yield
