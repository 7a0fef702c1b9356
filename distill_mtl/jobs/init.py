"""`distill-mtl init`: the draft of a recipe on standard output, what to look at on standard error."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from distill_mtl.checks.recipe_draft import TeacherWithData, draft
from distill_mtl.recipe import load_recipe
from distill_mtl.recipe.yaml_writer import write_yaml

HEAD = """\
# Drafted by `distill-mtl init`. A comment beside each value says where it comes from.
# {look}Then: distill-mtl check RECIPE, and: accelerate launch distill.py RECIPE
"""


def init(
    teachers: Sequence[str],
    data: Sequence[Sequence[str]],
    *,
    student: str | None = None,
    trust: bool = False,
    overrides: Sequence[str] = (),
) -> None:
    """Write a recipe that loads; arguments as in `draft`.

    Raises:
        UserError: as `draft`, or an override makes no sense.
    """
    notes = Console(stderr=True, highlight=False)
    with notes.status("looking at teachers and data"):
        recipe, pairs = draft(teachers, data, student=student, trust=trust, overrides=overrides)
    assumed = [pair for pair in pairs if pair.teacher.card.assumed]
    look = "Look at the lines that say `assumed`. " if assumed else ""
    text = HEAD.format(look=look) + write_yaml(recipe)
    _refuse_what_does_not_load(text, overrides)
    sys.stdout.write(text)
    for pair in assumed:
        notes.print(_question(pair), soft_wrap=True, markup=False)


def _refuse_what_does_not_load(text: str, overrides: Sequence[str]) -> None:
    """Overrides are the only part that can be wrong; given again, they are named where they are."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        load_recipe(path, overrides)


def _question(pair: TeacherWithData) -> str:
    keys = ", ".join(pair.teacher.card.assumed)
    return (
        f"{pair.task}: {pair.teacher.card.place.name} does not say its {keys}. They are assumed; "
        "`distill-mtl check` tries the usual others."
    )
