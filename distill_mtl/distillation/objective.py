"""From a batch to one loss per task: one pass of the student, with the cut between trunk and heads.

The training loop hands `Objective` to `accelerator.prepare` as its one module: student, loss terms
and the parameters of the balancing rule train together, and only the student leaves the run.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from distill_mtl.balance import Rule, Shared, Tree
from distill_mtl.data.batch import Batch
from distill_mtl.distillation.counts import Counts
from distill_mtl.distillation.stages import Stage, only_train
from distill_mtl.distillation.term import LossConfig, Term, TermInput, TermRows
from distill_mtl.errors import UserError
from distill_mtl.recipe.schema import task_of
from distill_mtl.students.student import Student
from distill_mtl.teachers.teacher import Target, Targets

TermValues = dict[str, Tensor]
"""Name of a term -> its value."""


class Objective(nn.Module):
    """Student, loss terms and rule in one module; forward gives one loss per task.

    Args:
        student: its trunk returns every feature that a head or a term reads.
        loss_configs: task -> how its loss is made, until `begin` changes it.
        terms: task -> its terms, those without a weight too: a stage may give them one.
        rule: the balancing rule, here so that its parameters and state are saved with the rest.
    """

    def __init__(
        self,
        student: Student,
        loss_configs: Mapping[str, LossConfig],
        terms: Mapping[str, Sequence[Term]],
        rule: Rule,
    ) -> None:
        super().__init__()
        self.student = student
        self.loss_configs = dict(loss_configs)
        self.terms = nn.ModuleDict(
            {task: nn.ModuleDict({term.key: term for term in of_task}) for task, of_task in terms.items()}
        )
        self.rule = rule

    def forward(
        self, images: Tensor, batch: Batch, targets: Targets, counts: Counts, micro: int = 0
    ) -> tuple[dict[str, Tensor], Shared | Tree, dict[str, TermValues]]:
        """One micro-batch.

        Args:
            images: what the student sees, float [B, 3, H, W] in [0, 1]; `batch.images` after colour changes.
            batch: labels, and which rows have them.
            targets: the teachers' answers about the rows with a target.
            counts: rows of the whole step, over all processes and micro-batches.
            micro: position of this micro-batch in the step.

        Returns:
            The losses of the tasks that are present in this micro-batch on any process, each a scalar;
            the shared features that they were cut at; and the weighted terms behind each loss, detached.
        """
        shared = self.student.trunk.cut(images, list(self.loss_configs))
        losses: dict[str, Tensor] = {}
        terms: dict[str, TermValues] = {}
        for task in self.loss_configs:
            of_task = [target for name, target in targets.items() if task_of(name) == task]
            named = self._values(task, shared[task], batch, of_task, counts)
            if task in counts.present[micro]:
                losses[task] = torch.stack([*named.values()]).sum() if named else images.new_zeros(())
                terms[task] = {term: value.detach() for term, value in named.items()}
        if losses and torch.distributed.is_initialized():
            first = next(iter(losses))
            losses[first] = losses[first] + self._touch()
        return losses, shared, terms

    def begin(self, stage: Stage) -> None:
        """Begin a stage; what it does not train goes into evaluation mode."""
        self.loss_configs = dict(stage.loss_configs)
        self.train()
        if stage.trains is not None:
            only_train(self.student, stage.trains, "student.")
            only_train(self.terms, stage.trains, "terms.")

    def untrained(self, stage: Stage) -> list[nn.Parameter]:
        """Parameters of student and terms that a stage does not train."""
        if stage.trains is None:
            return []
        named = [*self.student.named_parameters("student"), *self.terms.named_parameters("terms")]
        return [parameter for name, parameter in named if name not in stage.trains]

    def task_parameters(self, task: str) -> list[nn.Parameter]:
        """Parameters that serve this task alone: those of its part of the trunk, of its head and of its terms."""
        trunk = self.student.trunk
        return [
            *(parameter for part in trunk.alone(task) for parameter in trunk.owned(part).values()),
            *self.student.heads[task].parameters(),
            *(parameter for term in self._all_terms(task) for parameter in term.parameters()),
        ]

    def used_terms(self) -> dict[str, dict[str, TermRows]]:
        """Task -> the terms that have a weight in its loss, and the rows that each is about."""
        return {task: {term.name: term.rows for term in self._used(task)} for task in self.loss_configs}

    def idle(self, counts: Counts) -> list[nn.Parameter]:
        """Parameters that learn nothing in a step of these rows."""
        if not counts.total:
            return list(self.parameters())
        idle: list[nn.Parameter] = []
        learns: set[str] = set()
        for task in self.loss_configs:
            learning = [term for term in self._used(task) if counts.of(term.rows)[task]]
            if not any(term.uses_logits for term in learning):
                idle += self.student.heads[task].parameters()
            idle += [p for term in self._all_terms(task) if term not in learning for p in term.parameters()]
            silent = {name for name, rows in counts.asked.items() if task_of(name) == task and not rows}
            idle += [p for term in learning for p in term.idle(self.loss_configs[task], silent)]
            learns |= {task} if learning else set()
        for part, tasks in self.student.trunk.parts.items():
            if learns.isdisjoint(tasks):
                idle += self.student.trunk.owned(part).values()
        return idle

    def nothing(self) -> Tensor:
        """Zero, with a zero gradient for every parameter: a step's loss where no row teaches anything."""
        return torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum() * 0.0

    def _all_terms(self, task: str) -> Iterator[Term]:
        return (cast(Term, term) for term in cast(nn.ModuleDict, self.terms[task]).values())

    def _used(self, task: str) -> list[Term]:
        """The terms with a weight, in the order in which the loss adds them."""
        config = self.loss_configs[task]
        return [term for term in self._all_terms(task) if config.weight(term) > 0]

    def _values(
        self,
        task: str,
        features: Mapping[str, Tensor],
        batch: Batch,
        targets: Sequence[Target],
        counts: Counts,
    ) -> TermValues:
        """The weighted terms that this process's rows have, each scaled to the global mean over rows."""
        config = self.loss_configs[task]
        labelled = batch.labelled[task].nonzero().flatten().to(batch.images.device, non_blocking=True)
        rows: dict[TermRows, list[tuple[Tensor, Target | None]]] = {
            "labelled": [(labelled, None)] if len(labelled) else [],
            "taught": [(target.rows, target) for target in targets if len(target.rows)],
        }
        terms = [term for term in self._used(task) if rows[term.rows]]
        uses_logits = any(term.uses_logits for term in terms)
        logits = self.student.heads[task](features) if uses_logits else None
        values: TermValues = {}
        for term in terms:
            losses = []
            for chosen, target in rows[term.rows]:
                loss = term(
                    TermInput(
                        self.student.kinds[task],
                        config,
                        chosen,
                        labels=batch.labels[task],
                        labelled=batch.labelled[task],
                        features=features,
                        logits=logits,
                        target=target,
                    )
                )
                if loss.shape != chosen.shape:
                    raise UserError(
                        f"the loss term {term.name} gave the shape {list(loss.shape)} for {len(chosen)} rows of "
                        f"{task}. A term gives one number for each row."
                    )
                if target is not None and target.masked is not None:
                    loss = loss.masked_fill(target.masked, 0.0)
                if target is not None and target.weights is not None:
                    loss = loss * target.weights
                losses.append(loss.sum())
            scale = counts.share / counts.of(term.rows)[task]
            total = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
            values[term.name] = total * (config.weight(term) * scale)
        return values

    def _touch(self) -> Tensor:
        """Zero, with a zero gradient for every head, every term and what else has its gradient from the losses.

        DistributedDataParallel waits for a gradient of every parameter on every process, also of a head
        that has no row here.
        """
        parameters = [
            *self.student.trunk.beyond_cut(),
            *self.student.heads.parameters(),
            *self.terms.parameters(),
        ]
        return torch.stack([p.sum() for p in parameters if p.requires_grad]).sum() * 0.0
