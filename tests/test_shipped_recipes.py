"""Every shipped recipe parses, and its check passes: data made, teachers measured, one batch through."""

import re
from pathlib import Path

import pytest

from distill_mtl.assembly.build import known_names
from distill_mtl.checks.command import check
from distill_mtl.recipe import dump_recipe, load_recipe

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
OWN_DATA = [ROOT / "recipes" / name for name in ("mnist.yaml", "camvid.yaml")]
"""Recipes about shards that a user writes first; their heads say how."""


@pytest.mark.parametrize("recipe", OWN_DATA, ids=lambda path: path.name)
def test_a_recipe_about_own_data_loads_and_says_how_to_write_it(recipe: Path) -> None:
    loaded = load_recipe(recipe, known=known_names())
    head = "".join(re.findall(r"^#(.*)", recipe.read_text(), re.M)).replace("\\", "")
    for source in loaded.data.values():
        for pattern in (source.shards, source.split.validation, source.split.test):
            shards = Path(str(pattern)).relative_to(Path.cwd())
            assert f"--to {shards.parent}" in head
    assert f"distill-mtl teacher train recipes/{recipe.name}" in head


@pytest.mark.parametrize(
    "recipe", [path for path in RECIPES if path not in OWN_DATA], ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_shipped_recipe_parses_and_checks(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    check(recipe)
    assert "ready" in capsys.readouterr().out
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_recipe(load_recipe(recipe)))
    assert load_recipe(resolved) == load_recipe(recipe)
