"""Slices of the test rows: which rows each has, and how student and teacher do on them.

A mean hides a loss on few of the rows, such as those taken at night. Rules of the recipe name slices; without them each
word that rows carry in `slice.json` is one. A slice is scored from the statistics of its rows, as the whole is, so that
mIoU and mean average precision are those of the slice and no mean of rows. Called by `compare_networks`.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from scipy.special import stdtr
from torch import Tensor

from distill_mtl.data.source import RowMembers
from distill_mtl.errors import ShardError, UserError, a_few, nearest
from distill_mtl.evaluation.bootstrap import interval_of, unseen_difference
from distill_mtl.evaluation.few_labels.result import LabelledSlice, LabelledTask
from distill_mtl.evaluation.mcnemar import mcnemar
from distill_mtl.evaluation.result import SliceResult, TaskResult
from distill_mtl.evaluation.row_statistics import RowStatistics, resampled_deltas
from distill_mtl.reading import loads
from distill_mtl.recipe.schema import task_of
from distill_mtl.recipe.slices import Condition, Value, read_rules
from distill_mtl.splits import Split
from distill_mtl.tasks.base import TaskKind

Result = TypeVar("Result", TaskResult, LabelledTask)

MEMBER = "slice.json"
"""Of a row: an object with words, numbers, true or false, or lists of them, by field."""
FEWEST = 20
"""Groups of rows from which a slice is scored: an interval over fewer says nothing of rows that were not seen."""
_MOST_WORDS, _LONGEST_WORD = 24, 100
_OF_EVERY_ROW = ("key", "source", "group")

Rows = Mapping[str, frozenset[str]]
"""Slice -> keys of its rows."""


class NoSuchField(UserError):
    """A rule names a field that no row has.

    Attributes:
        slice: of the rule.
    """

    def __init__(self, slice: str, text: str) -> None:
        super().__init__(text)
        self.slice = slice


class SlicedRows(Protocol):
    """Rows that may be in slices: of data sets (`LabelledRows`), or pictures without labels."""

    @property
    def endings(self) -> Collection[str]:
        """The members that rows have."""

    def members(self, task: str, split: Split | None, members: Collection[str]) -> Iterable[RowMembers]:
        """What the rows of a task carry in some members."""


@dataclass(frozen=True)
class Slices:
    """The slices that are asked for.

    Attributes:
        rules: slice -> conditions, all of which its rows fulfil; None: each word that rows carry.
    """

    rules: Mapping[str, Sequence[Condition]] | None = None

    @classmethod
    def of(cls, rules: Mapping[str, str | Sequence[str]] | None) -> "Slices":
        """From `evaluation.slices`.

        Raises:
            ValueError: a rule cannot be read.
        """
        return cls(None if rules is None else read_rules(rules))

    def rows(self, sources: SlicedRows, tasks: Iterable[str], split: Split | None) -> dict[str, Rows]:
        """By task the keys of each slice's rows among those that are labelled for it; no picture is read.

        A slice without rows of a task is left out there, unless no task has any.

        Raises:
            UserError: no row of any task has a field that a rule names.
            ShardError: a row's slice.json, or a member that a rule names, cannot be read.
        """
        fields = _Fields(frozenset(sources.endings))
        if self.rules is None:
            if MEMBER not in fields.endings:
                return {}
            return {task: _by_word(sources.members(task, split, [MEMBER])) for task in tasks}
        if not self.rules:
            return {}
        asked = {condition.field for each in self.rules.values() for condition in each}
        members = fields.members(asked)
        found = {task: self._by_rule(fields, sources.members(task, split, members), asked) for task in tasks}
        for name, conditions in self.rules.items():
            for condition in conditions:
                if condition.field not in fields.seen:
                    raise fields.lacks(name, condition.field)
        empty = {name for name in self.rules if not any(rows[name] for rows in found.values())}
        return {
            task: {name: keys for name, keys in rows.items() if keys or name in empty}
            for task, rows in found.items()
        }

    def _by_rule(self, fields: "_Fields", rows: Iterable[RowMembers], asked: Collection[str]) -> Rows:
        assert self.rules is not None
        found: dict[str, set[str]] = {name: set() for name in self.rules}
        for row in rows:
            values = fields.values(row, asked)
            for name, conditions in self.rules.items():
                if all(condition.holds(values[condition.field]) for condition in conditions):
                    found[name].add(row.key)
        return {name: frozenset(keys) for name, keys in found.items()}


def slice_margins(
    given: Mapping[str, float | Mapping[str, float]], rows: Mapping[str, Rows]
) -> dict[str, dict[str, float]]:
    """Slice -> task -> margin: one number is for every task that has rows of the slice.

    Args:
        given: of the recipe.
        rows: task -> its slices; of a task with several teachers also by the name of each.

    Raises:
        UserError: there is no such slice.
    """
    there = sorted({name for of_task in rows.values() for name in of_task})
    found: dict[str, dict[str, float]] = {}
    for name, margin in given.items():
        if name not in there:
            known = f"Slices: {a_few(there, 20)}." if there else "Name slices in `evaluation.slices`."
            raise UserError(
                f"acceptance.slices.{name}: there is no such slice.{nearest(name, there)} {known}"
            )
        tasks = [task for task, of_task in rows.items() if name in of_task]
        if isinstance(margin, Mapping):
            found[name] = {task: margin[task_of(task)] for task in tasks if task_of(task) in margin}
        else:
            found[name] = dict.fromkeys(tasks, margin)
    return found


class _Fields:
    """Where the fields of rows are found.

    Args:
        endings: the members that rows have.

    Attributes:
        seen: fields that were asked for and found.
        carried: fields of the rows' slice.json.
    """

    def __init__(self, endings: frozenset[str]) -> None:
        self.endings = endings
        self.seen, self.carried = set[str](), set[str]()

    def members(self, fields: Iterable[str]) -> list[str]:
        """The members that must be read for some fields."""
        named = {_member(field)[0] for field in fields}
        return sorted((named | {MEMBER}) & self.endings)

    def values(self, row: RowMembers, fields: Iterable[str]) -> dict[str, list[Value]]:
        """What the row has in fields: of its own, of its slice.json, a member's text, or MEMBER:NAME of a member."""
        carried = carried_by(row)
        self.carried.update(carried)
        found = {field: _in_field(row, carried, field) for field in fields}
        self.seen.update(field for field, values in found.items() if values)
        return found

    def lacks(self, name: str, field: str) -> NoSuchField:
        """The error of a rule whose field no row has."""
        known = [*_OF_EVERY_ROW, *sorted(self.carried)]
        members = sorted(self.endings)
        return NoSuchField(
            name,
            f"evaluation.slices.{name}: no row has a field or member '{field}'.{nearest(field, [*known, *members])} "
            f"Fields: {a_few(known, 20)}." + (f" Members: {a_few(members, 20)}." if members else ""),
        )


