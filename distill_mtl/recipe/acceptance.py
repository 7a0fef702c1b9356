"""The forms of `acceptance`, brought to the one that the schema knows: a margin for every task, and the rule.

    acceptance: 2                                       # one margin for all tasks
    acceptance: {breed: 2}                              # by task
    acceptance: point                                   # the rule
    acceptance: {margin: {breed: 2}, rule: point}       # both

A mapping with `margin` or `rule` is the last form, so a task of such a name has its margin under `margin`. Called by
`fill_defaults`, after `shorthand` has made a mapping of the number and of the word.
"""

from typing import Any

from distill_mtl.recipe.findings import Finding, KeyPath
from distill_mtl.recipe.known import Known
from distill_mtl.recipe.shorthand import LongForm

MARGIN = 1.0
"""Points that a task may lose where nothing is said."""
_HERE = "acceptance"
_KEYS = ("margin", "rule")


def fill_acceptance(form: LongForm, known: Known) -> None:
    """Write out a margin for every task whose score has a unit that 1 point is known to mean something in.

    Sections that are not mappings are left for validation to report.
    """
    recipe = form.value
    tasks = recipe.get("tasks") if isinstance(recipe.get("tasks"), dict) else {}
    said = {} if recipe.get(_HERE) is None else recipe[_HERE]
    if not isinstance(said, dict):
        return
    if any(key in said for key in _KEYS):
        _refuse_mixture(said, tasks, form)
        section = {key: said[key] for key in said if key in _KEYS}
    else:
        form.origins.update({(_HERE, "margin", name): (_HERE, name) for name in said})
        section = {"margin": said}
    section["margin"] = _by_task(section.get("margin"), tasks, form, known)
    recipe[_HERE] = section


def in_units(task: Any, known: Known) -> bool:
    """Whether the score of a task in long form is measured in the unit of its labels."""
    if not isinstance(task, dict):
        return False
    return task.get("metric") in known.unit_metrics.get(str(task.get("kind")), ())


def no_margin(task: str, metric: str) -> str:
    """What to tell who has a task judged whose score is in the unit of its labels, and did not say a margin."""
    return (
        f"{metric} is measured in the unit of its labels. Say how much of it may be lost: "
        f"`acceptance: {{{task}: ...}}`."
    )


def _refuse_mixture(said: dict[str, Any], tasks: dict[str, Any], form: LongForm) -> None:
    """Refuse keys of the section beside names of tasks, and a key that is both."""
    for key, value in said.items():
        if key not in _KEYS:
            text = (
                "beside `margin` or `rule`, margins by task stand under `margin`: "
                f"`acceptance: {{margin: {{{key}: ...}}}}`."
            )
            form.findings.append(Finding((_HERE, key), text))
        elif key in tasks and type(value) in (int, float) and (_HERE, key) not in form.origins:
            text = (
                f"`{key}` is a key of `acceptance` and a task too, so {value} could belong to either. For the task: "
                f"`acceptance: {{margin: {{{key}: {value}}}}}`; for all tasks: `acceptance: {value}`."
            )
            form.findings.append(Finding((_HERE, key), text))


def _by_task(margin: Any, tasks: dict[str, Any], form: LongForm, known: Known) -> Any:
    """One number stands for all tasks."""
    if margin is None or isinstance(margin, dict):
        default = {
            name: MARGIN
            for name, task in tasks.items()
            if not in_units(task, known) and not _of_unknown_unit(task)
        }
        return default | (margin or {})
    if isinstance(margin, bool) or not isinstance(margin, int | float):
        return margin
    here: KeyPath = (_HERE, "margin")
    form.origins.update({(*here, name): here for name in tasks})
    return dict.fromkeys(tasks, margin)


def _of_unknown_unit(task: Any) -> bool:
    """Whether only the code of the user's own kind knows what its score is measured in, and it has not run yet."""
    return isinstance(task, dict) and ":" in str(task.get("kind"))
