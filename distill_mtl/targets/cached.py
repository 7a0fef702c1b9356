"""Targets read from a cache, which training uses in place of running teachers.

`OpenCache` checks every sidecar against the plan and finds rows in them, `CachedTargets` provides them as targets,
`StoredViews` shows the student the views that the teachers saw. `cached_facts` begins a run without opening a network.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill_mtl.data.augmentation import ChooseView, TrainingViews
from distill_mtl.data.batch import ALONE, Batch, Integers, ProcessShare
from distill_mtl.data.shard_files import find_shards
from distill_mtl.data.source import Source
from distill_mtl.errors import CacheError, UserError
from distill_mtl.geometry.views import Size, View
from distill_mtl.networks.opening import find_network
from distill_mtl.networks.weights import read_score, sha256
from distill_mtl.recipe.schema import Recipe, TaskSection, task_of, teacher_keys, teacher_place
from distill_mtl.targets.encoding import AnswerCodec
from distill_mtl.targets.facts import TeacherFacts
from distill_mtl.targets.plan import BOXES, FLIPS, TEACHER, SidecarFolders, Unit, Wanted, differences
from distill_mtl.targets.provider import Rows, TargetProvider
from distill_mtl.targets.sidecar import Sidecar, hash_of
from distill_mtl.tasks.base import output_options_in
from distill_mtl.teachers.load_teacher import teacher_fingerprint, united_classes
from distill_mtl.teachers.teacher import TeacherOutput

_SHOWN = 3


class OpenCache:
    """The sidecars of a plan, opened.

    Args:
        units: the plan.
        sources: that it was made for.
        folders: where sidecars lie.

    Attributes:
        views: of each row.
        size: of all files in bytes.

    Raises:
        CacheError: sidecars are missing, stale, cut or foreign; the message says for each teacher which and
            why.
    """

    def __init__(self, units: Sequence[Unit], sources: Sequence[Source], folders: SidecarFolders) -> None:
        self._files = _open_all(units, folders)
        self.views = next(iter(units[0].files.values())).views
        self.size = sum(file.size for files in self._files.values() for file in files)
        self._first_row = np.cumsum([0, *map(len, sources)])
        self._unit = np.full(self._first_row[-1], -1, np.int32)
        self._place = np.zeros(self._first_row[-1], np.int64)
        for number, unit in enumerate(units):
            rows = self._first_row[unit.source] + unit.shard.rows
            self._unit[rows], self._place[rows] = number, np.arange(len(rows))

    @property
    def tasks(self) -> list[str]:
        """Whose teachers are cached."""
        return list(self._files)

    def score(self, task: str) -> str | None:
        """What the task's teacher scored in the check before its first sidecar was written: "93.40 accuracy"."""
        return self._files[task][0].metadata.get("made.score")

    def precision(self, task: str) -> str:
        """In which the task's teacher answered: fp32, bf16 or fp16."""
        return self._files[task][0].metadata.get("made.precision", "fp32")

    def find(self, task: str, source: int, row: int) -> tuple[Sidecar, int]:
        """The sidecar that a training row stands in, and its position there."""
        number = self._first_row[source] + row
        return self._files[task][self._unit[number]], int(self._place[number])

    def rows(
        self, task: str, names: Sequence[str], source: Integers, row: Integers, view: Integers
    ) -> dict[str, NDArray]:
        """Tensors of some rows, each under its view: name -> [R, ...].

        Args:
            task: whose teacher answers.
            names: of the tensors.
            source, row, view: int64 [R], training rows alone.
        """
        numbers = self._first_row[source] + row
        units, places = self._unit[numbers], self._place[numbers]
        if (units < 0).any():
            raise ValueError("only training rows are cached")
        where = list(zip(units.tolist(), places.tolist(), view.tolist(), strict=True))
        files, first = self._files[task], self._files[task][0].tensors
        found = {name: np.empty((len(row), *first[name].shape[2:]), first[name].dtype) for name in names}
        # Row by row: in random order among a thousand shards nearly every row has a file of its own, and a
        # numpy look-up of one row takes a tenth of the time of one of several.
        for name, rows in found.items():
            for number, (unit, place, turn) in enumerate(where):
                rows[number] = files[unit].array(name)[place, turn]
        return found


