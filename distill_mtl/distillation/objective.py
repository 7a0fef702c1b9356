"""From a batch to one loss per task: the student's only pass, cut where its tasks part.

The training loop hands `Objective` to `accelerator.prepare` as its one module: student, hint adapters
and the parameters of the balancing rule train together, and only the student leaves the run.
"""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from distill_mtl.balance import Rule, Shared
from distill_mtl.data.batch import Batch
from distill_mtl.distillation.counts import Counts
from distill_mtl.distillation.hints import Hint
from distill_mtl.distillation.loss_config import LossConfig
from distill_mtl.distillation.stages import Stage, only_train
from distill_mtl.students.student import Student
from distill_mtl.tasks.base import Truth
from distill_mtl.teachers.teacher import Target, Targets

Terms = dict[str, Tensor]


class Objective(nn.Module):
    """Student, adapters and rule in one module; forward gives one loss per task.

    Args:
        student: its trunk returns every feature that a head or a hint reads.
        loss_configs: task -> how it is learned, until `begin` says otherwise.
        hints: task -> its adapters, one per pair of the loss_config.
        rule: the balancing rule, here so that its parameters and state are saved with the rest.
    """

    def __init__(
        self,
        student: Student,
        loss_configs: Mapping[str, LossConfig],
        hints: Mapping[str, Sequence[Hint]],
        rule: Rule,
    ) -> None:
        super().__init__()
        self.student = student
        self.loss_configs = dict(loss_configs)
        self.adapters = nn.ModuleDict(
            {task: nn.ModuleList(of_task) for task, of_task in hints.items() if of_task}
        )
        self.rule = rule

    def forward(
        self, images: Tensor, batch: Batch, targets: Targets, counts: Counts, micro: int = 0
    ) -> tuple[dict[str, Tensor], Shared, dict[str, Terms]]:
        """One micro-batch.

        Args:
            images: what the student sees, float [B, 3, H, W] in [0, 1]; `batch.images` after colour changes.
            batch: labels, and which rows have them.
            targets: what the teachers say about their rows.
            counts: rows of the whole step, over all processes and micro-batches.
            micro: position of this micro-batch in the step.

        Returns:
            The losses of the tasks that are present in this micro-batch on any process, each a scalar;
            the shared features that they were cut at; and the weighted terms behind each loss, detached.
        """
        shared = Shared(self.student.trunk(images), list(self.loss_configs))
        losses: dict[str, Tensor] = {}
        terms: dict[str, Terms] = {}
        for task in self.loss_configs:
            named = self._terms(task, shared[task], batch, targets.get(task), counts)
            if task in counts.present[micro]:
                losses[task] = torch.stack([*named.values()]).sum() if named else images.new_zeros(())
                terms[task] = {term: value.detach() for term, value in named.items()}
        if losses and torch.distributed.is_initialized():
            first = next(iter(losses))
            losses[first] = losses[first] + self._touch()
        return losses, shared, terms

    def begin(self, stage: Stage) -> None:
        """From now on learn as a stage says; what it does not train goes into evaluation mode."""
        self.loss_configs = dict(stage.loss_configs)
        self.train()
        if stage.trains is not None:
            only_train(self.student, stage.trains, "student.")
            only_train(self.adapters, stage.trains, "adapters.")

    def untrained(self, stage: Stage) -> list[nn.Parameter]:
        """Parameters of student and adapters that a stage does not train."""
        if stage.trains is None:
            return []
        named = [*self.student.named_parameters("student"), *self.adapters.named_parameters("adapters")]
        return [parameter for name, parameter in named if name not in stage.trains]

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Parameters that serve this task alone: its head and its adapters."""
        return [*self.student.heads[task].parameters(), *self.adapter_parameters(task)]

    def adapter_parameters(self, task: str) -> list[nn.Parameter]:
        """Parameters of the task's hint adapters."""
        return list(self.adapters[task].parameters()) if task in self.adapters else []

    def used_terms(self) -> dict[str, set[str]]:
        """Task -> the terms that its loss can have."""
        used = {}
        for task, loss_config in self.loss_configs.items():
            weights = loss_config.weights.model_dump()
            used[task] = {term for term, weight in weights.items() if weight > 0}
            if task not in self.adapters:
                used[task] -= {"hint"}
        return used

    def nothing(self) -> Tensor:
        """Zero, with a zero gradient for every parameter: a step's loss where no row has anything to say."""
        return torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum() * 0.0

    def _terms(
        self, task: str, features: Mapping[str, Tensor], batch: Batch, target: Target | None, counts: Counts
    ) -> Terms:
        """The weighted terms that this process's rows have, each scaled to the global mean over rows."""
        loss_config, kind = self.loss_configs[task], self.student.kinds[task]
        labelled = batch.labelled[task].nonzero().flatten().to(batch.images.device, non_blocking=True)
        supervised = loss_config.uses_labels and len(labelled) > 0
        softly = target is not None and loss_config.weights.soft_targets > 0
        terms: Terms = {}
        if supervised or softly:
            logits = self.student.heads[task](features)
        if supervised:
            loss = kind.supervised_loss(logits[labelled], batch.labels[task][labelled])
            terms["supervised"] = loss.sum() * (
                loss_config.weights.supervised * counts.share / counts.labelled[task]
            )
        if target is None or not loss_config.uses_teacher:
            return terms
        per_row = counts.share / counts.taught[task]
        if softly:
            student, teacher = logits[target.rows], target.output.logits
            truth: Truth | None = _truth(task, batch, target.rows)
            if loss_config.known is not None:  # of other classes the teacher says nothing, neither yes nor no
                student, teacher, truth = student[:, loss_config.known], teacher[:, loss_config.known], None
            loss = _masked(kind.soft_target_loss(student, teacher, loss_config.temperature, truth), target)
            terms["soft_targets"] = loss.sum() * (loss_config.weights.soft_targets * per_row)
        if loss_config.weights.hint and task in self.adapters:
            loss = _masked(self._hint_loss(task, features, target), target)
            terms["hint"] = loss.sum() * (loss_config.weights.hint * per_row)
        return terms

    def _hint_loss(self, task: str, features: Mapping[str, Tensor], target: Target) -> Tensor:
        """[R], the mean over the task's pairs of layers."""
        adapters = cast(nn.ModuleList, self.adapters[task])
        losses = [
            hint(features[pair.student][target.rows], target.output.hidden[pair.teacher])
            for pair, hint in zip(self.loss_configs[task].hints, adapters, strict=True)
        ]
        return torch.stack(losses).mean(0)

    def _touch(self) -> Tensor:
        """Zero, with a zero gradient for every head and adapter.

        DistributedDataParallel waits for a gradient of every parameter on every process, also of a head
        that has no row here.
        """
        parameters = [p for task in self.loss_configs for p in self.task_parameters(task) if p.requires_grad]
        return torch.stack([p.sum() for p in parameters]).sum() * 0.0


def _truth(task: str, batch: Batch, rows: Tensor) -> Truth:
    """What labels say about the rows that a teacher speaks about."""
    labelled = batch.labelled[task].to(rows.device, non_blocking=True)
    return Truth(batch.labels[task][rows], labelled[rows])


def _masked(losses: Tensor, target: Target) -> Tensor:
    """[R], 0 on masked rows."""
    return losses if target.masked is None else losses.masked_fill(target.masked, 0.0)
