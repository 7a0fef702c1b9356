"""Rules between sections of a recipe, which no single section can check for itself.

They judge the validated recipe. Where some values are invalid they judge it without these, so that a user sees all
mistakes at once; what might only follow from a value that cannot be read is not reported.
"""

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distill_mtl.errors import nearest
from distill_mtl.recipe.branches import OWN, ROOT, Branches, by_task, mistakes_of_groups
from distill_mtl.recipe.known_names import KnownNames
from distill_mtl.recipe.long_form import in_units, no_margin
from distill_mtl.recipe.mistakes import KeyPath, Mistake, either, show
from distill_mtl.recipe.schema import (
    INITS,
    NETWORK_KEYS,
    NETWORK_KEYS_IN_WORDS,
    AnyTeacher,
    AutoBranchSection,
    EncodersSection,
    Recipe,
    TaskSection,
    TeacherSection,
    teacher_keys,
)
from distill_mtl.recipe.slices import read_condition

PARTS = ("trunk", "trunk:LAYER", "guided", "heads", "heads:TASK", "adapters")
PART = re.compile("(trunk|heads)(:.+)?|guided|adapters")
"""What `schedule.train` may name."""
_COLUMN_KEYS = {
    "own": ("cross_stitch", "sluice", "nddr"),
    "each": ("cross_stitch",),
    "subspaces": ("sluice",),
}
"""Keys of `student.columns` -> the kinds that have a use for them."""
_WHICH = (*NETWORK_KEYS, "weights", "args", "task", "output")
"""Keys of a teacher that say which network it is."""
BESIDE_OPTIONS = ("kind", "classes", "metric", "head")
"""Keys of a task that every kind gets, besides its options."""


@dataclass(frozen=True)
class Judged:
    """A recipe under judgement.

    Attributes:
        recipe: in long form, without what cannot be read.
        known: names that may stand in it.
        unread: paths of the values that are missing in it because they are invalid.
    """

    recipe: Recipe
    known: KnownNames
    unread: Collection[KeyPath] = ()

    def reads(self, *path: str | int) -> bool:
        """Whether everything at and below a path, and above it, could be read."""
        return not any(_related(path, other) for other in self.unread)

    def reads_all(self, above: str, *keys: str) -> bool:
        """Whether all entries of `tasks` or `data` could be read, and these keys of each."""
        below = [path for path in self.unread if path[:1] == (above,)]
        return all(len(path) > 2 and path[2] not in keys for path in below)

    def missing_task(self, task: str) -> str:
        """What to say where there is no task of that name; empty where there is one."""
        tasks = self.recipe.tasks
        if task in tasks or not self.reads_all("tasks"):
            return ""
        return f"there is no task '{task}'.{nearest(task, tasks)} Tasks: {', '.join(tasks)}."


def check_rules(judged: Judged) -> list[Mistake]:
    """Everything in which a recipe contradicts itself, under paths of the long form."""
    found = [mistake for rule in _RULES for mistake in rule(judged)]
    return [mistake for mistake in found if judged.reads(*mistake.path)]


def network_rules(path: KeyPath, teacher: TeacherSection) -> Iterator[Mistake]:
    """What a trained network needs, and what does not go together; `path` is the section's own."""
    origins = [key for key in NETWORK_KEYS if getattr(teacher, key) is not None]
    if not origins:
        text = f"found no network. Add {NETWORK_KEYS_IN_WORDS}; or `teacher: self`."
        yield Mistake(path, text)
    elif len(origins) > 1:
        text = f"found {' and '.join(f'`{key}`' for key in origins)}, a teacher is one network. Keep one of them."
        yield Mistake((*path, origins[1]), text)
    elif origins == ["module"] and teacher.weights is None:
        text = "found `module` without `weights`: without them its weights are random. Add its state dict."
        yield Mistake((*path, "module"), text)
    elif origins[0] not in ("module", "torchvision"):
        for key in ("weights", "args"):
            if getattr(teacher, key):
                text = (
                    f"`{key}` belongs to `module` or `torchvision`; `{origins[0]}` brings its own. Remove it."
                )
                yield Mistake((*path, key), text)


