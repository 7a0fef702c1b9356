"""Loss terms: their base class, and the terms of a task's loss.

A term is one file of `terms/`, or a class of the user's own, found by the name that a recipe's `weights` uses. The
rest of the program knows no term by name: `Objective` gathers those that a task's loss config gives a weight, and
schedule, log and report take their names from it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from distill_mtl.data.batch import Batch
from distill_mtl.errors import UserError
from distill_mtl.networks.features import FeatureShape
from distill_mtl.recipe.schema import task_of
from distill_mtl.registry import Registry, import_class
from distill_mtl.targets.provider import TargetProvider
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.teacher import Target, TeacherOutput, hidden_name, named_hidden

TERMS: Registry[type["Term"]] = Registry("loss term", "distill_mtl.distillation.terms")

TermRows = Literal["labelled", "taught"]
"""Rows of a task: those with a label, or those with a teacher's target."""
RESERVED = ("total", "weight", "gated")
"""What metrics.jsonl has of a task beside its terms."""


@dataclass(frozen=True)
class HintPair:
    """Two layers that one hint ties together.

    Attributes:
        student, teacher: names of the layers.
        pooled: only the means of their maps are compared.
        of: name of the teacher, where the task has several.
    """

    student: str
    teacher: str
    pooled: bool = False
    of: str | None = None

    @property
    def name(self) -> str:
        """The teacher's layer among the hidden features of the task's target."""
        return self.teacher if self.of is None else hidden_name(self.of, self.teacher)


@dataclass(frozen=True)
class LossConfig:
    """How the loss of one task is made. The part of a recipe that a loss reads.

    Attributes:
        weights: of terms by name; a term that is not named has its default weight.
        temperature: of the soft targets.
        hints: the pairs of layers, in the order of the task's adapters.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    temperature: float = 4.0
    hints: Sequence[HintPair] = ()

    def weight(self, term: "Term | type[Term]") -> float:
        """Of a term in this task's loss."""
        return self.weights.get(term.name, term.weight)

    @cached_property
    def terms(self) -> tuple[type["Term"], ...]:
        """The terms of the loss: those with a weight, and with layers where they compare layers."""
        return tuple(
            term for term in all_terms() if self.weight(term) > 0 and (self.hints or not term.uses_layers)
        )

    @property
    def uses_labels(self) -> bool:
        """A label of this task changes its loss."""
        return any(term.rows == "labelled" for term in self.terms)

    @property
    def uses_teacher(self) -> bool:
        """A teacher's output changes this task's loss."""
        return any(term.rows == "taught" for term in self.terms)


class TermInput:
    """The input of a term: its R rows of a micro-batch, on one device.

    Args:
        kind: of the task.
        config: of the task's loss, as it is in this step.
        rows: int64 [R], positions in the micro-batch.
        labels: [B, ...], of the whole micro-batch.
        labelled: bool [B].
        features: the student's features by name, [B, ...].
        logits: the student's answers [B, ...]; None where no term uses them.
        target: a teacher's answers about exactly these rows; None for rows that were chosen by their labels.
    """

    def __init__(
        self,
        kind: TaskKind,
        config: LossConfig,
        rows: Tensor,
        *,
        labels: Tensor,
        labelled: Tensor,
        features: Mapping[str, Tensor],
        logits: Tensor | None,
        target: Target | None,
    ) -> None:
        self.kind, self.config, self.rows = kind, config, rows
        self._labels, self._labelled = labels, labelled
        self._features, self._logits, self._target = features, logits, target

    @cached_property
    def logits(self) -> Tensor:
        """[R, ...], the student's answers; for a term with `uses_logits`."""
        if self._logits is None:
            raise ValueError("only a term with `uses_logits` has the student's logits")
        return self._logits[self.rows]

    @cached_property
    def labels(self) -> Tensor:
        """[R, ...]; a filler where a row has no label."""
        return self._labels[self.rows]

    @cached_property
    def labelled(self) -> Tensor:
        """bool [R], the rows with a label."""
        return self._labelled.to(self.rows.device, non_blocking=True)[self.rows]

    def feature(self, layer: str) -> Tensor:
        """[R, ...], what a layer of the student gives: one of those in `config.hints`, or the last one."""
        return self._features[layer][self.rows]

    @property
    def teacher(self) -> TeacherOutput:
        """The teacher's logits [R, ...] and hidden layers; for a term on rows with a teacher's target.

        Teachers that know the same classes are one. A task whose teachers know different classes calls its terms for
        each of them.
        """
        if self._target is None:
            raise ValueError("only a term with `rows = 'taught'` has the teacher's answers")
        return self._target.output

    @property
    def known(self) -> tuple[int, ...] | None:
        """Positions of the classes that the teacher knows; None: all."""
        return None if self._target is None else self._target.known


