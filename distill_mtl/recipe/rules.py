"""Rules between sections of a recipe, which no single section can check for itself.

`load_recipe` runs them on the long form whether or not the sections are valid, so that a user sees all
mistakes at once: a rule looks at what it can read and leaves the rest to validation.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from distill_mtl.errors import nearest
from distill_mtl.recipe.findings import Finding, KeyPath, either, show
from distill_mtl.recipe.schema import TrainingSection

Choices = Mapping[str, Collection[str]]


def check_rules(recipe: Any, choices: Choices) -> list[Finding]:
    """Everything that contradicts itself, under paths of the long form.

    Args:
        recipe: the long form, not necessarily valid.
        choices: names that other parts of the program register, by dotted path with `*` for any name:
            {"tasks.*.kind": ["classification", "segmentation"]}. What follows a colon is not looked at.
    """
    if not isinstance(recipe, dict):
        return []
    found = [
        finding
        for rule in (_labels, _tasks, _teachers, _training, _stream, _limits, _acceptance, _init)
        for finding in rule(recipe)
    ]
    return found + [
        finding for pattern, names in choices.items() for finding in _choice(recipe, pattern, names)
    ]


def _labels(recipe: dict[str, Any]) -> Iterator[Finding]:
    for source, section in _entries(recipe, "data"):
        for task in _mapping(section.get("labels")):
            if task not in _mapping(recipe.get("tasks")):
                yield Finding(("data", source, "labels", task), _no_task(task, recipe))


def _tasks(recipe: dict[str, Any]) -> Iterator[Finding]:
    labelled = {task for _, source in _entries(recipe, "data") for task in _mapping(source.get("labels"))}
    # A source that is no mapping is reported as that; it may have been meant for the task of its name.
    labelled |= {
        name for name, source in _mapping(recipe.get("data")).items() if not isinstance(source, dict)
    }
    labels_only = _mapping(recipe.get("training")).get("teachers_on") == "none"
    for name, task in _entries(recipe, "tasks"):
        path = ("tasks", name)
        taught = task.get("teacher") is not None
        if name not in labelled and not taught:
            yield Finding(
                path,
                "found neither a teacher nor a source with its labels. Add `teacher` or `data` to the task.",
            )
        elif name not in labelled and labels_only:
            text = "nothing trains the task: no source has its labels, and `training.teachers_on` is none."
            yield Finding(path, f"{text} Add `data` to the task, or let teachers see the rows.")
        if task.get("classes") is None and not taught:
            text = "found no `classes`, and no teacher to take them from. Add their number or their names."
            yield Finding((*path, "classes"), text)


def _teachers(recipe: dict[str, Any]) -> Iterator[Finding]:
    for name, task in _entries(recipe, "tasks"):
        teacher, path = task.get("teacher"), ("tasks", name, "teacher")
        if not isinstance(teacher, dict):
            continue
        origins = [key for key in ("path", "timm", "module") if teacher.get(key) is not None]
        if not origins:
            yield Finding(path, "found no network. Add `path` (a folder or a file), `timm` or `module`.")
        elif len(origins) > 1:
            text = f"found {' and '.join(f'`{key}`' for key in origins)}, a teacher is one network. Keep one of them."
            yield Finding((*path, origins[1]), text)
        elif origins == ["module"] and teacher.get("weights") is None:
            text = "found `module` without `weights`: code alone is a random network. Add its state dict."
            yield Finding((*path, "module"), text)
        elif origins != ["module"]:
            for key in ("weights", "args"):
                if teacher.get(key):
                    text = f"`{key}` belongs to `module`; `{origins[0]}` brings its own. Remove it."
                    yield Finding((*path, key), text)


def _training(recipe: dict[str, Any]) -> Iterator[Finding]:
    training = _mapping(recipe.get("training"))
    if training.get("steps") is not None and training.get("epochs") is not None:
        text = f"found {show(training['epochs'])} beside `steps: {show(training['steps'])}`."
        yield Finding(("training", "epochs"), f"{text} Remove one of the two, or set it to null.")
    rows, parts = (
        training.get(key, TrainingSection.model_fields[key].default) for key in ("batch_size", "accumulate")
    )
    if isinstance(rows, int) and isinstance(parts, int) and parts > 0 and rows % parts:
        text = f"a batch of {rows} rows cannot be split into {parts} equal micro-batches."
        key = "accumulate" if "accumulate" in training else "batch_size"
        yield Finding(("training", key), f"{text} Make `batch_size` a multiple of `accumulate`.")


def _stream(recipe: dict[str, Any]) -> Iterator[Finding]:
    stream = _mapping(_mapping(recipe.get("training")).get("stream"))
    phase = stream.get("phase")
    if stream.get("mode") != "alternate":
        if isinstance(phase, int) and phase > 1:
            text = f"found {show(phase)}, but batches that mix all data sets have no phases."
            path = ("training", "stream", "phase")
            yield Finding(path, f"{text} Add `mode: alternate`, or remove `phase`.")
        return
    for source, section in _entries(recipe, "data"):
        if section.get("weight") is not None:
            text = (
                f"found {show(section['weight'])} beside `training.stream: alternate`, where every data set has one "
                "phase in each turn. Remove `weight`, or mix the data sets with `training.stream: mixed`."
            )
            yield Finding(("data", source, "weight"), text)


def _limits(recipe: dict[str, Any]) -> Iterator[Finding]:
    for source, section in _entries(recipe, "data"):
        if section.get("limit") is not None and not section.get("labels"):
            text = "the source has no labels to limit. Remove `limit`, or add `labels`."
            yield Finding(("data", source, "limit"), text)


def _acceptance(recipe: dict[str, Any]) -> Iterator[Finding]:
    for task in _mapping(recipe.get("acceptance")):
        if task not in _mapping(recipe.get("tasks")):
            yield Finding(("acceptance", task), _no_task(task, recipe))


def _init(recipe: dict[str, Any]) -> Iterator[Finding]:
    init = _mapping(recipe.get("student")).get("init")
    if not isinstance(init, str) or not init.startswith("teacher:"):
        return
    task = init.removeprefix("teacher:")
    tasks = _mapping(recipe.get("tasks"))
    if task not in tasks:
        yield Finding(("student", "init"), _no_task(task, recipe))
    elif isinstance(tasks[task], dict) and tasks[task].get("teacher") is None:
        text = f"task '{task}' has no teacher to start from. Name a task with a teacher."
        yield Finding(("student", "init"), text)


def _choice(recipe: dict[str, Any], pattern: str, names: Collection[str]) -> Iterator[Finding]:
    for path, value in _at(recipe, tuple(pattern.split("."))):
        # A name that ends in a colon stands for all that begin so: torchjd:UPGrad.
        if isinstance(value, str) and not {value, f"{value.partition(':')[0]}:"} & set(names):
            text = f"found {show(value)}, expected {either(sorted(names))}.{nearest(value, names)}"
            yield Finding(path, text)


def _at(value: Any, pattern: tuple[str, ...], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """The values at a pattern of keys, `*` for any."""
    if not pattern:
        yield path, value
        return
    for key, child in _mapping(value).items():
        if pattern[0] in ("*", key):
            yield from _at(child, pattern[1:], (*path, key))


def _entries(recipe: dict[str, Any], key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, section in _mapping(recipe.get(key)).items():
        if isinstance(section, dict):
            yield name, section


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _no_task(task: str, recipe: dict[str, Any]) -> str:
    tasks = _mapping(recipe.get("tasks"))
    return f"there is no task '{task}'.{nearest(task, tasks)} Tasks: {', '.join(tasks) or 'none'}."