def _labels(judged: Judged) -> Iterator[Mistake]:
    for source, section in judged.recipe.data.items():
        for task in section.labels:
            if text := judged.missing_task(task):
                yield Mistake(("data", source, "labels", task), text)


def _shards(judged: Judged) -> Iterator[Mistake]:
    """A source without training shards is for testing alone."""
    data = judged.recipe.data
    for name, source in data.items():
        if source.shards is not None or not judged.reads("data", name, "shards"):
            continue
        if source.split.test is None and judged.reads("data", name, "split"):
            text = "found no `shards`, the training rows. Add them; or, for rows that are only tested on, "
            yield Mistake(("data", name, "shards"), f"{text}`split: {{test: ...}}`.")
        for key in ("weight", "limit", "class_balance"):
            if getattr(source, key):
                text = f"`{key}` is about training rows, and the source has no `shards`. Remove it."
                yield Mistake(("data", name, key), text)
    for name, source in data.items():
        if source.store is None:
            continue
        every = {"class_balance": source.class_balance, "limit": source.limit and source.limit.per_class}
        for key in (key for key, given in every.items() if given):
            named = "limit.per_class" if key == "limit" else key
            text = f"`{named}` reads every label before the first step, and with "
            yield Mistake(
                ("data", name, key), f"{text}`store` the shards are not there by then. Remove one of them."
            )
    if judged.reads_all("data", "shards") and all(source.shards is None for source in data.values()):
        text = "no source has `shards`, so there is nothing to train on. Add a source, which needs no labels."
        yield Mistake(("data",), text)


def _selection(judged: Judged) -> Iterator[Mistake]:
    """The best checkpoint is chosen on validation rows of every task."""
    if judged.recipe.training.select != "best" or not judged.reads_all("data", "shards", "labels", "split"):
        return
    for task in judged.recipe.tasks:
        own = {name: source for name, source in judged.recipe.data.items() if task in source.labels}
        if own and all(source.shards is None and source.split.validation is None for source in own.values()):
            text = (
                f"`best` is chosen on validation rows, and {task} has none. Add `split: {{validation: ...}}` to "
                f"data.{next(iter(own))}, or use `last`."
            )
            yield Mistake(("training", "select"), text)


def _tasks(judged: Judged) -> Iterator[Mistake]:
    """Every task has a label or a teacher, and its classes are known."""
    sources = judged.recipe.data.values()
    labelled = {task for source in sources if source.shards is not None for task in source.labels}
    labels_only = judged.recipe.training.teachers_on == "none"
    for name, task in judged.recipe.tasks.items():
        path = ("tasks", name)
        if not judged.reads(*path, "teacher"):
            continue
        if name not in labelled and judged.reads_all("data", "shards", "labels"):
            if task.self_teacher is not None:
                text = "its teacher is the student itself, and no source has its labels: there is nothing to keep."
                yield Mistake(path, f"{text} Add `data` to the task, or another teacher.")
            elif task.teacher is None:
                text = "found neither a teacher nor a source with its labels. Add `teacher` or `data` to the task."
                yield Mistake(path, text)
            elif labels_only:
                text = (
                    "nothing trains the task: no source has its labels, and `training.teachers_on` is none."
                )
                yield Mistake(path, f"{text} Add `data` to the task, or let teachers see the rows.")
        if not task.networks and judged.reads(*path, "kind") and _lacks_classes(task, judged.known):
            source = "no teacher" if task.teacher is None else "a self-teacher has none"
            text = f"found no `classes`, and {source} to take them from. Add their number or their names."
            yield Mistake((*path, "classes"), text)


