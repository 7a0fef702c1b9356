"""A whole cache, every sidecar checked against the plan, and where each training row stands in it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from distill_mtl.data.batch import Integers
from distill_mtl.data.source import Source
from distill_mtl.errors import CacheError
from distill_mtl.targets.identity import differences
from distill_mtl.targets.places import Places
from distill_mtl.targets.plan import BOXES, FLIPS, Unit, Wanted
from distill_mtl.targets.sidecar import Sidecar, hash_of

_SHOWN = 3


class OpenCache:
    """The sidecars of a plan, opened.

    Args:
        units: the plan.
        sources: that it was made for.
        places: of the sidecars.

    Attributes:
        views: of each row.
        size: of all files in bytes.

    Raises:
        CacheError: sidecars are missing, stale, cut or foreign; the message says for each teacher which and
            why.
    """

    def __init__(self, units: Sequence[Unit], sources: Sequence[Source], places: Places) -> None:
        self._files = _open_all(units, places)
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


def check_sidecar(wanted: Wanted, places: Places) -> Sidecar:
    """The sidecar that a plan wants, opened.

    Raises:
        CacheError: a clause that says why there is none.
    """
    path = places.find(wanted.shard.path, wanted.task, wanted.fingerprint)
    if path is None:
        raise CacheError(_why_missing(wanted, places))
    sidecar = Sidecar(path)
    different = differences(sidecar.metadata, wanted.identity, wanted.codec.facts)
    if different:
        raise CacheError(f"{path}: {'; '.join(different)}")
    if sidecar.tensors != wanted.tensors:
        raise CacheError(f"{path} does not hold the tensors that its header promises")
    return sidecar


def _open_all(units: Sequence[Unit], places: Places) -> dict[str, list[Sidecar]]:
    files: dict[str, list[Sidecar]] = {task: [] for task in units[0].files}
    problems: dict[str, list[str]] = defaultdict(list)
    for unit in units:
        for task, wanted in unit.files.items():
            try:
                files[task].append(check_sidecar(wanted, places))
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


def _why_missing(wanted: Wanted, places: Places) -> str:
    """What differs in the sidecar that comes nearest, or that there is none."""
    shard = wanted.shard.path
    candidates = []
    for path in places.all(shard, wanted.task):
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
            f"tasks.{task}.teacher: the cached targets of {len(found)} of {shards} shards cannot be used:"
        )
        lines += [f"  {problem}" for problem in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"  and {len(found) - _SHOWN} more")
    lines.append(
        "Write what is missing with `distill-mtl cache` and the same recipe and --set, or train with "
        "`targets: live`."
    )
    return "\n".join(lines)
