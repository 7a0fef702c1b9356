"""All target providers of a run as one, and the confidence mask between them and the student.

The training loop asks `TargetProviders` alone; it does not know whose answer a target is.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from distill_mtl.data.batch import Batch
from distill_mtl.networks.boxes import from_answer, is_boxes
from distill_mtl.recipe.schema import task_of
from distill_mtl.students.student import Student
from distill_mtl.targets.ensembles import Ensemble
from distill_mtl.targets.provider import TargetProvider, lacks_label
from distill_mtl.targets.self_teacher import SelfTeacher
from distill_mtl.teachers.teacher import Targets


@dataclass(frozen=True)
class Gate:
    """Masks the rows on which a teacher's softmax at T = 1 is not confident enough: a guess teaches nothing.

    Teachers guess far from their own domain. A teacher that is confident and wrong passes every gate.

    Attributes:
        by: `entropy`, as a share in [0, 1] of that of an even guess, may be at most `limit`; `confidence`,
            the largest probability, must be at least that. A map's row has the mean over its pixels; of a detector's
            boxes the strongest one's score counts, which is all that it says about how sure it is.
        limit: in [0, 1].
        known: positions of the classes that the teacher knows; None: all.
    """

    by: Literal["entropy", "confidence"]
    limit: float
    known: tuple[int, ...] | None = None

    def masked(self, logits: Tensor) -> Tensor:
        """bool [R], the rows that teach nothing, from the teacher's logits [R, classes, ...]."""
        if is_boxes(logits):
            score = from_answer(logits)[1].amax(1)
            entropy = (torch.special.entr(score) + torch.special.entr(1 - score)) / math.log(2)
            return ~(score >= self.limit) if self.by == "confidence" else ~(entropy <= self.limit)
        if self.known is not None:
            logits = logits[:, list(self.known)]
        probabilities = logits.float().softmax(1)
        # Negated comparisons, so that answers that are not numbers are masked.
        if self.by == "confidence":
            return ~(_by_row(probabilities.amax(1)) >= self.limit)
        # A teacher of a single class has an entropy of 0.
        even = math.log(max(2, probabilities.shape[1]))
        return ~(_by_row(torch.special.entr(probabilities).sum(1)) / even <= self.limit)


