from pathlib import Path

import colors
import pytest


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of coloured pictures and a teacher that was trained on them."""
    return colors.build_world(tmp_path_factory.mktemp("colors"))
