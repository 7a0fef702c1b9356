"""Rules between sections of a recipe, which no single section can check for itself.

`load_recipe` runs them on the long form whether or not the sections are valid, so that a user sees all
mistakes at once: a rule looks at what it can read and leaves the rest to validation.
"""

import re
from collections.abc import Collection, Iterator
from typing import Any

from distill_mtl.errors import nearest
from distill_mtl.recipe.known_names import KnownNames
from distill_mtl.recipe.long_form import in_units, no_margin, taught_by_itself
from distill_mtl.recipe.mistakes import KeyPath, Mistake, either, show
from distill_mtl.recipe.schema import INITS, StudentSection, TeacherSection, TrainingSection

OF_FILES = frozenset(TeacherSection.model_fields) - {"path", "timm", "module", "student", "every", "decay"}
"""Keys of a teacher that say something about its files."""
PARTS = ("trunk", "trunk:LAYER", "guided", "heads", "heads:TASK", "adapters")
BESIDE_OPTIONS = ("kind", "classes", "metric", "head")
"""Keys of a task that every kind is told, whatever its options."""
PART = re.compile("(trunk|heads)(:.+)?|guided|adapters")
"""What `schedule.train` may name."""


def check_rules(recipe: Any, known: KnownNames) -> list[Mistake]:
    """Everything that contradicts itself, under paths of the long form.

    Args:
        recipe: the long form, not necessarily valid.
        known: of names, by other parts of the program.
    """
    if not isinstance(recipe, dict):
        return []
    found = [
        mistake
        for rule in (
            _labels,
            _shards,
            _own_kinds,
            _options,
            _teachers,
            _former_self,
            _gates,
            _training,
            _stream,
            _limits,
            _asynchronous,
            _schedule,
            _init,
            _heads,
        )
        for mistake in rule(recipe)
    ]
    found += [*_tasks(recipe, known), *_acceptance(recipe, known), *_terms(recipe, known)]
    return found + [
        mistake for pattern, names in known.choices.items() for mistake in _choice(recipe, pattern, names)
    ]


def _labels(recipe: dict[str, Any]) -> Iterator[Mistake]:
    for source, section in _entries(recipe, "data"):
        for task in _mapping(section.get("labels")):
            if task not in _mapping(recipe.get("tasks")):
                yield Mistake(("data", source, "labels", task), _no_task(task, recipe))


def _shards(recipe: dict[str, Any]) -> Iterator[Mistake]:
    """A source without training shards is for testing alone."""
    tested_alone: dict[str, Any] = {}
    for name, source in _entries(recipe, "data"):
        if source.get("shards") is not None:
            continue
        tested_alone[name] = source
        if _mapping(source.get("split")).get("test") is None:
            text = (
                "found no `shards`, the training rows. Add them; or, for rows that are only tested on, "
                "`split: {test: ...}`."
            )
            yield Mistake(("data", name, "shards"), text)
        for key in ("weight", "limit", "class_balance"):
            if source.get(key):
                text = "the source has no `shards`, so there are no training rows that it could be about. Remove it."
                yield Mistake(("data", name, key), text)
    sources = _mapping(recipe.get("data"))
    if sources and len(tested_alone) == len(sources):
        text = "no source has `shards`, so there is nothing to train on. Add a source, which needs no labels."
        yield Mistake(("data",), text)
    if _mapping(recipe.get("training")).get("select") == "best":
        for task in _mapping(recipe.get("tasks")):
            own = {
                name: source
                for name, source in _entries(recipe, "data")
                if task in _mapping(source.get("labels"))
            }
            looked_at = any(
                source.get("shards") is not None
                or _mapping(source.get("split")).get("validation") is not None
                for source in own.values()
            )
            if own and not looked_at:
                text = (
                    f"`best` is chosen on validation rows, and {task} has none. Add `split: {{validation: ...}}` to "
                    f"data.{next(iter(own))}, or use `last`."
                )
                yield Mistake(("training", "select"), text)


def _tasks(recipe: dict[str, Any], known: KnownNames) -> Iterator[Mistake]:
    labelled = {
        task
        for _, source in _entries(recipe, "data")
        if source.get("shards") is not None
        for task in _mapping(source.get("labels"))
    }
    # A source that is no mapping is reported as that; it may have been meant for the task of its name.
    labelled |= {
        name for name, source in _mapping(recipe.get("data")).items() if not isinstance(source, dict)
    }
    labels_only = _mapping(recipe.get("training")).get("teachers_on") == "none"
    for name, task in _entries(recipe, "tasks"):
        path = ("tasks", name)
        if taught_by_itself(task):
            yield from _remembered(name, task, name in labelled, known)
            continue
        taught = task.get("teacher") is not None
        if name not in labelled and not taught:
            yield Mistake(
                path,
                "found neither a teacher nor a source with its labels. Add `teacher` or `data` to the task.",
            )
        elif name not in labelled and labels_only:
            text = "nothing trains the task: no source has its labels, and `training.teachers_on` is none."
            yield Mistake(path, f"{text} Add `data` to the task, or let teachers see the rows.")
        if _lacks_classes(task, known) and not taught:
            text = "found no `classes`, and no teacher to take them from. Add their number or their names."
            yield Mistake((*path, "classes"), text)