class TargetProviders:
    """Teachers and self-teachers, no task taught by both.

    A task with several teachers has a target for each of its ensembles, by the name of its first teacher. On each row
    the weights of those that are asked there sum to 1, so that the loss of a row is the weighted mean over them.

    Args:
        teachers: frozen networks, or what was cached of them.
        self_teachers: the student as it was, one for each way of keeping it.
        gates: task -> which of its teachers' rows are masked; none where no gate is named.
        weights: name of a teacher -> float32 [sources], of what it says about rows of each; rows of weight 0 get no
            target. 1 where a teacher is not named.
        ensembles: task -> its ensembles, for tasks with several teachers.
        annealed: task -> steps in which the weight of targets for rows with its label falls from 1 to 0, in a line;
            0: they have none. Where a task is not named it stays 1.
    """

    def __init__(
        self,
        teachers: TargetProvider,
        self_teachers: Sequence[SelfTeacher] = (),
        gates: Mapping[str, Gate] | None = None,
        weights: Mapping[str, Tensor] | None = None,
        ensembles: Mapping[str, Sequence[Ensemble]] | None = None,
        annealed: Mapping[str, float] | None = None,
    ) -> None:
        self.teachers, self.self_teachers, self.gates = teachers, tuple(self_teachers), dict(gates or {})
        self.weights = dict(weights or {})
        self.ensembles = dict(ensembles or {})
        self.annealed, self._step = dict(annealed or {}), 0

    @property
    def several(self) -> list[str]:
        """The teachers of tasks with several."""
        return [name for of_task in self.ensembles.values() for one in of_task for name in one.names]

    def begin(self, step: int, student: Student) -> None:
        """Before step `step`, counted from 0: update the self-teachers that are due, anneal the targets."""
        self._step = step
        for teacher in self.self_teachers:
            teacher.begin(step, student)

    def rows(self, batch: Batch, tasks: Collection[str]) -> dict[str, Tensor]:
        """Teacher -> int64 [R], the rows with its target, known before any network runs.

        Teachers of one ensemble have the same rows.

        Args:
            batch: on the host.
            tasks: those whose loss uses a teacher's answer in this step.
        """
        offered = self.teachers.rows(batch)
        for teacher in self.self_teachers:
            offered |= teacher.rows(batch)
        heard = {name: self._heard(name, rows, batch) > 0 for name, rows in offered.items()}
        for ensemble in (one for of_task in self.ensembles.values() for one in of_task):
            members = [name for name in ensemble.names if name in heard]
            together = torch.stack([heard[name] for name in members]).any(0) if members else None
            heard |= {name: together for name in members if together is not None}
        return {
            name: rows if bool(heard[name].all()) else rows[heard[name]]
            for name, rows in offered.items()
            if task_of(name) in tasks
        }

    def __call__(
        self, batch: Batch, rows: Mapping[str, Tensor], temperatures: Mapping[str, float] | None = None
    ) -> Targets:
        """The targets of a batch.

        A masked row stays in its target: how many rows a mean runs over is agreed between processes before any
        network has run, and waiting for the answers would cost a second reduction in every step.

        Args:
            batch: on the device of the student.
            rows: what `rows` gave for it.
            temperatures: task -> at which the answers of several teachers are averaged; default: 1.
        """
        wanted = {task: mine for task, mine in rows.items() if len(mine)}
        targets = self.teachers(batch, wanted)
        for teacher in self.self_teachers:
            mine = {task: wanted[task] for task in teacher.tasks if task in wanted}
            if mine:
                targets |= teacher.ask(batch.images, mine)
        for task, ensembles in self.ensembles.items():
            at = (temperatures or {}).get(task, 1.0)
            targets |= self._ensembles(task, ensembles, batch, wanted, targets, at)
            for name in (name for one in ensembles for name in one.names[1:]):
                targets.pop(name, None)
        for task, gate in self.gates.items():
            if task in targets and task not in self.ensembles:
                masked = gate.masked(targets[task].output.logits)
                targets[task] = replace(targets[task], masked=masked)
        for name in targets:
            task = task_of(name)
            if (name in self.weights or task in self.annealed) and task not in self.ensembles:
                of_rows = self._heard(name, wanted[name], batch).to(batch.images.device, non_blocking=True)
                targets[name] = replace(targets[name], weights=of_rows)
        return targets

    def _heard(self, name: str, rows: Tensor, batch: Batch) -> Tensor:
        """float32 [R]: the weight of what a teacher says about rows, by their data set, and less beside a label."""
        weights = self.weights[name][batch.source[rows]] if name in self.weights else torch.ones(len(rows))
        if (steps := self.annealed.get(task_of(name))) is None:
            return weights
        beside = max(0.0, 1 - self._step / steps) if steps else 0.0
        alone = lacks_label(batch, name, self.teachers.known.get(name))[rows]
        return torch.where(alone, weights, weights * beside)

    def _ensembles(
        self,
        task: str,
        ensembles: Sequence[Ensemble],
        batch: Batch,
        rows: Mapping[str, Tensor],
        targets: Targets,
        temperature: float,
    ) -> Targets:
        """The targets of a task with several teachers: one of each ensemble, by its first teacher."""
        asked = [one for one in ensembles if one.names[0] in targets]
        everyone = torch.zeros(len(batch))
        for one in asked:
            everyone[rows[one.names[0]]] += one.loudness.sum()
        found: Targets = {}
        for one in asked:
            first, device = one.names[0], batch.images.device
            mine, members = rows[first], [targets[name] for name in one.names]
            loudness = one.loudness[:, None] * torch.stack(
                [self._heard(name, mine, batch) for name in one.names]
            )
            outputs = [member.output for member in members]
            target = replace(
                targets[first],
                output=one.together(outputs, loudness, temperature),
                weights=(loudness.sum(0) / everyone[mine]).to(device, non_blocking=True),
            )
            if task in self.gates:
                plain = one.average([output.logits for output in outputs], loudness, 1.0)
                masked = replace(self.gates[task], known=one.known).masked(plain)
                target = replace(target, masked=masked)
            found[first] = target
        return found

    def state_dict(self) -> list[dict[str, Any]]:
        """What a checkpoint keeps: the self-teachers."""
        return [teacher.state_dict() for teacher in self.self_teachers]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Continue from `state_dict`."""
        for teacher, kept in zip(self.self_teachers, state, strict=True):
            teacher.load_state_dict(kept)


def _by_row(values: Tensor) -> Tensor:
    return values if values.ndim == 1 else values.flatten(1).mean(1)