def _lacks_classes(task: TaskSection, known: KnownNames) -> bool:
    """Whether only a teacher can say the task's classes; what a user's own kind says is not known yet."""
    if task.classes is not None or known.fixed_classes is None:
        return False
    return task.kind not in known.fixed_classes and ":" not in task.kind


def _own_kinds(judged: Judged) -> Iterator[Mistake]:
    for name, task in judged.recipe.tasks.items():
        if ":" in task.kind and not task.trust and judged.reads("tasks", name, "trust"):
            yield _not_trusted(("tasks", name, "kind"), task.kind)


def _not_trusted(path: KeyPath, name: str, where: str = "task") -> Mistake:
    text = (
        f"{show(name)} is code of your own, which runs with all your rights on this machine. If you trust it, add "
        f"`trust: true` to the {where}."
    )
    return Mistake(path, text)


def _terms(judged: Judged) -> Iterator[Mistake]:
    """Names in `weights`: terms that are known, or code of the user's own that a task trusts."""
    tasks = judged.recipe.tasks
    for name, task in tasks.items():
        for term in task.weights:
            path = ("tasks", name, "weights", term)
            if ":" not in term:
                yield from _unknown_term(path, judged.known)
            elif not task.trust and judged.reads("tasks", name, "trust"):
                yield _not_trusted(path, term)
    own = {term for task in tasks.values() for term in task.weights}
    for number, stage in enumerate(judged.recipe.schedule):
        here: KeyPath = ("schedule", number)
        changed = {(*here, "weights"): stage.weights}
        changed |= {(*here, "tasks", name, "weights"): part.weights for name, part in stage.tasks.items()}
        for above, weights in changed.items():
            for term in weights:
                if ":" not in term:
                    yield from _unknown_term((*above, term), judged.known)
                elif term not in own and judged.reads_all("tasks", "weights"):
                    text = "no task has this term. Give it a weight in `tasks.NAME.weights`, which may be 0."
                    yield Mistake((*above, term), text)


def _unknown_term(path: KeyPath, known: KnownNames) -> Iterator[Mistake]:
    term = str(path[-1])
    if known.terms and term not in known.terms:
        names = ", ".join(known.terms)
        text = (
            f"there is no such term.{nearest(term, known.terms)} Terms: {names}, or MODULE:CLASS of your own."
        )
        yield Mistake(path, text)


def _options(judged: Judged) -> Iterator[Mistake]:
    for name, task in judged.recipe.tasks.items():
        for key in BESIDE_OPTIONS:
            if key in task.options:
                text = f"`{key}` stands beside `options`, not among them. Move it to the task."
                yield Mistake(("tasks", name, "options", key), text)


def _teachers(judged: Judged) -> Iterator[Mistake]:
    for name, task in judged.recipe.tasks.items():
        path = ("tasks", name, "teacher")
        if not all(judged.reads(*path, key) for key in (*NETWORK_KEYS, "weights", "args")):
            continue
        if isinstance(task.teacher, list):
            if judged.reads(*path):
                yield from _list_of_teachers(path, task.teacher)
        elif task.networks:
            yield from network_rules(path, task.networks[0])
        elif task.self_teacher is not None:
            if task.self_teacher.student == "frozen" and task.self_teacher.decay is not None:
                text = "a frozen self-teacher has no average. Remove `decay`, or write `student: ema`."
                yield Mistake((*path, "decay"), text)
            if task.hints:
                text = "a self-teacher gives soft targets only. Remove the hints."
                yield Mistake(("tasks", name, "hints"), text)


def _list_of_teachers(path: KeyPath, teachers: Sequence[AnyTeacher]) -> Iterator[Mistake]:
    """Each is a trained network, and another one."""
    seen: dict[str, int] = {}
    for number, teacher in enumerate(teachers):
        if not isinstance(teacher, TeacherSection):
            text = "the student itself cannot be one of several teachers. Remove it from the list."
            yield Mistake((*path, number), text)
            continue
        yield from network_rules((*path, number), teacher)
        which = json.dumps([_normal(getattr(teacher, key)) for key in _WHICH], default=str)
        if which in seen:
            text = (
                f"this is teacher {seen[which]} again. Remove it, or name another network, output or `task`."
            )
            yield Mistake((*path, number), text)
        seen.setdefault(which, number + 1)


