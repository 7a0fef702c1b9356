"""How far each data set lies from a teacher's own pictures, and what its targets weigh there: `teachers_on: auto`.

A teacher that is asked about pictures unlike its own gives answers that say little, and a student that learns them has
less room for what the labels say. Where data sets are of one kind of picture, every weight is 1. Where some teacher is
not asked about another data set at all, teachers are heard on rows with labels too: otherwise it would teach nothing.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from accelerate import PartialState
from torch import Tensor

from distill_mtl.data import Sources
from distill_mtl.data.batch import Batch
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import task_of
from distill_mtl.targets.facts import Teachers
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.teachers.teacher import Teacher, TeacherOutput
from distill_mtl.training.processes import from_first_process

ROWS = 128
"""Of each data set, which a distance is measured on."""
SAME = 0.2
"""Distance up to which pictures count as the teacher's own kind."""
FAR = 0.6
"""Distance from which on the teacher is not asked."""
_AT_A_TIME = 64


def weigh_teachers(recipe: Recipe, teachers: Teachers, sources: Sources) -> tuple[Recipe, list[str]]:
    """The recipe with `teachers_on` and every `teacher_weight` decided, and a sentence for each task whose weights are
    not all 1.

    Every process gets the first one's weights.

    Args:
        recipe: as loaded.
        teachers: of the recipe; opened only where something is to be decided that their cached answers do not say.
        sources: of the recipe.
    """
    auto = [task for task, section in recipe.tasks.items() if section.teacher_weight == "auto"]
    measured = [
        name
        for task in (auto if recipe.training.teachers_on == "auto" else ())
        # Where no label trains the task, the teacher is all that it has.
        if sources.count(task, "train")
        for name in teachers.of(task)
    ]
    distances = {name: teachers.measured(name, "distances") or {} for name in measured}
    own = {name: sources.telling(task_of(name), teachers.cards[name].known) for name in measured}
    foreign = {name: _foreign(own[name], sources) for name in measured}
    if missing := [name for name in measured if distances[name].keys() != set(foreign[name])]:
        distances |= from_first_process(
            _distances({name: foreign[name] for name in missing}, own, teachers, sources)
        )
        for name in missing:
            teachers.note(name, "distances", distances[name])
    tasks, said = dict(recipe.tasks), list[str]()
    for task in auto:
        names = teachers.of(task)
        weights = [
            {source: weight_at(distance) for source, distance in distances.get(name, {}).items()}
            for name in names
        ]
        update = {"teacher_weight": weights if len(names) > 1 else next(iter(weights), {})}
        tasks[task] = recipe.tasks[task].model_copy(update=update)
        for name, of_one in zip(names, weights, strict=True):
            if lowered := {source: weight for source, weight in of_one.items() if weight < 1}:
                said.append(_in_words(name, lowered, distances[name]))
    training = recipe.training
    if training.teachers_on == "auto":
        silent = any(
            weight_at(distance) == 0 for of_task in distances.values() for distance in of_task.values()
        )
        if silent:
            said.append(
                "training.teachers_on: all (auto: a teacher that is not asked about other pictures is heard on its own)"
            )
        training = training.model_copy(update={"teachers_on": "all" if silent else "missing"})
    return recipe.model_copy(update={"tasks": tasks, "training": training}), said


def weight_at(distance: float) -> float:
    """Of a teacher's targets for pictures at this distance from its own, in two digits."""
    return round(min(1.0, max(0.0, (FAR - distance) / (FAR - SAME))), 2)


def feature_distance(own: Tensor, other: Tensor) -> float:
    """The Fréchet distance between two samples of features, each dimension a Gaussian of its own, squared and in units
    of the first one's spread: 0 for the same distribution, 1 where the means lie a standard deviation apart.

    The distance of Heusel et al. (2017, arXiv:1706.08500, equation 6) with diagonal covariances. Unlike a classifier
    between the two (Ben-David et al. 2007), it does not call pictures foreign because they show other classes.

    Args:
        own: [R, D].
        other: [S, D].
    """
    own, other = own.double(), other.double()
    spread = own.std(0, correction=0)
    moved = (other.mean(0) - own.mean(0)).square().sum()
    changed = (other.std(0, correction=0) - spread).square().sum()
    return float((moved + changed) / spread.square().sum().clamp_min(1e-12))


def _foreign(own: Sequence[str], sources: Sources) -> list[str]:
    """Data sets with training rows, and no label that tells of what a teacher knows."""
    return [name for name, rows in sources.rows().items() if rows and name not in own]


def _distances(
    foreign: Mapping[str, Sequence[str]],
    own_sources: Mapping[str, Sequence[str]],
    teachers: Mapping[str, Teacher],
    sources: Sources,
) -> dict[str, dict[str, float]]:
    """Teacher -> each of its foreign data sets -> how far its training rows lie from those of its own data sets."""
    device, asked = PartialState().device, list(foreign)
    live = LiveTeachers({name: teachers[name] for name in asked}, "all").to(device)

    def features(batches: Iterable[Batch], of: Sequence[str]) -> dict[str, Tensor]:
        seen = [live.everything(batch.to(device).images, of) for batch in batches]
        return {task: torch.cat([_pooled(answers[task]) for answers in seen]) for task in of}

    own = {
        name: features(
            sources.labelled(
                task_of(name),
                "validation" if sources.count(task_of(name), "validation", own_sources[name]) else "test",
                _AT_A_TIME,
                limit=ROWS,
                sources=own_sources[name],
            ),
            [name],
        )[name]
        for name in asked
    }
    found: dict[str, dict[str, float]] = {name: {} for name in asked}
    for source in sources.rows():
        if of := [name for name in asked if source in foreign[name]]:
            there = features(sources.pictures(source, "train", _AT_A_TIME, limit=ROWS), of)
            for name in of:
                found[name][source] = feature_distance(own[name], there[name])
    live.to("cpu")  # training with a cache does not need them there
    return found


def _pooled(output: TeacherOutput) -> Tensor:
    """[R, D] on the host: hidden features, or the logits of a teacher that gives none, as means over their pixels."""
    features = list(output.hidden.values()) or [output.logits]
    return torch.cat(
        [value.float().flatten(2).mean(2) if value.ndim > 2 else value for value in features], 1
    ).cpu()


def _in_words(task: str, weights: Mapping[str, float], distances: Mapping[str, float]) -> str:
    named = ", ".join(
        f"{source} {weight:g} (distance {distances[source]:.1f})" for source, weight in weights.items()
    )
    return f"teacher_weight of {task}: {named} (auto: these pictures are unlike the teacher's own)"
