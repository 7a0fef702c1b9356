from pathlib import Path

import colors
import deployed_toy
import pytest
import toy_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of coloured pictures and a teacher that was trained on them."""
    return colors.build_world(tmp_path_factory.mktemp("colors"))


@pytest.fixture(scope="module")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy world: `hue-*.tar` and `shape-*.tar`, and a teacher's folder for each."""
    folder = tmp_path_factory.mktemp("world")
    toy_world.build(folder)
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`hue.pt2`: a classifier of three classes that also returns a map, and says nothing about its pixels."""
    return deployed_toy.save(tmp_path_factory.mktemp("exported") / "hue.pt2")