def _normal(place: object) -> object:
    return os.path.normpath(place) if isinstance(place, str) and "://" not in place else place


def _several(judged: Judged) -> Iterator[Mistake]:
    """What only a list of teachers has."""
    for name, task in judged.recipe.tasks.items():
        path: KeyPath = ("tasks", name)
        if not judged.reads(*path, "teacher"):
            continue
        count = len(task.networks)
        if task.combine is not None and count < 2:
            text = "there is one teacher, and nothing to combine. Remove `combine`, or list several: `teacher: [A, B]`."
            yield Mistake((*path, "combine"), text)
        elif isinstance(task.combine, list):
            if len(task.combine) != count:
                text = f"found {len(task.combine)} weights for {count} teachers. Give one for each, in their order."
                yield Mistake((*path, "combine"), text)
            elif not all(task.combine):
                text = "a teacher of weight 0 says nothing. Remove it from the list, or give it a weight."
                yield Mistake((*path, "combine", task.combine.index(0)), text)
        if isinstance(task.teacher_weight, list) and len(task.teacher_weight) != count:
            text = f"found {len(task.teacher_weight)} mappings for {count} teachers. Give one for each, or one for all."
            yield Mistake((*path, "teacher_weight"), text)
        for number, hint in enumerate(task.hints):
            if hint.of is not None and (count < 2 or hint.of > count):
                text = f"found {hint.of}, and the task has {count or 'no'} teacher{'s' * (count > 1)}. Remove `of`"
                yield Mistake((*path, "hints", number, "of"), f"{text}{', or correct it' * (count > 1)}.")
        if count > 1 and task.head.init == "teacher":
            text = "the task has several teachers, and a head begins as that of one. Remove `init`."
            yield Mistake((*path, "head", "init"), text)


def _gates(judged: Judged) -> Iterator[Mistake]:
    for name, task in judged.recipe.tasks.items():
        if task.gate is None:
            continue
        given = [key for key in ("entropy", "confidence") if getattr(task.gate, key) is not None]
        if len(given) != 1:
            found = "both" if given else "neither of the two"
            text = f"found {found}. Give one: `entropy` (at most) or `confidence` (at least)."
            yield Mistake(("tasks", name, "gate"), text)
        elif task.teacher is None and judged.reads("tasks", name, "teacher"):
            text = "the task has no teacher whose answers it could mask. Remove `gate`, or add a teacher."
            yield Mistake(("tasks", name, "gate"), text)


def _teacher_weights(judged: Judged) -> Iterator[Mistake]:
    data = judged.recipe.data
    for name, task in judged.recipe.tasks.items():
        path: KeyPath = ("tasks", name, "teacher_weight")
        if task.teacher_weight == "auto":
            continue
        if task.teacher_weight and task.teacher is None and judged.reads("tasks", name, "teacher"):
            text = "the task has no teacher whose targets it could weight. Remove it, or add a teacher."
            yield Mistake(path, text)
        said = task.teacher_weight
        for number, weights in enumerate(said if isinstance(said, list) else [said]):
            here = (*path, number) if isinstance(said, list) else path
            for source in weights if judged.reads_all("data") else ():
                if source not in data:
                    text = f"there is no data set '{source}'.{nearest(source, data)} Data sets: {', '.join(data)}."
                    yield Mistake((*here, source), text)


