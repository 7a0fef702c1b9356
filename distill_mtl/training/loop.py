"""The loop: batch, targets, losses, one balanced step. What surrounds it (checks, folders, tables) is in run.py."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import AdamW

from distill_mtl.assembly.processes import seed_step
from distill_mtl.data.batch import Batch
from distill_mtl.data.color import jitter_colors
from distill_mtl.distillation.counts import Counts, count_rows
from distill_mtl.distillation.objective import Objective, Terms
from distill_mtl.recipe import Recipe
from distill_mtl.targets.base import TargetSource
from distill_mtl.training.optimizer import build_optimizer, rate_factor, set_rate


@dataclass
class StepReport:
    """What one optimizer step did; its numbers stay on the device until `values` is asked.

    Attributes:
        counts: rows of the step.
        terms: task -> term -> weighted value, this process's share of the mean over global rows.
        weights: task -> weight that the rule chose in the last micro-batch.
        rate: learning rate of the student.
        used: task -> the terms that its lesson has.
    """

    counts: Counts
    rate: float
    used: Mapping[str, Collection[str]]
    terms: dict[str, Terms] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)

    def add(self, terms: Mapping[str, Terms]) -> None:
        """Add one micro-batch."""
        for task, named in terms.items():
            of_task = self.terms.setdefault(task, {})
            for term, value in named.items():
                of_task[term] = of_task.get(term, torch.zeros_like(value)) + value / self.counts.share

    def values(self, accelerator: Accelerator) -> dict[str, dict[str, float]]:
        """Per task of the step: total, its terms, and the rule's weight; the same on every process."""
        rows = [
            (task, term)
            for task in sorted(frozenset(self.counts.labelled) - self.counts.absent)
            for term, count in (
                ("supervised", self.counts.labelled[task]),
                ("soft_targets", self.counts.taught[task]),
                ("hint", self.counts.taught[task]),
            )
            if count and term in self.used[task]
        ]
        if not rows:
            return {}
        zero = torch.zeros((), device=accelerator.device)
        local = torch.stack([self.terms.get(task, {}).get(term, zero).float() for task, term in rows])
        summed = (
            accelerator.reduce(local, "sum").tolist() if accelerator.num_processes > 1 else local.tolist()
        )
        values: dict[str, dict[str, float]] = {}
        for (task, term), value in zip(rows, summed, strict=True):
            named = values.setdefault(task, {"total": 0.0})
            named[term] = value
            named["total"] += value
        for task, named in values.items():
            if task in self.weights:
                named["weight"] = self.weights[task]
        return values


class Trainer:
    """Objective, optimizer and teachers on their device, and the step that joins them.

    Args:
        accelerator: started for the recipe's precision and accumulation.
        objective: student, adapters and rule.
        teachers: live ones, frozen, on the accelerator's device and never prepared; or what was cached of them.
        recipe: says how to step.
        steps: length of the whole run, which the schedule needs.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        objective: Objective,
        teachers: TargetSource,
        recipe: Recipe,
        *,
        steps: int,
    ) -> None:
        self.accelerator = accelerator
        self.objective = objective
        self.teachers = teachers
        self.recipe, self.steps = recipe, steps
        self.plain_optimizer: AdamW = build_optimizer(objective, recipe.optimizer)
        self.module, self.optimizer = accelerator.prepare(objective, self.plain_optimizer)

    def step(self, number: int, batches: Sequence[Batch]) -> StepReport:
        """One optimizer step on this process's micro-batches of step `number`, counted from 0."""
        schedule = self.recipe.optimizer
        seed_step(self.recipe.seed, number, self.accelerator.process_index)
        factor = rate_factor(number, self.steps, warmup=schedule.warmup, floor=schedule.min_lr)
        set_rate(self.plain_optimizer, factor)
        counts = count_rows(
            batches,
            [self.teachers.rows(batch) for batch in batches],
            self.objective.lessons,
            world=self.accelerator.num_processes,
            reduce=self._sum_over_processes,
        )
        report = StepReport(counts, schedule.lr * factor, self.objective.used_terms())
        self.objective.rule.measure_harm = self.measures_harm(number + 1)
        for micro, batch in enumerate(batches):
            with self.accelerator.accumulate(self.module):
                self._micro_step(micro, batch.to(self.accelerator.device), counts, report)
        return report

    def measures_harm(self, done: int) -> bool:
        """Whether the step that makes `done` steps in all is one that measures which tasks it hurts."""
        every = self.recipe.balance.harm_every
        return every is not None and done % every == 0

    def _micro_step(self, micro: int, batch: Batch, counts: Counts, report: StepReport) -> None:
        with self.accelerator.autocast():
            targets = self.teachers(batch)
        images = jitter_colors(batch.images, batch.color)
        losses, shared, terms = self.module(images, batch, targets, counts, micro)
        if losses:
            report.weights = self.objective.rule.backward(losses, shared, backward=self.accelerator.backward)
            report.add(terms)
        else:
            self.accelerator.backward(self.objective.nothing())
        if self.accelerator.sync_gradients:
            self._finish_gradients(counts)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _finish_gradients(self, counts: Counts) -> None:
        """Leave alone what had no row in the step, then clip.

        A zero gradient is not nothing: momentum and weight decay would still move the parameter.
        """
        silent = [p for task in counts.absent for p in self.objective.task_parameters(task)]
        silent += [
            p
            for task, rows in counts.taught.items()
            if not rows
            for p in self.objective.adapter_parameters(task)
        ]
        if not any(counts.present):
            silent = list(self.objective.parameters())
        for parameter in silent:
            parameter.grad = None
        if self.recipe.training.clip is not None:
            self.accelerator.clip_grad_norm_(self.module.parameters(), self.recipe.training.clip)

    def _sum_over_processes(self, table: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return table
        return self.accelerator.reduce(table.to(self.accelerator.device), "sum")
