"""The whole comparison: student against teachers, agreement on other data sets, and what each network costs.

`compare_networks` does it. The functions below it take what a recipe says and show a bar: they are called at the end of
a run, by `distill-mtl evaluate`, and for baselines.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from accelerate import PartialState
from rich.console import Console
from torch import nn

from distill_mtl.data import Sources
from distill_mtl.display import Display
from distill_mtl.evaluation.cost import Note, compare_costs
from distill_mtl.evaluation.cross_domain import cross_domain
from distill_mtl.evaluation.evaluation_set import EvaluationSet, Processes
from distill_mtl.evaluation.result import Acceptance, Costs, Evaluation, TaskResult, margins_by_task
from distill_mtl.evaluation.task_comparison import Progress, compare_tasks
from distill_mtl.evaluation.verdict import AcceptanceRule
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import AcceptanceSection, EvaluationSection
from distill_mtl.splits import Split
from distill_mtl.tasks.base import TaskKind


def compare_networks(
    student: nn.Module,
    teachers: Mapping[str, nn.Module | None],
    kinds: Mapping[str, TaskKind],
    evaluation_set: EvaluationSet,
    *,
    size: tuple[int, int],
    acceptance: float | Mapping[str, float] = 1.0,
    rule: AcceptanceRule = "interval",
    resamples: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
    note: Note = lambda text: None,
) -> Evaluation:
    """Compare a student with its teachers on every task's own labelled rows. Every process gets the result.

    Args:
        student: images [B, 3, H, W] in [0, 1] -> logits by task (or dicts with `logits`, as a loaded
            student folder answers); without adapters, whose cost no user pays.
        teachers: by task, each images -> TeacherOutput; absent or None: the task is only scored.
        kinds: the tasks.
        evaluation_set: the rows, usually of the test set.
        size: height and width of the images, for the cost.
        acceptance: the margin, for all tasks or by task: the largest loss allowed, in points or the score's unit.
        rule: what must stay within it.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        progress: called with (rows done, rows in all) after every batch of the tasks' own rows.
        note: called with what is being done after that.

    Raises:
        ShardError: a task has no labelled row in this set.
    """
    tasks = compare_tasks(
        student, teachers, kinds, evaluation_set, resamples=resamples, seed=seed, progress=progress
    )
    note("agreement on the other data sets")
    agreements = cross_domain(student, teachers, kinds, evaluation_set)
    costs: list[Costs] = []
    if evaluation_set.processes.rank == 0:  # the others wait, and leave it the machine
        costs.append(
            compare_costs(
                student,
                teachers,
                size,
                evaluation_set.device,
                batch_size=evaluation_set.batch_size,
                note=note,
            )
        )
    split, sources = evaluation_set.split, evaluation_set.sources
    return Evaluation(
        tasks=tasks,
        cost=evaluation_set.processes.join(costs)[0],
        cross_domain=agreements,
        split=split,
        hashed=tuple(task for task in kinds if split is not None and sources.hashed(task)),
        acceptance=Acceptance(rule, margins_by_task(acceptance, kinds)),
    )


@dataclass(frozen=True)
class ComparisonSettings:
    """What a recipe says about a comparison.

    Attributes:
        acceptance: how much may be lost.
        evaluation: rows at a time, and resamples of the interval.
        seed: of the resamples.
    """

    acceptance: AcceptanceSection
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    seed: int = 0

    @classmethod
    def of(cls, recipe: Recipe) -> "ComparisonSettings":
        """Those of a recipe."""
        return cls(recipe.acceptance, recipe.evaluation, recipe.seed)


def evaluation_set_of(sources: Sources, split: Split | None, settings: ComparisonSettings) -> EvaluationSet:
    """The rows of a set, shared by the processes that were launched together, on this one's device."""
    state = PartialState()
    return EvaluationSet(
        sources,
        split,
        batch_size=settings.evaluation.batch_size,
        device=state.device,
        processes=Processes(state.process_index, state.num_processes),
    )


def compare_with_progress(
    student: nn.Module,
    teachers: Mapping[str, nn.Module],
    kinds: Mapping[str, TaskKind],
    evaluation_set: EvaluationSet,
    settings: ComparisonSettings,
    console: Console,
) -> Evaluation:
    """The comparison as the settings want it; every process gets the result.

    Args:
        student, teachers: on the device of the set.
        kinds: the tasks.
        evaluation_set: rows of opened `Sources`, whose images' size the costs are measured at.
        settings: what is acceptable, and how sure to be.
        console: where progress is shown.

    Raises:
        ShardError: a task has no labelled row in the set.
    """
    assert isinstance(evaluation_set.sources, Sources)
    rows = sum(evaluation_set.rows(task) for task in kinds)
    with Display(console, "evaluation", rows, unit="row") as display:
        return compare_networks(
            student,
            teachers,
            kinds,
            evaluation_set,
            size=evaluation_set.sources.size,
            acceptance=settings.acceptance.margin,
            rule=settings.acceptance.rule,
            resamples=settings.evaluation.bootstrap,
            seed=settings.seed,
            progress=lambda done, total: display.update(done),
            note=lambda text: display.update(rows, text),
        )


def scores_with_progress(
    name: str,
    network: nn.Module,
    teachers: Mapping[str, nn.Module],
    kinds: Mapping[str, TaskKind],
    evaluation_set: EvaluationSet,
    settings: ComparisonSettings,
    console: Console,
) -> dict[str, TaskResult]:
    """Scores alone, of a network in the student's place; arguments as in `compare_with_progress`."""
    rows = sum(evaluation_set.rows(task) for task in kinds)
    with Display(console, name, rows, unit="row") as display:
        return compare_tasks(
            network,
            teachers,
            kinds,
            evaluation_set,
            resamples=settings.evaluation.bootstrap,
            seed=settings.seed,
            progress=lambda done, total: display.update(done),
        )
