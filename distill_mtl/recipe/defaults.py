"""Defaults that depend on the rest of the recipe: written out by `load_recipe` before validation.

Every other default stands in the schema. Sections that are not mappings are left for validation to report.
"""

import re
from typing import Any

from distill_mtl.recipe.known import Known
from distill_mtl.recipe.shorthand import LongForm

ACCEPTANCE = 1.0


def fill_defaults(form: LongForm, stem: str, known: Known) -> None:
    """Fill the run's name from the file's, the drop allowed per task, and no hints from a former self."""
    recipe = form.value
    if not isinstance(recipe, dict):
        return
    if recipe.get("name") is None:
        recipe["name"] = run_name(stem)
    recipe["acceptance"] = _by_task(recipe.get("acceptance"), recipe.get("tasks"), form, known)
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


def in_units(task: Any, known: Known) -> bool:
    """Whether the score of a task in long form is measured in the unit of its labels."""
    if not isinstance(task, dict):
        return False
    return task.get("metric") in known.unit_metrics.get(str(task.get("kind")), ())


def _of_unknown_unit(task: Any) -> bool:
    """Whether only the code of the user's own kind knows what its score is measured in, and it has not run yet."""
    return isinstance(task, dict) and ":" in str(task.get("kind"))


def _by_task(acceptance: Any, tasks: Any, form: LongForm, known: Known) -> Any:
    """One number stands for all tasks; 1 point where nothing is said, and a point is known to mean something."""
    tasks = tasks if isinstance(tasks, dict) else {}
    if acceptance is None or isinstance(acceptance, dict):
        default = {
            name: ACCEPTANCE
            for name, task in tasks.items()
            if not in_units(task, known) and not _of_unknown_unit(task)
        }
        return default | (acceptance or {})
    if isinstance(acceptance, bool) or not isinstance(acceptance, int | float):
        return acceptance
    form.origins.update({("acceptance", name): ("acceptance",) for name in tasks})
    return dict.fromkeys(tasks, acceptance)
