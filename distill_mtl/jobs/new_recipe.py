"""What helps to write a recipe: a draft of one (`distill-mtl init`), and the JSON Schema (`distill-mtl schema`)."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from distill_mtl.checks.proposals import one_pixel_of
from distill_mtl.checks.recipe_draft import TeacherWithData, draft
from distill_mtl.display import messages
from distill_mtl.recipe import Recipe, load_recipe
from distill_mtl.recipe.json_schema import recipe_json_schema_text
from distill_mtl.recipe.yaml_writer import write_yaml

HEAD = """\
# Drafted by `distill-mtl init`. A comment beside each value says where it comes from.
# {look}Then: distill-mtl check RECIPE, and: accelerate launch distill.py RECIPE
"""


def draft_recipe(
    *,
    teacher: Sequence[str],
    data: Sequence[Sequence[str]],
    student: str | None = None,
    trust: bool = False,
    overrides: Sequence[str] = (),
    console: Console | None = None,
) -> str:
    """Draft a recipe from teachers and their data.

    Write a complete recipe to standard output; a comment beside each value says where it comes from.

    Args:
        teacher (FILE, repeated): a trained network, as `teacher:` takes it, with several keys in YAML:
            '{module: "nets:resnet20", weights: w.safetensors}'; once for each task.
        data (SHARDS ..., repeated): its labelled data: a folder, or patterns; names with train, val or test say which
            set a shard belongs to.
        student (NAME): timm architecture; default the teachers', else one that is not larger than they together.
        trust: let teachers run code: .pt2 and .ts files and `module` are programs.
        overrides (--set KEY=VALUE, repeated): override any key, as often as you like:
            --set tasks.breed.temperature=2
        console: where to say what to look at; default standard error.

    Returns:
        The recipe's text, which loads as it stands.

    Raises:
        UserError: a teacher cannot be loaded, a data set has no label of the task, or an override is refused.

    Examples:
        Two teachers, each with the data of its task:
          distill-mtl init --teacher breed.onnx --data shards/breed \\
              --teacher part.pt2 --data shards/part --trust > recipe.yaml
    """
    notes = console or messages()
    with notes.status("looking at teachers and data"):
        recipe, pairs = draft(teacher, data, student=student, trust=trust, overrides=overrides)
    assumed = [pair for pair in pairs if pair.teacher.card.assumed]
    look = "Look at the lines that say `assumed`. " if assumed else ""
    text = HEAD.format(look=look) + write_yaml(recipe)
    loaded = _loaded(text, overrides)
    for said in (
        *map(_question, assumed),
        *map(_order_of_classes, pairs),
        one_pixel_of(loaded.student),
    ):
        if said:
            notes.print(said, soft_wrap=True, markup=False)
    return text


def _loaded(text: str, overrides: Sequence[str]) -> Recipe:
    """The drafted recipe. Overrides are the only part that can be wrong; given again, they are named where they are."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return load_recipe(path, overrides)


def _question(pair: TeacherWithData) -> str:
    keys = ", ".join(pair.teacher.card.assumed)
    return (
        f"{pair.task}: {pair.teacher.card.place.name} does not say its {keys}. They are assumed; "
        "`distill-mtl check` tries the usual others."
    )


def _order_of_classes(pair: TeacherWithData) -> str:
    if not pair.named_by_labels:
        return ""
    return (
        f"{pair.task}: {pair.teacher.card.place.name} does not name its classes. They are assumed to be the labels' in "
        "alphabetical order; `distill-mtl check` measures it."
    )


def recipe_schema() -> str:
    """Print the JSON Schema of a recipe, for editors.

    Editors with a YAML language server complete and check recipes with it: put
    `# yaml-language-server: $schema=recipe.schema.json` in the first line.

    Returns:
        The text of docs/recipe.schema.json.
    """
    return recipe_json_schema_text()