def _remembered(name: str, task: dict[str, Any], labelled: bool, known: KnownNames) -> Iterator[Mistake]:
    """What a task needs that the student's former self teaches."""
    path = ("tasks", name)
    if not labelled:
        text = (
            "its teacher is the student itself, and no source has its labels: there is nothing to remember."
        )
        yield Mistake(path, f"{text} Add `data` to the task, or another teacher.")
    if _lacks_classes(task, known):
        text = "found no `classes`, and a former self has none to take. Add their number or their names."
        yield Mistake((*path, "classes"), text)
    if task.get("hints"):
        text = "a former self gives soft targets alone. Remove the hints."
        yield Mistake((*path, "hints"), text)


def _lacks_classes(task: dict[str, Any], known: KnownNames) -> bool:
    """Whether nobody but a teacher can say the task's classes; what a user's own kind says is not known yet."""
    kind = task.get("kind")
    if task.get("classes") is not None or known.fixed_classes is None:
        return False
    return kind not in known.fixed_classes and ":" not in str(kind)


def _own_kinds(recipe: dict[str, Any]) -> Iterator[Mistake]:
    for name, task in _entries(recipe, "tasks"):
        if ":" in str(task.get("kind")) and task.get("trust") is not True:
            yield _not_trusted(("tasks", name, "kind"), task["kind"])


def _not_trusted(path: KeyPath, name: str) -> Mistake:
    text = (
        f"{show(name)} is code of your own, which runs with all your rights on this machine. If you trust it, add "
        "`trust: true` to the task."
    )
    return Mistake(path, text)


def _terms(recipe: dict[str, Any], known: KnownNames) -> Iterator[Mistake]:
    """Names in `weights`: terms that are known, or code of the user's own that a task trusts."""
    own: set[str] = set()
    for path, weights, task in _of_tasks(recipe, "weights"):
        for name in map(str, weights):
            if ":" not in name:
                yield from _unknown_term((*path, name), name, known)
            elif task.get("trust") is True:
                own.add(name)
            else:
                yield _not_trusted((*path, name), name)
    for pattern in ("schedule.*.weights", "schedule.*.tasks.*.weights"):
        for path, weights in _at(recipe, tuple(pattern.split("."))):
            for name in map(str, _mapping(weights)):
                if ":" not in name:
                    yield from _unknown_term((*path, name), name, known)
                elif name not in own:
                    text = "no task has this term. Give it a weight in `tasks.NAME.weights`, which may be 0."
                    yield Mistake((*path, name), text)


def _unknown_term(path: KeyPath, name: str, known: KnownNames) -> Iterator[Mistake]:
    if known.terms and name not in known.terms:
        names = ", ".join(known.terms)
        text = (
            f"there is no such term.{nearest(name, known.terms)} Terms: {names}, or MODULE:CLASS of your own."
        )
        yield Mistake(path, text)


def _options(recipe: dict[str, Any]) -> Iterator[Mistake]:
    for path, options, _ in _of_tasks(recipe, "options"):
        for key in options:
            if key in BESIDE_OPTIONS:
                text = f"`{key}` stands beside `options`, not among them. Move it to the task."
                yield Mistake((*path, key), text)


def _teachers(recipe: dict[str, Any]) -> Iterator[Mistake]:
    for path, teacher, _ in _of_tasks(recipe, "teacher"):
        origins = [key for key in ("path", "timm", "module", "student") if teacher.get(key) is not None]
        if not origins:
            yield Mistake(
                path,
                "found no network. Add `path` (a folder or a file), `timm` or `module`; or `teacher: self`.",
            )
        elif len(origins) > 1:
            text = f"found {' and '.join(f'`{key}`' for key in origins)}, a teacher is one network. Keep one of them."
            yield Mistake((*path, origins[1]), text)
        elif origins == ["module"] and teacher.get("weights") is None:
            text = "found `module` without `weights`: code alone is a random network. Add its state dict."
            yield Mistake((*path, "module"), text)
        elif origins[0] in ("path", "timm"):
            for key in ("weights", "args"):
                if teacher.get(key):
                    text = f"`{key}` belongs to `module`; `{origins[0]}` brings its own. Remove it."
                    yield Mistake((*path, key), text)


