"""A folder of its own as working directory, and recipes written into it as text."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from recipe_texts import TEN_LINES, Load, Refuse

from distill_mtl.errors import RecipeError
from distill_mtl.recipe import Recipe, load_recipe
from distill_mtl.recipe.known_names import KnownNames

TERMS = {"supervised": 1.0, "soft_targets": 1.0, "hint": 0.1}
"""Loss terms and their default weights."""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """load(text, *overrides) -> Recipe, with `tmp_path` as the working directory."""
    monkeypatch.chdir(tmp_path)

    def from_text(text: str, *overrides: str, choices: dict[str, Sequence[str]] | None = None) -> Recipe:
        (tmp_path / "pets.yaml").write_text(text, encoding="utf-8")
        return load_recipe("pets.yaml", overrides, known=KnownNames(choices=choices or {}, terms=TERMS))

    return from_text


@pytest.fixture
def refuse(load: Load) -> Refuse:
    """refuse(text, *overrides) -> the findings, one paragraph each, without `Recipe error in`."""

    def paragraphs(text: str, *overrides: str, **options: object) -> list[str]:
        with pytest.raises(RecipeError) as caught:
            load(text, *overrides, **options)
        return [paragraph.removeprefix("Recipe error in ") for paragraph in str(caught.value).split("\n\n")]

    return paragraphs


@pytest.fixture
def ten_lines() -> str:
    """The whole recipe of the guide; none of its folders exist."""
    return TEN_LINES