def _training(judged: Judged) -> Iterator[Mistake]:
    training = judged.recipe.training
    if training.steps is not None and training.epochs is not None:
        text = f"found {training.epochs:g} beside `steps: {training.steps}`."
        yield Mistake(("training", "epochs"), f"{text} Remove one of the two, or set it to null.")
    rows, parts = training.batch_size, training.accumulate
    key = "accumulate" if "accumulate" in training.model_fields_set else "batch_size"
    if rows % parts and judged.reads("training", "batch_size") and judged.reads("training", "accumulate"):
        text = f"a batch of {rows} rows cannot be split into {parts} equal micro-batches."
        yield Mistake(("training", key), f"{text} Make `batch_size` a multiple of `accumulate`.")


def _asynchronous(judged: Judged) -> Iterator[Mistake]:
    training, path = judged.recipe.training, ("training", "asynchronous")
    if training.asynchronous is None:
        return
    heads = training.asynchronous.heads
    if isinstance(heads, dict):
        for task in heads:
            if text := judged.missing_task(task):
                yield Mistake((*path, "heads", task), text)
        if missing := [task for task in judged.recipe.tasks if task not in heads]:
            text = f"found no number for {', '.join(missing)}. Add it, or give one number for all tasks."
            yield Mistake((*path, "heads"), text)
    if training.precision == "fp16":
        text = (
            "fp16 scales each step's gradients anew, so they cannot be added up over steps. Use bf16 or fp32, "
            "or remove `asynchronous`."
        )
        yield Mistake(("training", "precision"), text)


def _schedule(judged: Judged) -> Iterator[Mistake]:
    stages = judged.recipe.schedule
    for number, stage in enumerate(stages):
        path = ("schedule", number)
        if stage.until is None and number + 1 < len(stages):
            text = "only the last stage has no `until`. Add it to this one."
            yield Mistake((*path, "until"), text)
        for task in stage.tasks:
            if text := judged.missing_task(task):
                yield Mistake((*path, "tasks", task), text)
        if stage.train is not None and judged.recipe.training.asynchronous is not None:
            text = (
                "`training.asynchronous` keeps gradients for later steps, in which a part may no longer train. "
                "Remove one of the two."
            )
            yield Mistake((*path, "train"), text)
        for position, part in enumerate(stage.train or ()):
            if not PART.fullmatch(part):
                text = f"found {show(part)}, expected {either(PARTS)}.{nearest(part, PARTS)}"
                yield Mistake((*path, "train", position), text)


def _stream(judged: Judged) -> Iterator[Mistake]:
    stream = judged.recipe.training.stream
    if stream.mode == "mixed":
        if stream.phase > 1 and judged.reads("training", "stream", "mode"):
            text = f"found {stream.phase}, but batches that mix all data sets have no phases."
            path = ("training", "stream", "phase")
            yield Mistake(path, f"{text} Add `mode: alternate`, or remove `phase`.")
        return
    for source, section in judged.recipe.data.items():
        if section.weight is not None:
            text = (
                f"found {section.weight:g} beside `training.stream: alternate`, where every data set has one "
                "phase in each turn. Remove `weight`, or mix the data sets with `training.stream: mixed`."
            )
            yield Mistake(("data", source, "weight"), text)


def _limits(judged: Judged) -> Iterator[Mistake]:
    for source, section in judged.recipe.data.items():
        if section.limit is not None and not section.labels and judged.reads("data", source, "labels"):
            text = "the source has no labels to limit. Remove `limit`, or add `labels`."
            yield Mistake(("data", source, "limit"), text)


def _windows(judged: Judged) -> Iterator[Mistake]:
    """Windows do not know the class of every row before the first step."""
    for source, section in judged.recipe.data.items():
        if section.order == "windows" and section.reads_classes:
            key = "class_balance" if section.class_balance else "limit.per_class"
            text = f"with windows no row's class is known ahead, which `{key}` needs. Use `order: rows`."
            yield Mistake(("data", source, "order"), text)


