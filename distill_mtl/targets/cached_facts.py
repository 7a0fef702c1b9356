"""The facts of teachers as sidecars tell them, so that a run with a cache need not open a network to begin."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from distill_mtl.data.shard_files import find_shards
from distill_mtl.errors import CacheError, UserError
from distill_mtl.networks.weights import read_score, sha256
from distill_mtl.recipe.schema import Recipe, TaskSection
from distill_mtl.targets.facts import TeacherFacts
from distill_mtl.targets.identity import TEACHER
from distill_mtl.targets.places import Places
from distill_mtl.targets.sidecar import Sidecar
from distill_mtl.tasks.base import shaping_options
from distill_mtl.teachers.fingerprint import teacher_fingerprint
from distill_mtl.teachers.origin import find_origin


def cached_facts(
    recipe: Recipe, tasks: Iterable[str], *, local_rank: int = 0, local_world: int = 1
) -> Mapping[str, TeacherFacts] | None:
    """task -> facts of its teacher; None where a sidecar of some teacher as it is now is not found.

    Whether the cache as a whole can be used is looked at later, when the data is open.

    Args:
        recipe: as loaded.
        tasks: those with a teacher.
        local_rank, local_world: this process among those of this machine, which share the fetching of shards.
    """
    if recipe.targets.from_ == "live" or recipe.training.teachers_on == "none":
        return None
    found: dict[str, TeacherFacts] = {}
    try:
        shards = [
            shard.path
            for name, source in recipe.data.items()
            if source.shards is not None
            for shard in find_shards(
                source.shards, f"data.{name}.shards", local_rank=local_rank, local_world=local_world
            )
        ]
        for task in tasks:
            facts = _facts(recipe.tasks[task], task, shards)
            if facts is None:
                return None
            found[task] = facts
    except (OSError, UserError):
        return None  # opening data and teachers says it better
    return found


def _facts(section: TaskSection, task: str, shards: Iterable[Path]) -> TeacherFacts | None:
    assert section.teacher is not None
    places = Places()
    kept = [path for shard in shards for path in places.all(shard, task)]
    if not kept:
        return None  # before large files are hashed
    origin = find_origin(section.teacher, task)
    layers = [hint.teacher for hint in section.hints]
    options = shaping_options(section.kind, section.options)
    now = teacher_fingerprint(section.teacher, origin, layers, section.classes, section.kind, options)
    for path in kept:
        try:
            facts = TeacherFacts.from_json(Sidecar(path).metadata[TEACHER])
        except (CacheError, KeyError, ValueError, TypeError):
            continue
        if facts.card.fingerprint == now:
            files = {file: sha256(file) for file in origin.files}
            card = replace(
                facts.card,
                place=origin.place,
                files=files,
                score=read_score(origin.place) or facts.card.score,
            )
            return replace(facts, card=card)
    return None
