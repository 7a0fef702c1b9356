"""The interface of target providers. Training does not know whether teachers or a cache answer.

Below it: rows of several tasks in one pass of a trunk. Those that any task needs run, and each task takes its own.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from distill_mtl.data.batch import Batch
from distill_mtl.recipe.schema import task_of
from distill_mtl.teachers.teacher import Target, Targets, TeacherOutput

Rows = Literal["missing", "all", "none"]


class TargetProvider(ABC):
    """Answers of teachers, for the rows of a batch that get a target.

    Args:
        known: name of each teacher (`recipe.schema.teacher_keys`) -> positions of the classes that it knows; None: all.
        on: which rows get a target: "missing", those whose label does not tell of all that the teacher knows; "all";
            or "none".

    Attributes:
        names: of the teachers that give targets at all.
    """

    def __init__(self, known: Mapping[str, tuple[int, ...] | None], on: Rows) -> None:
        self.names = () if on == "none" else tuple(known)
        self.known, self.on = dict(known), on

    @abstractmethod
    def ask(self, name: str, batch: Batch, rows: Tensor | None = None) -> TeacherOutput:
        """The answers of a teacher, on the device of the batch's images.

        Args:
            name: one of `names`.
            batch: with the rows.
            rows: int64 [R] on the host, ascending positions in the batch; None: every row.
        """

    @abstractmethod
    def to(self, device: torch.device | str) -> "TargetProvider":
        """Move whatever takes room on a device to `device`."""

    def rows(self, batch: Batch) -> dict[str, Tensor]:
        """Teacher -> int64 [R], the rows that get its target, known before a network runs."""
        return rows_with_target(batch, {name: self.known[name] for name in self.names}, self.on)

    def __call__(self, batch: Batch, rows: Mapping[str, Tensor] | None = None) -> Targets:
        """The targets of a batch that is on the device of the student.

        Args:
            batch: with the rows.
            rows: teacher -> rows that get its target; default: all that `rows` gives. Those of other providers are
                left out.
        """
        wanted = self.rows(batch) if rows is None else rows
        mine = {name: of_one for name, of_one in wanted.items() if name in self.names and len(of_one)}
        outputs = self._answers(batch, mine)
        device = batch.images.device
        return {
            name: Target(of_one.to(device, non_blocking=True), outputs[name], known=self.known[name])
            for name, of_one in mine.items()
        }

    def _answers(self, batch: Batch, rows: Mapping[str, Tensor]) -> dict[str, TeacherOutput]:
        """The answers about at least one row for each teacher."""
        return {
            name: self.ask(name, batch, None if len(mine) == len(batch) else mine)
            for name, mine in rows.items()
        }


def rows_with_target(
    batch: Batch, known: Mapping[str, tuple[int, ...] | None], on: Rows
) -> dict[str, Tensor]:
    """Teacher -> int64 [R], the rows of a batch that get its target.

    Args:
        batch: on the host.
        known: name of each teacher, or a task without a network -> the classes that it knows.
        on: as in `TargetProvider`.
    """
    if on == "none":
        return {}
    everything = torch.arange(len(batch))
    if on == "all":
        return dict.fromkeys(known, everything)
    return {name: everything[lacks_label(batch, name, classes)] for name, classes in known.items()}


def lacks_label(batch: Batch, name: str, classes: tuple[int, ...] | None) -> Tensor:
    """bool [B]: the rows whose label does not tell of all that a teacher knows.

    Args:
        batch: on the host.
        name: of the teacher, or a task without a network.
        classes: that it knows; None: all.
    """
    task = task_of(name)
    return ~batch.labelled[task] | batch.left_open(task, classes)


def union_of(rows: Mapping[str, Tensor]) -> Tensor:
    """int64 [U]: the rows that some task needs, ascending; task -> int64 [R], ascending, on the host."""
    return next(iter(rows.values())) if len(rows) == 1 else torch.cat(list(rows.values())).unique()


def seen(images: Tensor, union: Tensor) -> Tensor:
    """[U, ...]: the images [B, ...] of these rows."""
    return images if len(union) == len(images) else images[union.to(images.device, non_blocking=True)]


def only(features: Mapping[str, Tensor], union: Tensor, rows: Tensor) -> Mapping[str, Tensor]:
    """What came out of the pass, first dimension U, for some of its rows."""
    if len(rows) == len(union):
        return features
    places = torch.searchsorted(union, rows)
    return {name: value[places.to(value.device, non_blocking=True)] for name, value in features.items()}