def _acceptance(judged: Judged) -> Iterator[Mistake]:
    margins = judged.recipe.acceptance.margin
    for named in margins:
        if text := judged.missing_task(named):
            yield Mistake(("acceptance", "margin", named), text)
    for name, task in judged.recipe.tasks.items():
        in_unit = in_units(task.kind, task.metric, judged.known)
        if task.teacher is not None and in_unit and name not in margins and judged.reads("acceptance"):
            yield Mistake(("tasks", name), no_margin(name, f"{task.metric or 'the metric'} of {name}"))


def _slices(judged: Judged) -> Iterator[Mistake]:
    recipe = judged.recipe
    named = recipe.evaluation.slices
    for name, said in (named or {}).items():
        for rule in [said] if isinstance(said, str) else said:
            try:
                read_condition(rule)
            except ValueError as error:
                yield Mistake(("evaluation", "slices", name), str(error))
    for name, margin in recipe.acceptance.slices.items():
        if named is not None and name not in named and judged.reads("evaluation"):
            text = f"there is no slice '{name}'.{nearest(name, named)} Slices: {', '.join(named) or 'none'}."
            yield Mistake(("acceptance", "slices", name), text)
        for task in margin if isinstance(margin, dict) else ():
            if text := judged.missing_task(task):
                yield Mistake(("acceptance", "slices", name, task), text)


def _shape(judged: Judged) -> Iterator[Mistake]:
    """A student has one shape, for several tasks."""
    student, tasks = judged.recipe.student, judged.recipe.tasks
    keys = list(student.layout)
    for other in keys[1:]:
        text = f"a student has one shape, and `{keys[0]}` is there. Remove one of the two."
        yield Mistake(("student", other), text)
    for key in keys:
        if judged.reads("student", key) and judged.reads_all("tasks") and len(tasks) == 1:
            yield Mistake(("student", key), f"there is one task, which has the whole trunk. Remove `{key}`.")
        if student.init == "zip" and key not in ("branch", "columns") and judged.reads("student", "init"):
            text = f"zip merges teachers into a trunk or a tree, not with `{key}`. Use teacher:TASK, or remove one."
            yield Mistake(("student", "init"), text)
    if keys and ROOT in tasks and judged.reads("student", keys[0]):
        text = f"`{ROOT}` is what the part of all tasks is called, so no task can have this name. Rename the task."
        yield Mistake(("tasks", ROOT), text)


def _private(judged: Judged) -> Iterator[Mistake]:
    private, path = judged.recipe.student.private, ("student", "private")
    if private is None or not judged.reads(*path):
        return
    if private.norms is None and private.adapters is None:
        yield Mistake(
            path, "found neither `norms` nor `adapters`. Name the stages of one: `{norms: [layer4]}`."
        )
    elif private.adapters is None and "kind" in private.model_fields_set and private.kind == "series":
        yield Mistake(
            (*path, "kind"), "`kind` is that of `adapters`, which are not there. Remove it, or add them."
        )


def _encoders(judged: Judged) -> Iterator[Mistake]:
    """Every task has one encoder."""
    encoders = judged.recipe.student.encoders
    path: KeyPath = ("student", "encoders")
    if encoders is None or not judged.reads(*path) or not judged.reads_all("tasks"):
        return
    if isinstance(encoders, EncodersSection):
        encoders, path = encoders.groups, (*path, "groups")
    tasks = list(judged.recipe.tasks)
    for name, group in encoders.items():
        if name == ROOT or "." in name:
            text = f"`{ROOT}` is the common trunk, and a name has no dot. Give the encoder another name."
            yield Mistake((*path, name), text)
        for position, task in enumerate(group):
            if text := judged.missing_task(task):
                yield Mistake((*path, name, position), text)
    known = [[task for task in group if task in tasks] for group in encoders.values()]
    for text in mistakes_of_groups([group for group in known if group], tasks) if len(tasks) > 1 else ():
        yield Mistake(path, text)


