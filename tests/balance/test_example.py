"""The five lines of the package's docstring run as they stand."""

import doctest

from distill_mtl import balance


def test_the_example_in_the_docstring_runs():
    found = doctest.testmod(balance)
    assert found.attempted >= 10
    assert found.failed == 0
