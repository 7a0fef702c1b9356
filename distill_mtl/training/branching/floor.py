"""What the best stage of C channels that a group of tasks shares would leave of each of their teachers.

A shared stage may compute any function of the picture, and each task reads it through a linear map of its own. The
least error in the teachers' features is then what lies outside the first C principal components of all their features,
standardised and side by side, where a direction counts as far as the teacher's answers move with it. These components
are put into the teachers in place of their features: how often they then answer otherwise is what sharing costs a
student that is to have its teachers' features. A student that need not have them may lose less.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_mtl.tasks.base import TaskKind
from distill_mtl.training.branching.depths import Depth
from distill_mtl.training.branching.search import Group
from distill_mtl.training.branching.teacher_features import Seen, TeacherLayers, row_batches

BASIS = 256
"""Directions of each teacher of a group that are kept at least; twice its share of the channels if that is more."""
BOUNDED = 5
"""Largest number of tasks of which no group is estimated: of more there are too many to measure most of them."""
_TIE = 0.1
"""Points that losing all of the features would count where answers do not change: it orders equal trees."""
_EVEN = 0.1
"""Part of a direction's weight that does not depend on the teacher's answers, which a few rows do not tell exactly."""


@dataclass(frozen=True)
class SharedStage:
    """The best stage of C channels for a group.

    Attributes:
        read: task -> [C_t, C], from the teacher's standardised features to its part of the code.
        write: task -> [C, C_t], from the code back.
    """

    read: Mapping[str, Tensor]
    write: Mapping[str, Tensor]


class DepthFeatures:
    """The teachers' features at one depth, standardised, and the best shared stages of any group there.

    Directions of features count as far as the teacher's answers move with them.

    Args:
        depth: of the student.
        seen: task -> features [N, C_t] of the same places.
        sensitivity: task -> [C_t, C_t], see `TeacherLayers.sensitivity`.
    """

    def __init__(self, depth: Depth, seen: Mapping[str, Tensor], sensitivity: Mapping[str, Tensor]) -> None:
        self.channels = depth.shape.channels
        self._mean = {task: places.double().mean(0) for task, places in seen.items()}
        self._into = {task: _root(sensitivity[task]) for task in seen}
        for task, places in seen.items():
            size = ((places.double() - self._mean[task]) @ self._into[task]).pow(2).sum(1).mean().sqrt()
            self._into[task] = self._into[task] / size.clamp(min=1e-12)
        self._basis: dict[str, Tensor] = {}
        """Principal directions [C_t, at most C or `BASIS`] of each teacher's features, the largest last."""
        for task, places in seen.items():
            values = self.standardised(task, places)
            _, vectors = torch.linalg.eigh(values.T @ values)
            self._basis[task] = vectors[:, -max(BASIS, self.channels) :]
        self._codes = {task: self.standardised(task, seen[task]) @ self._basis[task] for task in seen}

    def standardised(self, task: str, features: Tensor) -> Tensor:
        """[N, C_t], weighted, of mean 0 and total variance 1 over the places that the stage was made from."""
        moved = features.double() - self._mean[task].to(features.device)
        return moved @ self._into[task].to(features.device)

    def restored(self, task: str, standardised: Tensor) -> Tensor:
        """The inverse of `standardised`."""
        back = torch.linalg.inv(self._into[task]).to(standardised.device)
        return (standardised @ back + self._mean[task].to(standardised.device)).float()

    def shared(self, group: Group) -> SharedStage:
        """The best stage of the student's width for a group.

        Found among all directions of its teachers, or, where these are many, among the `most` largest of each: the
        rest counts as lost, which can only make sharing dearer than it is.
        """
        most = max(BASIS, 2 * self.channels // len(group))
        stacked = torch.cat([self._codes[task][:, -most:] for task in group], 1)
        _, vectors = torch.linalg.eigh(stacked.T @ stacked)
        components = vectors[:, -self.channels :]
        read, at = {}, 0
        for task in group:
            basis = self._basis[task][:, -most:]
            read[task] = basis @ components[at : at + basis.shape[1]]
            at += basis.shape[1]
        return SharedStage(read, {task: matrix.T for task, matrix in read.items()})

    def through(self, stage: SharedStage, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Task -> its standardised features [N, C_t] as the shared stage gives them back."""
        code = torch.stack([features[t] @ read.to(features[t].device) for t, read in stage.read.items()]).sum(
            0
        )
        return {task: code @ write.to(code.device) for task, write in stage.write.items()}

    def error(self, group: Group, seen: Mapping[str, Tensor]) -> float:
        """Mean over the group of the share of its teachers' features that is lost in these places."""
        features = {task: self.standardised(task, seen[task]) for task in group}
        back = self.through(self.shared(group), features)
        lost = [
            float((features[t] - back[t]).pow(2).sum() / features[t].pow(2).sum().clamp(min=1e-12))
            for t in group
        ]
        return sum(lost) / len(lost)


def _root(sensitivity: Tensor) -> Tensor:
    """The symmetric square root [C, C], to a mean square of 1, of which `_EVEN` is the same for all directions."""
    mean = sensitivity.diagonal().mean().clamp(min=1e-300)
    even = torch.eye(len(sensitivity), dtype=torch.float64)
    values, vectors = torch.linalg.eigh((1 - _EVEN) * sensitivity / mean + _EVEN * even)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


class Floors:
    """What groups lose at each depth behind the first, in points of the teachers' agreement with themselves.

    Early features of two networks differ by their random start, which a student need not copy, so that the first
    depth costs nothing here.

    Args:
        depths: of the student.
        teachers: by task, on the device.
        kinds: of the tasks.
        seen: what each teacher sees in the rows that the stages are made from.
        held_out: what each sees in the rows that they are judged by.
        fitted, images: both kinds of rows.
        device: where the teachers are.
    """

    def __init__(
        self,
        depths: Sequence[Depth],
        teachers: Mapping[str, TeacherLayers],
        kinds: Mapping[str, TaskKind],
        seen: Mapping[str, Seen],
        held_out: Mapping[str, Seen],
        fitted: Tensor,
        images: Tensor,
        device: torch.device,
    ) -> None:
        self._depths, self._teachers, self._kinds = depths, teachers, kinds
        self._held_out, self._images, self._device = held_out, images, device
        rows = next(row_batches(fitted, device))
        sensitivity: list[dict[str, Tensor]] = [{} for _ in depths]
        for task, layers in teachers.items():
            with layers.tapped():
                answered = layers.answered(rows)
                for k in range(len(depths)):
                    sensitivity[k][task] = layers.sensitivity(rows, k, answered)
        self._stages = [
            DepthFeatures(depth, {task: of.places[k] for task, of in seen.items()}, sensitivity[k])
            for k, depth in enumerate(depths)
        ]
        self._errors: dict[tuple[int, Group], float] = {}
        self._losses: dict[tuple[int, Group], float] = {}
        self.points: dict[tuple[int, Group], dict[str, float]] = {}

    def error(self, depth: int, group: Group) -> float:
        """Share of the features, mean over the group, that sharing loses beyond what each loses alone."""
        return self._error(depth, group) - sum(self._error(depth, (task,)) for task in group) / len(group)

    def loss(self, depth: int, group: Group) -> float:
        """Points that the group loses by sharing the depth, summed over it and divided by the number of all tasks.

        Of a group that is not measured, among up to `BOUNDED` tasks the most that parts of it lose together: a stage
        that serves the whole group serves its parts at once, so that no less of the features is lost. Among more, the
        share of what all tasks lose, which must be measured, that its error in the features is of theirs.
        """
        if depth == 0 or len(group) == 1:
            return 0.0
        if (depth, group) not in self._losses:
            if (depth, group) in self.points:
                loss = self._priced(depth, group, sum(self.points[depth, group].values()))
            elif len(self._teachers) <= BOUNDED:
                loss = max(self.loss(depth, one) + self.loss(depth, rest) for one, rest in _parted(group))
            else:
                tasks = tuple(self._teachers)
                share = self._spoilt(depth, group) / max(self._spoilt(depth, tasks), 1e-9)
                loss = self._priced(depth, group, min(1.0, share) * sum(self.points[depth, tasks].values()))
            self._losses[depth, group] = loss
        return self._losses[depth, group]

    def _priced(self, depth: int, group: Group, points: float) -> float:
        return (points + _TIE * self._spoilt(depth, group)) / len(self._teachers)

    def _spoilt(self, depth: int, group: Group) -> float:
        """`error`, summed over the group."""
        return max(0.0, self.error(depth, group)) * len(group)

    def measure(self, wanted: Iterable[tuple[int, Group]]) -> None:
        """Find `points` of these depths and groups: what each task loses beyond what it loses alone.

        One pass of the held-out rows through each teacher for each depth and group that it is in.
        """
        groups = [
            (k, group)
            for k, group in dict.fromkeys(wanted)
            if (k, group) not in self.points and len(group) > 1
        ]
        alone = [(k, (task,)) for k, group in groups for task in group]
        alone = [pair for pair in dict.fromkeys(alone) if pair not in self.points]
        shared = {pair: self._stages[pair[0]].shared(pair[1]) for pair in (*alone, *groups)}
        lost: dict[tuple[int, Group], dict[str, list[Tensor]]] = {
            pair: {task: [] for task in pair[1]} for pair in shared
        }
        if not shared:
            return
        self._losses.clear()
        with ExitStack() as stack:
            for layers in self._teachers.values():
                stack.enter_context(layers.tapped())
            for batch in row_batches(self._images, self._device):
                self._agree(batch, shared, lost)
        for pair, of_task in lost.items():
            self.points[pair] = {
                task: 100 * float(1 - torch.cat(parts).mean()) for task, parts in of_task.items()
            }
        for k, group in groups:
            self.points[k, group] = {
                task: max(0.0, found - self.points[k, (task,)][task])
                for task, found in self.points[k, group].items()
            }

    def _agree(
        self,
        batch: Tensor,
        shared: Mapping[tuple[int, Group], SharedStage],
        lost: Mapping[tuple[int, Group], dict[str, list[Tensor]]],
    ) -> None:
        tasks = {task for _, group in shared for task in group}
        answered = {task: self._teachers[task].answered(batch) for task in tasks}
        for (k, group), stage in shared.items():
            at = self._stages[k]
            flat = {task: answered[task].maps[k].movedim(1, -1) for task in group}
            features = {task: at.standardised(task, each.flatten(0, 2)) for task, each in flat.items()}
            back = at.through(stage, features)
            for task in group:
                replaced = at.restored(task, back[task]).unflatten(0, flat[task].shape[:3]).movedim(-1, 1)
                answers = self._teachers[task].answers_with(batch, k, replaced, answered[task])
                lost[k, group][task].append(self._kinds[task].agreement(answered[task].logits, answers))

    def _error(self, depth: int, group: Group) -> float:
        if (depth, group) not in self._errors:
            seen = {task: self._held_out[task].places[depth] for task in group}
            self._errors[depth, group] = self._stages[depth].error(group, seen)
        return self._errors[depth, group]


def _parted(group: Group) -> Iterator[tuple[Group, Group]]:
    """Every way to part a group in two."""
    first, *others = group
    for chosen in range(2 ** len(others) - 1):
        kept = [task for k, task in enumerate(others) if chosen >> k & 1]
        yield (first, *kept), tuple(task for task in others if task not in kept)
