"""Every shipped recipe parses, and its check passes: data made, teachers measured, one batch through."""

import re
from pathlib import Path

import pytest
from rich.console import Console

from distill_mtl import distill
from distill_mtl.demos.scenes import scene_rows
from distill_mtl.jobs.check import check
from distill_mtl.recipe import dump_recipe, load_recipe

pytestmark = pytest.mark.usefixtures("short_runs")
ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
OWN_DATA = [ROOT / "recipes" / name for name in ("mnist.yaml", "camvid.yaml")]
"""Recipes about shards that a user writes first; their heads say how."""
SECOND = {
    ROOT / "recipes" / "add_a_task.yaml": "trunk; heads left, right; anew segment",
    ROOT / "recipes" / "progressive.yaml": "balance: uniform (auto: one task trains)",
}
"""Recipes about what the run of another one leaves, and what their check says."""
FIRST = ROOT / "recipes" / "left_and_right.yaml"


@pytest.mark.parametrize("recipe", OWN_DATA, ids=lambda path: path.name)
def test_a_recipe_about_own_data_loads_and_says_how_to_write_it(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    head = "".join(re.findall(r"^#(.*)", recipe.read_text(), re.M)).replace("\\", "")
    for source in loaded.data.values():
        for pattern in (source.shards, source.split.validation, source.split.test):
            shards = Path(str(pattern)).relative_to(Path.cwd())
            assert f"--to {shards.parent}" in head
    assert f"distill-mtl teacher train recipes/{recipe.name}" in head


@pytest.fixture(scope="module")
def few_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of its own for sets of which most rows are left out."""
    return tmp_path_factory.mktemp("few")


@pytest.mark.parametrize(
    "recipe",
    [path for path in RECIPES if path not in (*OWN_DATA, *SECOND)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_shipped_recipe_parses_and_checks(
    recipe: Path,
    few_scenes: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(ROOT)
    if "scenes:" in recipe.read_text():
        # Rendering all rows takes minutes.
        monkeypatch.setattr(scene_rows, "ROWS", {"train": 64, "validation": 60, "test": 20})
        monkeypatch.setenv("DISTILL_MTL_CACHE", str(few_scenes))
    check(recipe)
    assert "ready" in capsys.readouterr().out
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_recipe(load_recipe(recipe)))
    assert load_recipe(resolved) == load_recipe(recipe)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first recipe leaves after two steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        first = load_recipe(FIRST, ["training.steps=2", "training.batch_size=16"])
        out = tmp_path_factory.mktemp("first") / "runs" / str(first.name)
        distill(first, out=out, console=Console(quiet=True))
    return out


@pytest.mark.parametrize("second", SECOND, ids=lambda path: path.name)
def test_a_task_can_be_added_to_what_the_first_recipe_leaves(
    first_run: Path,
    second: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(ROOT)
    assert (
        f"distill.py recipes/{FIRST.name}\n#   accelerate launch distill.py recipes/{second.name}"
        in second.read_text()
    )
    old = f"runs/{first_run.name}"
    recipe = tmp_path / second.name
    # After two steps the old student knows nothing, which the check would say.
    taught = second.read_text().replace(f"teacher: {old}", f"teacher: {{path: {first_run}, expect: 0}}")
    recipe.write_text(taught.replace(f"init: {old}", f"init: {first_run}"))
    check(recipe)
    shown = capsys.readouterr().out
    assert SECOND[second] in shown
    assert "ready" in shown