def _former_self(recipe: dict[str, Any]) -> Iterator[Mistake]:
    for path, teacher, _ in _of_tasks(recipe, "teacher"):
        if teacher.get("student") is None:
            for key in ("every", "decay"):
                if teacher.get(key) is not None:
                    text = (
                        f"`{key}` belongs to a former self. Remove it, or write `student: frozen` or `ema`."
                    )
                    yield Mistake((*path, key), text)
            continue
        if teacher["student"] == "frozen" and teacher.get("decay") is not None:
            text = "a frozen former self is no average. Remove `decay`, or write `student: ema`."
            yield Mistake((*path, "decay"), text)
        for key, value in teacher.items():
            if key in OF_FILES and not _empty(value, TeacherSection.model_fields[key].default):
                text = f"`{key}` belongs to a network of its own; a former self is the student. Remove it."
                yield Mistake((*path, key), text)


def _gates(recipe: dict[str, Any]) -> Iterator[Mistake]:
    for path, gate, task in _of_tasks(recipe, "gate"):
        given = [key for key in ("entropy", "confidence") if gate.get(key) is not None]
        if len(given) != 1:
            found = "both" if given else "neither of the two"
            yield Mistake(path, f"found {found}. Give one: `entropy` (at most) or `confidence` (at least).")
        elif task.get("teacher") is None:
            yield Mistake(
                path, "the task has no teacher to be heard or not. Remove `gate`, or add a teacher."
            )


def _training(recipe: dict[str, Any]) -> Iterator[Mistake]:
    training = _mapping(recipe.get("training"))
    if training.get("steps") is not None and training.get("epochs") is not None:
        text = f"found {show(training['epochs'])} beside `steps: {show(training['steps'])}`."
        yield Mistake(("training", "epochs"), f"{text} Remove one of the two, or set it to null.")
    rows, parts = (
        training.get(key, TrainingSection.model_fields[key].default) for key in ("batch_size", "accumulate")
    )
    if isinstance(rows, int) and isinstance(parts, int) and parts > 0 and rows % parts:
        text = f"a batch of {rows} rows cannot be split into {parts} equal micro-batches."
        key = "accumulate" if "accumulate" in training else "batch_size"
        yield Mistake(("training", key), f"{text} Make `batch_size` a multiple of `accumulate`.")


def _asynchronous(recipe: dict[str, Any]) -> Iterator[Mistake]:
    training = _mapping(recipe.get("training"))
    asynchronous, path = training.get("asynchronous"), ("training", "asynchronous")
    if not isinstance(asynchronous, dict):
        return
    heads, tasks = asynchronous.get("heads"), _mapping(recipe.get("tasks"))
    if isinstance(heads, dict):
        for task in heads:
            if task not in tasks:
                yield Mistake((*path, "heads", task), _no_task(task, recipe))
        missing = [task for task in tasks if task not in heads]
        if missing:
            text = f"found no number for {', '.join(missing)}. Add it, or give one number for all tasks."
            yield Mistake((*path, "heads"), text)
    if training.get("precision") == "fp16":
        text = (
            "fp16 scales each step's gradients anew, so they cannot be added up over steps. Use bf16 or fp32, "
            "or remove `asynchronous`."
        )
        yield Mistake(("training", "precision"), text)


def _schedule(recipe: dict[str, Any]) -> Iterator[Mistake]:
    stages = recipe.get("schedule")
    stages = stages if isinstance(stages, list) else []
    for number, stage in enumerate(stages):
        path = ("schedule", number)
        if not isinstance(stage, dict):
            continue
        if stage.get("until") is None and number + 1 < len(stages):
            yield Mistake(
                (*path, "until"), "only the last stage goes on to the end. Say where this one ends."
            )
        for task in _mapping(stage.get("tasks")):
            if task not in _mapping(recipe.get("tasks")):
                yield Mistake((*path, "tasks", task), _no_task(task, recipe))
        train = stage.get("train")
        if train is not None and _mapping(recipe.get("training")).get("asynchronous") is not None:
            text = (
                "`training.asynchronous` keeps gradients for later steps, in which a part may no longer train. "
                "Remove one of the two."
            )
            yield Mistake((*path, "train"), text)
        for position, part in enumerate(train if isinstance(train, list) else ()):
            if isinstance(part, str) and not PART.fullmatch(part):
                text = f"found {show(part)}, expected {either(PARTS)}.{nearest(part, PARTS)}"
                yield Mistake((*path, "train", position), text)


def _stream(recipe: dict[str, Any]) -> Iterator[Mistake]:
    stream = _mapping(_mapping(recipe.get("training")).get("stream"))
    phase = stream.get("phase")
    if stream.get("mode") != "alternate":
        if isinstance(phase, int) and phase > 1:
            text = f"found {show(phase)}, but batches that mix all data sets have no phases."
            path = ("training", "stream", "phase")
            yield Mistake(path, f"{text} Add `mode: alternate`, or remove `phase`.")
        return
    for source, section in _entries(recipe, "data"):
        if section.get("weight") is not None:
            text = (
                f"found {show(section['weight'])} beside `training.stream: alternate`, where every data set has one "
                "phase in each turn. Remove `weight`, or mix the data sets with `training.stream: mixed`."
            )
            yield Mistake(("data", source, "weight"), text)