def _columns(judged: Judged) -> Iterator[Mistake]:
    """Keys that the kind of columns has a use for, and what progressive columns stand beside."""
    student, path = judged.recipe.student, ("student", "columns")
    columns = student.columns
    if columns is None or not judged.reads(*path):
        return
    for key, kinds in _COLUMN_KEYS.items():
        said = getattr(columns, key) != type(columns).model_fields[key].default
        if said and columns.kind not in kinds:
            text = f"`{key}` is for {' and '.join(kinds)}, and has no meaning for {columns.kind}. Remove it."
            yield Mistake((*path, key), text)
    if student.init == "zip" and judged.reads("student", "init"):
        text = (
            "zip merges teachers into weights that tasks share, and every column has its own. Use `teachers`."
        )
        yield Mistake(("student", "init"), text)
    elif columns.kind == "progressive" and judged.reads("student", "init"):
        if student.init in INITS or student.init.startswith("teacher:"):
            text = (
                "progressive stands beside a student whose answers stay. Give its folder: `init: runs/OLD`."
            )
            yield Mistake(path, text)
        for key in ("input_size", "args"):
            if getattr(student, key):
                text = f"`{key}` is that of the student in `init`, whose answers stay. Remove it."
                yield Mistake(("student", key), text)


def _branch(judged: Judged) -> Iterator[Mistake]:
    """Tasks leave the trunk by name, or part in groups at a stage."""
    branch, tasks, path = judged.recipe.student.branch, list(judged.recipe.tasks), ("student", "branch")
    if branch is None or not judged.reads(*path) or not judged.reads_all("tasks"):
        return
    if len(tasks) == 1 or ROOT in tasks:
        return
    if branch == "auto" or isinstance(branch, AutoBranchSection):
        return
    elif by_task(branch):
        for task in branch:
            if text := judged.missing_task(task):
                yield Mistake(
                    (*path, task), f"{text} Groups stand under a stage: `layer4: [[{tasks[0]}], ...]`."
                )
    else:
        yield from _groups(judged, branch, path)


def _groups(judged: Judged, branch: Branches, path: KeyPath) -> Iterator[Mistake]:
    tasks = list(judged.recipe.tasks)
    for stage, groups in branch.items():
        here = (*path, stage)
        if isinstance(groups, str):
            if groups != OWN:
                text = f"found {show(groups)}, expected groups of tasks, or {OWN}. Use one form for all of `branch`: "
                yield Mistake(here, f"{text}{{task: stage}}, or {{stage: groups}}.")
            continue
        for number, group in enumerate(groups):
            for position, task in enumerate(group):
                if text := judged.missing_task(task):
                    yield Mistake((*here, number, position), text)
        known = [[task for task in group if task in tasks] for group in groups]
        for text in mistakes_of_groups(known, tasks):
            yield Mistake(here, text)


def _own_student(judged: Judged) -> Iterator[Mistake]:
    """A student of the user's own code, and keys that are for one."""
    student, path = judged.recipe.student, ("student",)
    if not all(judged.reads("student", key) for key in ("module", "model", "trust")):
        return
    if student.module is None:
        for key in ("layers", "input"):
            if getattr(student, key) != type(getattr(student, key))():
                yield Mistake((*path, key), f"`{key}` belongs to `module`, your own network. Remove it.")
        if (student.model or "").startswith("module:"):
            yield Mistake(
                (*path, "model"), "your own network stands under `module`: `module: my_nets:resnet20`."
            )
        return
    if student.model is not None:
        text = "found `model` and `module`, a student is one network. Keep one of them."
        yield Mistake((*path, "module"), text)
    if not student.trust:
        yield _not_trusted((*path, "module"), student.module, "student")
    if student.init == "pretrained" and judged.reads("student", "init"):
        text = "your own network has no weights that timm knows. Use random, or a .safetensors file of its own weights."
        yield Mistake((*path, "init"), text)
    if student.layout and student.layers.pooled is not None:
        text = (
            f"`{next(iter(student.layout))}` cuts the network by its own `forward_features`. Remove `pooled`."
        )
        yield Mistake((*path, "layers", "pooled"), text)


