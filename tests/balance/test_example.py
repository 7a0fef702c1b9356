"""The five lines of the package's docstring run as they stand."""

import doctest
import subprocess
import sys

from distill_mtl import balance


def test_the_example_in_the_docstring_runs():
    found = doctest.testmod(balance)
    assert found.attempted >= 10
    assert found.failed == 0


def test_balance_imports_nothing_else_of_the_package():
    lines = "import sys, distill_mtl.balance as balance; balance.rule_names(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    ours = [name for name in done.stdout.split() if name.startswith("distill_mtl.")]
    assert "distill_mtl.balance.mgda" in ours
    assert all(name.startswith("distill_mtl.balance") for name in ours)
