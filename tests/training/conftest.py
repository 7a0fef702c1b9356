import pytest


@pytest.fixture(scope="module", autouse=True)
def _short_runs(short_runs: None) -> None:
    """Of every test in this folder; tests/evaluation and tests/report look at what is left out."""