class Term(nn.Module):
    """One term of a task's loss; each task has an instance of its own.

    `forward(rows)` takes a `TermInput` and gives the loss of each row, [R] in float32. Means over the rows of the
    step's global batch are the caller's, so that nothing depends on batch size or number of processes. Parameters
    train with the student and never leave the run; the recipe calls them `adapters`.

    Attributes:
        name: as `weights` in a recipe and metrics.jsonl call it.
        weight: where the recipe gives none; 0: only tasks that name the term have it.
        rows: those that it is about. Rows of a teacher's target that a gate masks count with a loss of 0.
        uses_logits: it reads the student's logits, so the task's head trains with it.
        uses_layers: it reads the pairs of layers in `hints`, so only tasks with such pairs have it.
    """

    name: ClassVar[str]
    weight: ClassVar[float] = 0.0
    rows: ClassVar[TermRows] = "taught"
    uses_logits: ClassVar[bool] = True
    uses_layers: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if cls.__dict__.get("name") in RESERVED:
            raise ValueError(
                f"a loss term cannot have the name {cls.name}: metrics.jsonl uses it for something else"
            )

    @property
    def key(self) -> str:
        """The name, as modules may have it."""
        return self.name.replace(".", "/")

    @classmethod
    def build(
        cls, config: LossConfig, student: Mapping[str, FeatureShape], teacher: Mapping[str, FeatureShape]
    ) -> "Term | None":
        """The term of one task; None where the task cannot have it.

        Args:
            config: of the task's loss.
            student: shapes of the student's features, by layer.
            teacher: shapes of the teacher's hidden features; empty where the task has no teacher network.
        """
        return cls()

    def idle(self, config: LossConfig, silent: Collection[str]) -> list[nn.Parameter]:
        """Parameters that learn nothing in a step in which these of the task's several teachers are not asked.

        Args:
            config: of the task's loss.
            silent: names of the teachers.
        """
        return []

    def calibrate(self, config: LossConfig, hidden: Sequence[Mapping[str, Tensor]]) -> None:
        """Before the first step, see what the teacher's layers give for training rows; for terms with `uses_layers`.

        Args:
            config: of the task's loss.
            hidden: the hidden features of each batch, by layer.
        """


def all_terms() -> list[type[Term]]:
    """Every known term, in the order in which a loss adds them: on labels, on the teacher's answers, on layers."""
    found = [TERMS[name] for name in TERMS.names()]
    return sorted(found, key=lambda term: (term.rows == "taught", term.uses_layers, term.name))


def admit_term(name: str, *, trust: bool, say: str) -> None:
    """Have `TERMS` know a term that a recipe names: one of ours, or a class of the user's own as `my_terms:Margin`.

    Args:
        name: as in `weights`.
        trust: whether the user's code may run.
        say: how the user says so, for the message.

    Raises:
        UserError: there is no such term, its code is not trusted, or it is not a complete term.
    """
    if ":" in name and name not in TERMS.names():
        if not trust:
            raise UserError(
                f"{name} is code, which runs with all your rights on this machine. If you trust its origin, "
                f"write {say}."
            )
        found = import_class(name, Term, "loss term")
        if found.forward is Term.forward:
            raise UserError(f"{name} lacks what every loss term has: forward(rows).")
        # Only tasks that name it have it, whatever else this process trains.
        found.name, found.weight = name, 0.0
        TERMS.register(name)(found)
    else:
        TERMS[name]  # raises for a name that is not registered


def build_terms(
    configs: Mapping[str, LossConfig],
    student: Mapping[str, FeatureShape],
    teachers: Mapping[str, Mapping[str, FeatureShape]],
    *,
    named: Collection[str] = (),
    seed: int = 0,
) -> dict[str, list[Term]]:
    """task -> its terms, with parameters that follow from the seed.

    A term is there for every task that can have it, whatever its weight at first: a stage may give it one.

    Args:
        configs: task -> its loss config.
        student: shapes of the student's features, by layer.
        teachers: task -> shapes of its teacher's hidden features, for tasks with a teacher network that is used.
        named: terms that the recipe names somewhere; others are built if they have a default weight.
        seed: of the recipe.
    """
    terms: dict[str, list[Term]] = {task: [] for task in configs}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for term in all_terms():
            for task, config in configs.items() if term.weight > 0 or term.name in named else ():
                built = term.build(config, student, teachers.get(task, {}))
                if built is not None:
                    terms[task].append(built)
    return terms


@torch.no_grad()
def calibrate_terms(
    batches: Iterable[Batch],
    teachers: TargetProvider,
    configs: Mapping[str, LossConfig],
    terms: Mapping[str, Sequence[Term]],
) -> None:
    """Show what teachers' layers give to the terms that use layers, so that they can freeze its statistics.

    Args:
        batches: training rows of every source on the teachers' device, each small enough for it; the same on
            every process, so that all of them freeze the same numbers.
        teachers: those of tasks with such terms give targets for every row here, whatever they give in training.
        configs: task -> its loss config.
        terms: task -> its terms.
    """
    layered = {
        task: [term for term in terms.get(task, ()) if term.uses_layers]
        for task in dict.fromkeys(map(task_of, teachers.names))
    }
    seen: dict[str, list[dict[str, Tensor]]] = {task: [] for task, of_task in layered.items() if of_task}
    for batch in batches if seen else ():
        for task in seen:
            seen[task].append({})
            for name in (name for name in teachers.names if task_of(name) == task):
                hidden = named_hidden(name, teachers.ask(name, batch)).hidden
                seen[task][-1] |= {layer: feature.cpu() for layer, feature in hidden.items()}
    for task, hidden_by_batch in seen.items():
        for term in layered[task]:
            term.calibrate(configs[task], hidden_by_batch)
