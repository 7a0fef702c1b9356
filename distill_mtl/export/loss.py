"""What quantisation loses: the int8 file against the fp32 one, in the table that students and teachers stand in."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from distill_mtl.display import Display
from distill_mtl.evaluation import Evaluation, EvaluationSet, compare_networks
from distill_mtl.export.deployable import Deployable
from distill_mtl.export.format import Order
from distill_mtl.export.rows import RealRows
from distill_mtl.recipe import Recipe
from distill_mtl.teachers.output import TeacherOutput


class Served(nn.Module):
    """A file in its runtime, as evaluation asks a student: images in [0, 1] -> logits by task.

    Args:
        run: the file.
        module: that was exported.
        size: bytes of the file.
    """

    def __init__(self, run: Callable[[Tensor], dict[str, Tensor]], module: Deployable, size: int) -> None:
        super().__init__()
        self._run, self._taken, self.size = run, module.taken, size

    def forward(self, images: Tensor) -> Mapping[str, Tensor]:
        return self._run(self._taken(images))


class _Task(nn.Module):
    """One task of a file, as evaluation asks a teacher."""

    def __init__(self, network: Served, task: str) -> None:
        super().__init__()
        self.network, self.task = network, task

    def forward(self, images: Tensor) -> TeacherOutput:
        return TeacherOutput(self.network(images)[self.task], {})


def compare_files(
    order: Order, rows: RealRows, recipe: Recipe, module: Deployable, int8: Served, fp32: Served
) -> Evaluation:
    """The int8 file in the student's column, the fp32 one in the teachers', on the test rows of the run's recipe."""
    size = module.trunk.inputs.size
    evaluation_set = EvaluationSet(rows.sources(size), "test", batch_size=recipe.evaluation.batch_size)
    total = sum(evaluation_set.rows(task) for task in module.kinds)
    with Display(order.console, "int8 against fp32", total, unit="row") as display:
        found = compare_networks(
            int8,
            {task: _Task(fp32, task) for task in module.kinds},
            module.kinds,
            evaluation_set,
            size=size,
            acceptance=recipe.acceptance.margin,
            rule=recipe.acceptance.rule,
            resamples=recipe.evaluation.bootstrap,
            seed=recipe.seed,
            progress=lambda done, total: display.update(done),
        )
    # All tasks of a file are answered in one pass, so a task's teacher costs as much as all of them.
    whole = next(iter(found.cost.each.values()))
    cost = replace(
        found.cost,
        student=replace(found.cost.student, bytes=int8.size),
        teachers=replace(whole, bytes=fp32.size),
        each={},
    )
    return found.changed(cost=cost, student="int8", against="fp32")
