"""Every shipped recipe parses, and its check passes: data made, teachers measured, one batch through."""

from pathlib import Path

import pytest

from distill_mtl.checks.command import check
from distill_mtl.recipe import dump_recipe, load_recipe

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_shipped_recipe_parses_and_checks(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(ROOT)
    check(recipe)
    assert "ready" in capsys.readouterr().out
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_recipe(load_recipe(recipe)))
    assert load_recipe(resolved) == load_recipe(recipe)