def carried_by(row: RowMembers) -> dict[str, list[Value]]:
    """The fields of the row's slice.json."""
    content = _object(row, MEMBER) if MEMBER in row.members else {}
    return {name: _values(value) for name, value in content.items()}


def _in_field(row: RowMembers, carried: Mapping[str, list[Value]], field: str) -> list[Value]:
    own = {"key": row.name, "source": row.source}
    if field in own:
        return [own[field]]
    if field == "group" and field not in row.members:
        return [row.key]
    if field in carried and field != "group":
        return carried[field]
    member, inner = _member(field)
    if member not in row.members:
        return []
    if inner:
        return _values(_object(row, member).get(inner))
    return [row.members[member].decode(errors="replace").strip()]


def _member(field: str) -> tuple[str, str]:
    """The member that a field stands in, and its name there; empty for the member itself."""
    member, _, inner = field.partition(":")
    return member.lower(), inner


def _object(row: RowMembers, member: str) -> dict[str, Any]:
    try:
        content = loads(row.members[member])
    except ValueError as error:
        raise ShardError(f"{row.key}, member {member}: it is not JSON ({error}).") from None
    if not isinstance(content, dict):
        raise ShardError(
            f'{row.key}, member {member}: expected an object such as {{"weather": "rain"}}, found '
            f"{str(content)[:60]}."
        )
    return content


def _values(value: Any) -> list[Value]:
    """The words and numbers of an entry; what else JSON knows is none."""
    listed = value if isinstance(value, list) else [value]
    return [each for each in listed if isinstance(each, Value)]


def _by_word(rows: Iterable[RowMembers]) -> Rows:
    """A slice for each word of each field, where they are more than one and few."""
    found: dict[str, dict[str, set[str]]] = {}
    for row in rows:
        for field, values in carried_by(row).items():
            for value in values:
                if isinstance(value, bool) or (isinstance(value, str) and len(value) <= _LONGEST_WORD):
                    word = str(value).lower() if isinstance(value, bool) else value
                    found.setdefault(field, {}).setdefault(word, set()).add(row.key)
    return {
        f"{field}={word}": frozenset(keys)
        for field, words in sorted(found.items())
        if 1 < len(words) <= _MOST_WORDS
        for word, keys in sorted(words.items())
    }


