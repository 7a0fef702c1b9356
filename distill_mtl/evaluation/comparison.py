"""The whole comparison: student against teachers, agreement on other data sets, and what each network costs.

`compare_networks` does it. The functions below it take what a recipe says and show a bar: they are called at the end of
a run, by `distill-mtl evaluate`, and for baselines.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from accelerate import PartialState
from rich.console import Console
from torch import nn

from distill_mtl.data import Sources
from distill_mtl.display import Display
from distill_mtl.evaluation.cost import Note, compare_costs
from distill_mtl.evaluation.cross_domain import cross_domain
from distill_mtl.evaluation.evaluation_set import Comparison, EvaluationSet, Processes
from distill_mtl.evaluation.network_costs import Costs
from distill_mtl.evaluation.result import Acceptance, Evaluation, TaskResult, margins_by_task
from distill_mtl.evaluation.several_teachers import by_teacher
from distill_mtl.evaluation.slices import Slices, slice_margins
from distill_mtl.evaluation.task_comparison import Progress, compare_tasks
from distill_mtl.evaluation.verdict import AcceptanceRule
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import AcceptanceSection, EvaluationSection
from distill_mtl.splits import Split


def compare_networks(
    comparison: Comparison,
    *,
    size: tuple[int, int],
    acceptance: float | Mapping[str, float] = 1.0,
    rule: AcceptanceRule = "interval",
    slices: Slices | None = None,
    acceptance_of_slices: Mapping[str, float | Mapping[str, float]] = MappingProxyType({}),
    resamples: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
    note: Note = lambda text: None,
) -> Evaluation:
    """Compare a student with its teachers on every task's own labelled rows. Every process gets the result.

    Args:
        comparison: of modules: a student without adapters, whose cost no user pays, and its teachers; usually on the
            test rows.
        size: height and width of the images, for the cost.
        acceptance: the margin, for all tasks or by task: the largest loss allowed, in points or the score's unit.
        rule: what must stay within it.
        slices: which slices of the rows are scored too; None: each word that rows carry.
        acceptance_of_slices: slice -> its margin, for all tasks that have rows of it or by task.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        progress: called with (rows done, rows in all) after every batch of the tasks' own rows.
        note: called with what is being done after that.

    Raises:
        ShardError: a task has no labelled row in this set.
        UserError: no row has a field that a slice is made by, or a margin is of no slice.
    """
    compared = by_teacher(comparison)
    kinds, rows = compared.kinds, compared.rows
    sliced = (slices or Slices()).rows(rows.sources, kinds, rows.split)
    of_slices = slice_margins(acceptance_of_slices, sliced)
    tasks = compare_tasks(compared, resamples=resamples, seed=seed, progress=progress, slices=sliced)
    note("agreement on the other data sets")
    agreements = cross_domain(compared)
    costs: list[Costs] = []
    if rows.processes.rank == 0:  # the others wait, and leave it the machine
        student, teachers = comparison.student, comparison.teachers.items()
        assert isinstance(student, nn.Module)
        modules = {task: teacher for task, teacher in teachers if isinstance(teacher, nn.Module)}
        found = compare_costs(student, modules, size, rows.device, batch_size=rows.batch_size, note=note)
        costs.append(found)
    return Evaluation(
        tasks=tasks,
        cost=rows.processes.join(costs)[0],
        cross_domain=agreements,
        split=rows.split,
        hashed=tuple(task for task in kinds if rows.split is not None and rows.sources.hashed(task)),
        acceptance=Acceptance(rule, margins_by_task(acceptance, kinds), slices=of_slices),
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
        """Those of a recipe. Its seed is not one of the resamples: runs of several seeds draw the same rows."""
        return cls(recipe.acceptance, recipe.evaluation)

    def with_slices(self, slices: dict[str, str | list[str]] | None) -> "ComparisonSettings":
        """The settings with other slices; None: with their own."""
        if slices is None:
            return self
        return replace(self, evaluation=self.evaluation.model_copy(update={"slices": slices}))


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
    comparison: Comparison, settings: ComparisonSettings, console: Console, *, name: str = "evaluation"
) -> Evaluation:
    """The comparison as the settings want it; every process gets the result.

    Args:
        comparison: on rows of opened `Sources`, whose images' size the costs are measured at.
        settings: what is acceptable, and how sure to be.
        console: where progress is shown.
        name: of the bar.

    Raises:
        ShardError: a task has no labelled row in the set.
    """
    sources, total = comparison.rows.sources, by_teacher(comparison).total
    assert isinstance(sources, Sources)
    with Display(console, name, total, unit="row") as display:
        return compare_networks(
            comparison,
            size=sources.size,
            acceptance=settings.acceptance.margin,
            rule=settings.acceptance.rule,
            slices=Slices.of(settings.evaluation.slices),
            acceptance_of_slices=settings.acceptance.slices,
            resamples=settings.evaluation.bootstrap,
            seed=settings.seed,
            progress=lambda done, _: display.update(done),
            note=lambda text: display.update(total, text),
        )


def scores_with_progress(
    name: str, comparison: Comparison, settings: ComparisonSettings, console: Console
) -> dict[str, TaskResult]:
    """Scores alone, of a network by this name in the student's place."""
    comparison = by_teacher(comparison)
    with Display(console, name, comparison.total, unit="row") as display:
        return compare_tasks(
            comparison,
            resamples=settings.evaluation.bootstrap,
            seed=settings.seed,
            progress=lambda done, _: display.update(done),
        )