def _limits(recipe: dict[str, Any]) -> Iterator[Mistake]:
    for source, section in _entries(recipe, "data"):
        if section.get("limit") is not None and not section.get("labels"):
            text = "the source has no labels to limit. Remove `limit`, or add `labels`."
            yield Mistake(("data", source, "limit"), text)


def _acceptance(recipe: dict[str, Any], known: KnownNames) -> Iterator[Mistake]:
    margins = _mapping(_mapping(recipe.get("acceptance")).get("margin"))
    for task in margins:
        if task not in _mapping(recipe.get("tasks")):
            yield Mistake(("acceptance", "margin", task), _no_task(task, recipe))
    for name, section in _entries(recipe, "tasks"):
        judged = section.get("teacher") is not None
        if judged and in_units(section, known) and name not in margins:
            metric = section.get("metric") or "the metric"
            yield Mistake(("tasks", name), no_margin(name, f"{metric} of {name}"))


def _init(recipe: dict[str, Any]) -> Iterator[Mistake]:
    student = _mapping(recipe.get("student"))
    init = student.get("init", StudentSection.model_fields["init"].default)
    if not isinstance(init, str):
        return
    if (
        isinstance(recipe.get("student"), dict)
        and student.get("model") is None
        and (init in INITS or init.startswith("teacher:"))
    ):
        text = (
            "found no `model`. Add it: a timm architecture, such as resnet18. (Only a student's folder in `init` "
            "says which it is.)"
        )
        yield Mistake(("student", "model"), text)
    if not init.startswith("teacher:"):
        return
    task = init.removeprefix("teacher:")
    tasks = _mapping(recipe.get("tasks"))
    if task not in tasks:
        yield Mistake(("student", "init"), _no_task(task, recipe))
    elif isinstance(tasks[task], dict) and (
        tasks[task].get("teacher") is None or taught_by_itself(tasks[task])
    ):
        text = f"task '{task}' has no teacher to start from. Name a task with a teacher."
        yield Mistake(("student", "init"), text)


def _heads(recipe: dict[str, Any]) -> Iterator[Mistake]:
    for path, head, task in _of_tasks(recipe, "head"):
        if head.get("init") == "teacher" and (task.get("teacher") is None or taught_by_itself(task)):
            text = "the task has no teacher whose head it could begin with. Remove `init`, or add a teacher."
            yield Mistake((*path, "init"), text)


def _choice(recipe: dict[str, Any], pattern: str, names: Collection[str]) -> Iterator[Mistake]:
    for path, value in _at(recipe, tuple(pattern.split("."))):
        # A name that ends in a colon stands for all that begin so: torchjd:UPGrad. A colon alone stands for
        # every name with one: my_tasks:Angle.
        beginning, colon, _ = value.partition(":") if isinstance(value, str) else ("", "", "")
        if isinstance(value, str) and not {value, f"{beginning}:", colon or None} & set(names):
            named = sorted(set(names) - {":"})
            text = f"found {show(value)}, expected {either(named)}.{nearest(value, named)}"
            yield Mistake(path, text)


def _at(value: Any, pattern: tuple[str, ...], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """The values at a pattern of keys, `*` for any key and any place in a list."""
    if not pattern:
        yield path, value
        return
    for key, child in enumerate(value) if isinstance(value, list) else _mapping(value).items():
        if pattern[0] in ("*", key):
            yield from _at(child, pattern[1:], (*path, key))


def _entries(recipe: dict[str, Any], key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, section in _mapping(recipe.get(key)).items():
        if isinstance(section, dict):
            yield name, section


def _of_tasks(recipe: dict[str, Any], key: str) -> Iterator[tuple[KeyPath, dict[str, Any], dict[str, Any]]]:
    """Path, section and task wherever a task has a section of that key."""
    for name, task in _entries(recipe, "tasks"):
        if isinstance(task.get(key), dict):
            yield ("tasks", name, key), task[key], task


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _empty(value: Any, default: Any) -> bool:
    """Whether a key says nothing, as where a resolved recipe writes out its default."""
    if isinstance(value, dict):
        return not any(entry is not None for entry in value.values())
    return value is None or value == default


def _no_task(task: str, recipe: dict[str, Any]) -> str:
    tasks = _mapping(recipe.get("tasks"))
    return f"there is no task '{task}'.{nearest(task, tasks)} Tasks: {', '.join(tasks) or 'none'}."