def score_slices(
    kind: TaskKind, rows: RowStatistics, slices: Rows, *, resamples: int, seed: int
) -> tuple[SliceResult, ...]:
    """Scores, difference, interval and p of each slice, before p is corrected for their number.

    p is that of McNemar's test where the score is a share of right rows, which is exact for few rows; else of a t test
    of the difference by the standard deviation of its resamples (Efron & Tibshirani 1993, section 12.2), with as many
    degrees of freedom as there are groups, less one.

    Args:
        kind: of the task.
        rows: of the whole set.
        slices: keys of their rows.
        resamples, seed: of the bootstrap.
    """
    return tuple(
        _score(
            name,
            kind,
            _only(rows, [place for place, key in enumerate(rows.keys) if key in keys]),
            resamples,
            seed,
        )
        for name, keys in slices.items()
    )


def _only(rows: RowStatistics, places: Sequence[int]) -> RowStatistics:
    """Some of the rows."""
    kept = torch.tensor(places, dtype=torch.long)
    return RowStatistics(
        keys=[rows.keys[place] for place in places],
        groups=[rows.groups[place] for place in places],
        student=rows.student[kept],
        teacher=None if rows.teacher is None else rows.teacher[kept],
        agreement=None if rows.agreement is None else rows.agreement[kept],
    )


def _score(name: str, kind: TaskKind, rows: RowStatistics, resamples: int, seed: int) -> SliceResult:
    groups = len(set(rows.groups))
    found = SliceResult(name=name, rows=len(rows.keys), groups=groups)
    if groups < FEWEST:
        return found
    student = float(kind.score(rows.student))
    teacher = None if rows.teacher is None else float(kind.score(rows.teacher))
    if not math.isfinite(student) or (teacher is not None and not math.isfinite(teacher)):
        return found  # none of the classes has a label here
    found = replace(found, student=student)
    if teacher is None:
        return found
    sign = 1 if kind.higher_is_better else -1
    deltas = resampled_deltas(kind, rows, resamples=resamples, seed=seed)
    assert deltas is not None
    deltas = deltas[deltas.isfinite()]  # a resample may leave out the only row with a class
    delta = sign * (student - teacher)
    ends = interval_of(deltas, groups) if len(deltas) else None
    if ends == (0.0, 0.0) and kind.in_points:
        ends = unseen_difference(len(rows.keys))
    return replace(found, teacher=teacher, delta=delta, ci95=ends, p=_p(kind, rows, delta, deltas, groups))


def _p(kind: TaskKind, rows: RowStatistics, delta: float, deltas: Tensor, groups: int) -> float:
    """Of so large a difference, on either side, between networks that are alike on the rows of this slice."""
    assert rows.teacher is not None
    student, teacher = kind.correct_rows(rows.student), kind.correct_rows(rows.teacher)
    if student is not None and teacher is not None:
        return mcnemar(student, teacher, rows.groups).p
    # Resamples vary by a variance over n groups where n - 1 is right.
    error = float(deltas.std()) * math.sqrt(groups / (groups - 1)) if len(deltas) > 1 else 0.0
    if error == 0:
        return 1.0
    return float(2 * stdtr(groups - 1, -abs(delta) / error))


def corrected(results: Mapping[str, Result]) -> dict[str, Result]:
    """The results with p of all slices of all tasks corrected for their number, worst slices first."""
    adjusted = _holm(
        {
            (task, each.name): each.p
            for task, result in results.items()
            for each in result.slices
            if each.p is not None
        }
    )
    return {
        task: replace(
            result,
            slices=tuple(
                sorted(
                    (replace(each, p_holm=adjusted.get((task, each.name))) for each in result.slices),
                    key=_worst_first,
                )
            ),
        )
        for task, result in results.items()
    }


def _holm(values: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """p of (task, slice), corrected for their number.

    Holm (1979, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6(2)):
    with the smallest of n times n, the next times n - 1 and so on, the chance that any slice without a loss is said to
    have one stays below the level, whatever slices have to do with each other.
    """
    adjusted, least = dict[tuple[str, str], float](), 0.0
    for rank, (p, place) in enumerate(sorted((p, place) for place, p in values.items())):
        least = min(1.0, max(least, p * (len(values) - rank)))
        adjusted[place] = least
    return adjusted


def _worst_first(one: SliceResult | LabelledSlice) -> tuple[bool, float, str]:
    """By the difference; without one, at the end by name."""
    return one.delta is None, one.delta or 0.0, one.name
