"""Defaults that depend on the rest of the recipe: written out by `load_recipe` before validation.

Every other default stands in the schema. Sections that are not mappings are left for validation to report.
"""

import re
from typing import Any

from distill_mtl.recipe.shorthand import LongForm

ACCEPTANCE = 1.0


def fill_defaults(form: LongForm, stem: str) -> None:
    """Fill the run's name from the file's, the drop allowed per task, and no hints from a former self."""
    recipe = form.value
    if not isinstance(recipe, dict):
        return
    if recipe.get("name") is None:
        recipe["name"] = run_name(stem)
    recipe["acceptance"] = _by_task(recipe.get("acceptance", ACCEPTANCE), recipe.get("tasks"), form)
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


def _by_task(acceptance: Any, tasks: Any, form: LongForm) -> Any:
    names = list(tasks) if isinstance(tasks, dict) else []
    if isinstance(acceptance, dict):
        return dict.fromkeys(names, ACCEPTANCE) | acceptance
    if isinstance(acceptance, bool) or not isinstance(acceptance, int | float):
        return acceptance
    form.origins.update({("acceptance", name): ("acceptance",) for name in names})
    return dict.fromkeys(names, acceptance)
