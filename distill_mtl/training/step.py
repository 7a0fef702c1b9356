"""One optimizer step: batch, targets, losses, balanced gradients. `loop.TrainingLoop` calls it step by step."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer

from distill_mtl.data.augmentation import jitter_colors
from distill_mtl.data.batch import Batch
from distill_mtl.distillation.counts import Counts, count_rows
from distill_mtl.distillation.objective import Objective, TermValues
from distill_mtl.distillation.stages import Schedule, Stage
from distill_mtl.distillation.term import TermRows
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import task_of
from distill_mtl.targets.combined import TargetProviders
from distill_mtl.teachers.teacher import Targets
from distill_mtl.training.asynchronous import Asynchronous
from distill_mtl.training.optimizer import (
    build_optimizer,
    first_guess,
    rate_factor,
    set_rate,
    settle_optimizer,
)
from distill_mtl.training.processes import seed_step


@dataclass
class StepReport:
    """What one optimizer step did; its numbers stay on the device until `values` is called.

    Attributes:
        counts: rows of the step.
        terms: task -> term -> weighted value, this process's share of the mean over global rows.
        weights: task, of a student in parts NODE/TASK -> weight that the rule chose in the last micro-batch.
        rate: learning rate of the student.
        used: task -> the terms of its loss, and the rows that each is about.
        gates: tasks with a gate.
        gated: task -> masked rows of this process.
        gradient_norm: of all gradients before they were clipped; None without clipping.
    """

    counts: Counts
    rate: float
    used: Mapping[str, Mapping[str, TermRows]]
    gates: Collection[str] = ()
    terms: dict[str, TermValues] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    gated: dict[str, Tensor] = field(default_factory=dict)
    gradient_norm: Tensor | None = None

    def count_masked(self, targets: Targets) -> None:
        """Count the masked rows of one micro-batch."""
        for name, target in targets.items():
            if target.masked is not None:
                task, rows = task_of(name), target.masked.sum()
                if task != name and target.weights is not None:  # its share of the row
                    rows = (target.masked * target.weights).sum()
                self.gated[task] = self.gated.get(task, torch.zeros_like(rows)) + rows

    def add(self, terms: Mapping[str, TermValues]) -> None:
        """Add one micro-batch."""
        for task, named in terms.items():
            of_task = self.terms.setdefault(task, {})
            for term, value in named.items():
                of_task[term] = of_task.get(term, torch.zeros_like(value)) + value / self.counts.share

    def values(self, accelerator: Accelerator) -> dict[str, dict[str, float]]:
        """Per task of the step: total, its terms, the rule's weight, and the masked share of its rows with a target.

        The same on every process.
        """
        present = sorted(frozenset(self.counts.labelled) - self.counts.absent)
        rows = [
            (task, term)
            for task in present
            for term, about in self.used[task].items()
            if self.counts.of(about)[task]
        ]
        if not rows:
            return {}
        gated = [task for task in present if task in self.gates and self.counts.taught[task]]
        zero = torch.zeros((), device=accelerator.device)
        local = torch.stack(
            [self.terms.get(task, {}).get(term, zero).float() for task, term in rows]
            + [self.gated.get(task, zero).float() / self.counts.taught[task] for task in gated]
        )
        summed = (
            accelerator.reduce(local, "sum").tolist() if accelerator.num_processes > 1 else local.tolist()
        )
        values: dict[str, dict[str, float]] = {}
        for (task, term), value in zip(rows, summed[: len(rows)], strict=True):
            named = values.setdefault(task, {"total": 0.0})
            named[term] = value
            named["total"] += value
        for task, share in zip(gated, summed[len(rows) :], strict=True):
            values[task]["gated"] = share
        for task, named in values.items():
            # Of a student in parts a weight belongs to a node and a task: "root/depth".
            of_task = {
                name: weight for name, weight in self.weights.items() if name.rpartition("/")[2] == task
            }
            named |= {
                f"weight/{name.rpartition('/')[0]}".rstrip("/"): weight for name, weight in of_task.items()
            }
        return values


class Trainer:
    """Objective, optimizer and teachers on their device, and the step that joins them.

    Args:
        accelerator: started for the recipe's precision and accumulation.
        objective: student, loss terms and rule.
        providers: of targets, on the accelerator's device; never prepared.
        recipe: with `optimizer`, `training` and `balance`.
        schedule: the loss configs of every step of the run.

    Attributes:
        lr: highest rate; the first guess of one where the recipe says `auto`.
        clip: largest gradient norm; None: any.
        asynchronous: gradients that wait for their part's step; None where all parts step together.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        objective: Objective,
        providers: TargetProviders,
        recipe: Recipe,
        *,
        schedule: Schedule,
    ) -> None:
        self.accelerator = accelerator
        self.objective = objective
        self.providers = providers
        self.recipe, self.schedule = settle_optimizer(recipe, objective.student.trunk), schedule
        self.lr = (
            first_guess(self.recipe, objective.student.trunk)
            if recipe.optimizer.lr == "auto"
            else recipe.optimizer.lr
        )
        clip = self.recipe.training.clip
        assert clip != "auto"
        self.clip = clip
        self.plain_optimizer: Optimizer = build_optimizer(objective, self.recipe.optimizer)
        self.module, self.optimizer = accelerator.prepare(objective, self.plain_optimizer)
        thresholds = recipe.training.asynchronous
        self.asynchronous = None if thresholds is None else Asynchronous(objective, thresholds)
        self._parameters = list(self.module.parameters())
        self._stage: Stage | None = None

    def step(
        self, number: int, batches: Sequence[Batch], *, lr: float | None = None, diagnose: bool = True
    ) -> StepReport:
        """One optimizer step on this process's micro-batches of step `number`, counted from 0.

        Args:
            number: of the step.
            batches: this process's micro-batches.
            lr: rate of all parameters, in place of the schedule's.
            diagnose: leave `Rule.diagnostics` of this step; the same on every process.
        """
        seed_step(self.recipe.seed, number, self.accelerator.process_index, self.accelerator.device)
        rate = self._set_rate(number) if lr is None else lr
        if lr is not None:
            set_rate(self.plain_optimizer, lr)
        stage = self._begin(number)
        taught = [self.providers.rows(batch, stage.taught) for batch in batches]
        counts = count_rows(
            batches,
            taught,
            stage.loss_configs,
            parts=self.objective.student.trunk.parts,
            several=self.providers.several,
            world=self.accelerator.num_processes,
            reduce=self._sum_over_processes,
        )
        report = StepReport(counts, rate, self.objective.used_terms(), self.providers.gates)
        self.objective.rule.measure_harm = self.measures_harm(number + 1)
        self.objective.rule.diagnose = diagnose or self.objective.rule.measure_harm
        for micro, (batch, rows) in enumerate(zip(batches, taught, strict=True)):
            with self.accelerator.accumulate(self.module):
                self._micro_step(micro, batch.to(self.accelerator.device), rows, counts, report)
        return report

    def measures_harm(self, done: int) -> bool:
        """Whether the step that makes `done` steps in all is one that measures which tasks it hurts."""
        every = self.recipe.balance.harm_every
        return every is not None and done % every == 0

    def _set_rate(self, number: int) -> float:
        """The schedule's rate at step `number`, given to the optimizer; adapters may have their own."""
        section = self.recipe.optimizer
        factor = rate_factor(number, self.schedule.steps, section)
        rate, adapters = self.lr * factor, section.adapter_lr
        set_rate(self.plain_optimizer, rate, None if adapters is None else adapters * factor)
        return rate

    def _begin(self, number: int) -> Stage:
        """The stage of step `number`; self-teachers that are due are updated."""
        stage = self.schedule.at(number)
        if stage is not self._stage:
            self._stage = stage
            self.objective.begin(stage)
        self.providers.begin(number, self.objective.student)
        return stage

    def _micro_step(
        self, micro: int, batch: Batch, rows: Mapping[str, Tensor], counts: Counts, report: StepReport
    ) -> None:
        assert self._stage is not None
        targets = self.providers(batch, rows, self._stage.temperatures)
        images = jitter_colors(batch.images, batch.color)
        losses, shared, terms = self.module(images, batch, targets, counts, micro)
        report.count_masked(targets)
        if losses:
            report.weights = self.objective.rule.backward(losses, shared, backward=self.accelerator.backward)
            report.add(terms)
        else:
            self.accelerator.backward(self.objective.nothing())
        if self.accelerator.sync_gradients:
            report.gradient_norm = self._finish_gradients(counts)
            self._step_optimizer()

    def _finish_gradients(self, counts: Counts) -> Tensor | None:
        """Remove the gradients of parts that have nothing to learn, do not train or are not due, then clip.

        With a zero gradient momentum and weight decay would still move the parameter.

        Returns:
            The norm before clipping; None without clipping.
        """
        assert self._stage is not None
        for parameter in (*self.objective.idle(counts), *self.objective.untrained(self._stage)):
            parameter.grad = None
        if self.asynchronous is not None:
            self.asynchronous.hold_back(counts)
        if self.clip is None:
            return None
        # Accelerate's own clipping looks for kinds of training that this is none of.
        self.accelerator.unscale_gradients()
        return torch.nn.utils.clip_grad_norm_(self._parameters, self.clip)

    def _step_optimizer(self) -> None:
        """A step, and no gradients after it."""
        if self.accelerator.scaler is not None:  # which may leave the step out
            self.optimizer.step()
        else:  # Accelerate's own step looks for optional packages, which costs a small student as much as SGD does
            self.plain_optimizer.step()
        self.plain_optimizer.zero_grad()

    def _sum_over_processes(self, table: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return table
        return self.accelerator.reduce(table.to(self.accelerator.device), "sum")
