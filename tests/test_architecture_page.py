"""Every file, folder and name on docs/architecture.md exists, and it lists all folders, from top to bottom."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
from test_package import FOLDERS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "distill_mtl"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CODE = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL))
NAMES = sorted(
    {code for code in CODE if re.fullmatch(r"[a-z_]+(\.\w+)+", code) and code.split(".")[0] in FOLDERS}
)
PATHS = sorted({code for code in CODE if re.fullmatch(r"[\w./]+(/|\.py)", code)})


def test_the_page_names_files_and_names() -> None:
    assert len(NAMES) > 15
    assert len(PATHS) > 25


@pytest.mark.parametrize("path", PATHS)
def test_a_path_on_the_page_exists(path: str) -> None:
    # NAME.py stands for a file to be added: its folder exists.
    path = path.replace("NAME.py", "")
    assert (PACKAGE / path).exists() or (ROOT / path).exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_name_on_the_page_exists(name: str) -> None:
    assert found(f"distill_mtl.{name}")


def test_the_table_lists_the_folders_from_top_to_bottom() -> None:
    listed = re.findall(r"^\| `(\w+)/` \|", PAGE, re.M)
    assert sorted(listed) == sorted(
        path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()
    )
    levels = [FOLDERS[folder] for folder in listed]
    assert levels == sorted(levels, reverse=True)


def found(dotted: str) -> Any:
    """The module, class or method of that name."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            value = getattr(value, part)
        return value
    raise AssertionError(f"no module {dotted}")
