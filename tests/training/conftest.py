from collections.abc import Iterator
from typing import Any, TextIO

import pytest
from matplotlib.figure import Figure


@pytest.fixture(scope="module", autouse=True)
def _blank_charts() -> Iterator[None]:
    """Runs end with their report, whose charts tests/report looks at; drawing them takes longer than a toy run."""

    def blank(figure: Figure, to: TextIO, **options: Any) -> None:
        to.write('<svg xmlns="http://www.w3.org/2000/svg"/>')

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", blank)
        yield