class CachedTargets(TargetProvider):
    """What teachers said about the rows of a batch, under the very views that its images show.

    It lives in the process that trains and looks rows up by their numbers, wherever they were read.

    Args:
        cache: opened; the batches must come from its own views.
        codecs: name of a teacher -> how its answers are kept.
        on: which rows of a batch are looked up.

    Attributes:
        cache: the opened one.
    """

    def __init__(self, cache: OpenCache, codecs: dict[str, AnswerCodec], on: Rows = "missing") -> None:
        super().__init__({name: codec.facts.card.known for name, codec in codecs.items()}, on)
        self.cache, self._codecs = cache, codecs

    def ask(self, task: str, batch: Batch, rows: Tensor | None = None) -> TeacherOutput:
        source, row, view = (
            (column if rows is None else column[rows]).numpy()
            for column in (batch.source, batch.row, batch.view)
        )
        if len(view) and view.min() < 0:
            raise ValueError("the batch was seen under fresh views, for which nothing is cached")
        codec = self._codecs[task]
        stored = self.cache.rows(task, list(codec.slots), source, row, view)
        return codec.decode(stored, batch.images.device)

    def to(self, device: torch.device | str) -> "CachedTargets":
        return self


class StoredViews(TrainingViews):
    """Views as a cache recorded them, rather than drawn again.

    Args:
        cache: opened.
    """

    def __init__(self, cache: OpenCache) -> None:
        self.count = cache.views
        self._cache = cache

    def choose(self, number: int, rows: Integers, turns: Integers) -> ChooseView:
        turn = turns.tolist()

        def choose(place: int, row: int, picture: Size) -> View:
            return self._view(number, row, turn[place])

        return choose

    def _view(self, source: int, row: int, turn: int) -> View:
        file, position = self._cache.find(self._cache.tasks[0], source, row)
        top, left, height, width = file.array(BOXES)[position, turn].tolist()
        if not height:
            raise CacheError(
                f"{file.path}: the picture of row {position} could not be decoded when it was cached, and now it "
                "can. Delete the file and run `distill-mtl cache` again."
            )
        return View(top, left, height, width, bool(file.array(FLIPS)[position, turn]))


def check_sidecar(wanted: Wanted, folders: SidecarFolders) -> Sidecar:
    """The sidecar that a plan wants, opened.

    Raises:
        CacheError: a clause that says why there is none.
    """
    path = folders.find(wanted.shard.path, task_of(wanted.teacher), wanted.fingerprint)
    if path is None:
        raise CacheError(_why_missing(wanted, folders))
    sidecar = Sidecar(path)
    different = differences(sidecar.metadata, wanted.identity, wanted.codec.facts)
    if different:
        raise CacheError(f"{path}: {'; '.join(different)}")
    if sidecar.tensors != wanted.tensors:
        raise CacheError(f"{path} does not hold the tensors that its header promises")
    return sidecar


def cached_facts(
    recipe: Recipe, tasks: Iterable[str], *, local: ProcessShare = ALONE
) -> Mapping[str, TeacherFacts] | None:
    """Teacher -> its facts; None where a sidecar of some teacher as it is now is not found.

    Whether the cache as a whole can be used is looked at later, when the data is open.

    Args:
        recipe: as loaded.
        tasks: those with a teacher.
        local: this process among those of this machine, which share the fetching of shards.
    """
    if recipe.targets.from_ == "live" or recipe.training.teachers_on == "none":
        return None
    if any(source.store is not None for source in recipe.data.values()):
        return None  # their sidecars are looked for in the bucket, when the data is open
    found: dict[str, TeacherFacts] = {}
    try:
        shards = [
            shard.path
            for name, source in recipe.data.items()
            if source.shards is not None
            for shard in find_shards(source.shards, f"data.{name}.shards", local=local)
        ]
        for task in tasks:
            section = recipe.tasks[task]
            names = teacher_keys(task, len(section.networks))
            of_task = _facts_of_task(section, task, shards)
            if of_task is None:
                return None
            found |= dict(zip(names, of_task, strict=True))
    except (OSError, UserError):
        return None  # opening data and teachers says it better
    return found


