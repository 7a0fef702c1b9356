"""Defaults that depend on the rest of the recipe: written out by `load_recipe` before validation.

Every other default stands in the schema. Sections that are not mappings are left for validation to report.
"""

import re
from typing import Any

from distill_mtl.recipe.acceptance import fill_acceptance
from distill_mtl.recipe.known import Known
from distill_mtl.recipe.shorthand import LongForm


def fill_defaults(form: LongForm, stem: str, known: Known) -> None:
    """Fill the run's name from the file's, the margin of each task, and no hints from a former self."""
    recipe = form.value
    if not isinstance(recipe, dict):
        return
    if recipe.get("name") is None:
        recipe["name"] = run_name(stem)
    fill_acceptance(form, known)
    tasks = recipe.get("tasks")
    for task in tasks.values() if isinstance(tasks, dict) else ():
        if isinstance(task, dict) and taught_by_itself(task):
            task.setdefault("hints", [])


def taught_by_itself(task: dict[str, Any]) -> bool:
    """Whether a task in long form has the student as it was for a teacher."""
    teacher = task.get("teacher")
    return isinstance(teacher, dict) and teacher.get("student") is not None


def run_name(stem: str) -> str:
    """A name that a run folder may have, from the name of a recipe's file without its ending."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", stem)
    return name if re.match("[A-Za-z]", name) else f"run-{name}"