def _init(judged: Judged) -> Iterator[Mistake]:
    student, tasks = judged.recipe.student, judged.recipe.tasks
    of_teacher = student.init.startswith("teacher:")
    several = [task for task, section in tasks.items() if len(section.networks) > 1]
    if student.init in ("zip", "teachers") and several and judged.reads("student", "init"):
        text = f"`{student.init}` takes the one teacher of each task, and {', '.join(several)} has several. Begin with "
        yield Mistake(("student", "init"), f"{text}one of them: teacher:{several[0]}/1.")
    if (
        student.architecture is None
        and (student.init in INITS or of_teacher)
        and judged.reads("student", "init")
        and judged.reads("student", "module")
    ):
        text = (
            "found no `model`. Add it: a timm architecture, such as resnet18; or `module`, your own. (Only a student's "
            "folder in `init` says which it is.)"
        )
        yield Mistake(("student", "model"), text)
    if not of_teacher:
        return
    task, _, number = student.init.removeprefix("teacher:").partition("/")
    if text := judged.missing_task(task):
        yield Mistake(("student", "init"), text)
    elif task in tasks and judged.reads("tasks", task, "teacher"):
        count = len(tasks[task].networks)
        if not count:
            text = f"task '{task}' has no teacher to start from. Name a task with a teacher."
            yield Mistake(("student", "init"), text)
        elif number and number not in map(str, range(1, count + 1)):
            known = ", ".join(f"teacher:{key}" for key in teacher_keys(task, count))
            yield Mistake(("student", "init"), f"there is no such teacher of '{task}'. Known: {known}.")


def _heads(judged: Judged) -> Iterator[Mistake]:
    for name, task in judged.recipe.tasks.items():
        if task.head.init == "teacher" and not task.networks and judged.reads("tasks", name, "teacher"):
            text = "the task has no teacher whose head it could begin with. Remove `init`, or add a teacher."
            yield Mistake(("tasks", name, "head", "init"), text)


def _names(judged: Judged) -> Iterator[Mistake]:
    """Names that only registries know: kinds of task, balancing rules, trackers."""
    values = judged.recipe.model_dump(mode="json", by_alias=True)
    for pattern, names in judged.known.choices.items():
        named = sorted(set(names) - {":"})
        for path, value in _at(values, tuple(pattern.split("."))):
            if not _is_known(value, names):
                text = f"found {show(value)}, expected {either(named)}.{nearest(value, named)}"
                yield Mistake(path, text)


def _is_known(value: Any, names: Collection[str]) -> bool:
    """A name that ends in a colon stands for all that begin so (torchjd:UPGrad), a colon alone for every name with
    one (my_tasks:Angle)."""
    beginning, colon, _ = str(value).partition(":")
    return bool({value, f"{beginning}:", colon or None} & set(names))


def _at(value: Any, pattern: tuple[str, ...], path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """The values at a pattern of keys, `*` for any key and any place in a list."""
    if not pattern:
        yield path, value
        return
    entries = (
        enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    )
    for key, child in entries:
        if pattern[0] in ("*", key):
            yield from _at(child, pattern[1:], (*path, key))


def _related(one: KeyPath, other: KeyPath) -> bool:
    """Whether one path is the other, or leads to it."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


_RULES: tuple[Callable[[Judged], Iterator[Mistake]], ...] = (
    _labels,
    _shards,
    _selection,
    _tasks,
    _own_kinds,
    _terms,
    _options,
    _teachers,
    _several,
    _gates,
    _teacher_weights,
    _training,
    _stream,
    _limits,
    _windows,
    _asynchronous,
    _schedule,
    _shape,
    _columns,
    _branch,
    _private,
    _encoders,
    _own_student,
    _init,
    _heads,
    _acceptance,
    _slices,
    _names,
)