def _open_all(units: Sequence[Unit], folders: SidecarFolders) -> dict[str, list[Sidecar]]:
    files: dict[str, list[Sidecar]] = {task: [] for task in units[0].files}
    problems: dict[str, list[str]] = defaultdict(list)
    for unit in units:
        for task, wanted in unit.files.items():
            try:
                files[task].append(check_sidecar(wanted, folders))
            except CacheError as error:
                problems[task].append(str(error))
    if problems:
        raise CacheError(_report(problems, len(units)))
    for unit, together in zip(units, zip(*files.values(), strict=True), strict=True):
        _refuse_other_views(unit, together)
    return files


def _refuse_other_views(unit: Unit, together: Sequence[Sidecar]) -> None:
    """One view per row and turn, or a student would see another picture than its teachers did."""
    hashes = {tuple(file.metadata.get(hash_of(name)) for name in (BOXES, FLIPS)) for file in together}
    if len(hashes) > 1:
        raise CacheError(
            f"the cached targets of {unit.shard.path} were written under different views, by different versions of "
            f"the program: {', '.join(str(file.path) for file in together)}. Delete them and run `distill-mtl cache`."
        )


def _why_missing(wanted: Wanted, folders: SidecarFolders) -> str:
    """What differs in the most similar sidecar, or that there is none."""
    shard = wanted.shard.path
    candidates = []
    for path in folders.all(shard, task_of(wanted.teacher)):
        try:
            found = differences(Sidecar(path).metadata, wanted.identity, wanted.codec.facts)
            clauses = found or [f"it should have the name {wanted.name}"]
            candidates.append((len(clauses), f"{path}: {'; '.join(clauses)}"))
        except CacheError as error:
            candidates.append((len(wanted.identity), str(error)))
    return min(candidates)[1] if candidates else f"nothing is cached for {shard}"


def _report(problems: Mapping[str, Sequence[str]], shards: int) -> str:
    lines = []
    for task, found in problems.items():
        lines.append(
            f"{teacher_place(task)}: the cached targets of {len(found)} of {shards} shards cannot be used:"
        )
        lines += [f"  {problem}" for problem in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"  and {len(found) - _SHOWN} more")
    lines.append(
        "Write what is missing with `distill-mtl cache` and the same recipe and --set, or train with "
        "`targets: live`."
    )
    return "\n".join(lines)


def _facts_of_task(section: TaskSection, task: str, shards: Sequence[Path]) -> list[TeacherFacts] | None:
    """The facts of a task's teachers, which must agree on its classes."""
    found = [_facts(section, number, task, shards) for number in range(len(section.networks))]
    if len(found) == 1 or section.classes is not None:
        first = [of_one[0] for of_one in found if of_one]
        return first if len(first) == len(found) else None
    for classes in dict.fromkeys(facts.card.classes for facts in found[0]):
        alike = [[facts for facts in of_one if facts.card.classes == classes] for of_one in found]
        if all(alike) and united_classes([of_one[0].card for of_one in alike]) == classes:
            return [of_one[0] for of_one in alike]
    return None


def _facts(section: TaskSection, number: int, task: str, shards: Iterable[Path]) -> list[TeacherFacts]:
    """The facts of one of a task's teachers as it is now, one for each list of classes that it was cached for."""
    network, found = section.networks[number], dict[tuple[str, ...], TeacherFacts]()
    folders = SidecarFolders()
    kept = [path for shard in shards for path in folders.all(shard, task)]
    if not kept:
        return []  # before large files are hashed
    origin = find_network(network)
    layers = [hint.teacher for hint in section.hints if hint.of in (None, number + 1)]
    options = output_options_in(section.kind, section.options)
    for path in kept:
        try:
            facts = TeacherFacts.from_json(Sidecar(path).metadata[TEACHER])
        except (CacheError, KeyError, ValueError, TypeError):
            continue
        if facts.card.classes in found:
            continue
        # The classes of several teachers are asked of each by name, by number, or not at all.
        asked: list[Sequence[str] | int | None] = [section.classes]
        if len(section.networks) > 1 and section.classes is None:
            asked += [facts.card.classes, len(facts.card.classes)]
        now = [
            teacher_fingerprint(network, origin, layers, classes, section.kind, options) for classes in asked
        ]
        if facts.card.fingerprint in now:
            files = {file: sha256(file) for file in origin.files}
            card = replace(
                facts.card,
                place=origin.place,
                files=files,
                score=read_score(origin.place) or facts.card.score,
            )
            found[card.classes] = replace(facts, card=card)
    return list(found.values())
