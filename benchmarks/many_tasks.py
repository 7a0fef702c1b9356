"""How a step grows with the number of tasks: up to 40 attributes of one picture, as CelebA has them.

    OMP_NUM_THREADS=1 python benchmarks/many_tasks.py [--rounds 5] [--figure docs/images/many-tasks.png]

timm's resnet18 at 64 px, batch 64, T tasks of two classes, every row labelled for all of them. `labels` learns from
labels alone; `teachers`: one deployed network with T heads gives soft targets on every row as well, and hints
from its pooled features. Whole steps of the trainer, interleaved; medians of process CPU time on one thread. The figure
needs the extra `bench`.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from step_cost import ROWS, SIZE, interleaved

from distill_mtl.balance import make_rule
from distill_mtl.data.batch import Batch
from distill_mtl.distillation.objective import Objective
from distill_mtl.distillation.stages import Schedule
from distill_mtl.distillation.term import HintPair, LossConfig, build_terms
from distill_mtl.recipe.schema import Recipe, StudentSection, TeacherSection
from distill_mtl.students.initial_weights import build_student
from distill_mtl.students.student import Student
from distill_mtl.students.student_folder import save_student
from distill_mtl.targets.combined import TargetProviders
from distill_mtl.targets.facts import Teachers
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.tasks.base import build_kind
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.training.processes import start_accelerator
from distill_mtl.training.step import Trainer

TASKS = (1, 5, 10, 20, 40)
POOLED = "pooled"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for each other would count as work
    steps: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in TASKS:
            for method in ("uniform", "mgda_ub"):
                steps[f"labels, {method}, {count}"] = step_of(count, method, None)
            steps[f"teachers, mgda_ub, {count}"] = step_of(count, "mgda_ub", Path(folder) / str(count))
    seconds = interleaved(steps, arguments.rounds)
    curves = {
        name: {count: seconds[f"{name}, {count}"] for count in TASKS}
        for name in ("labels, uniform", "labels, mgda_ub", "teachers, mgda_ub")
    }
    print(f"| step | {' | '.join(f'T = {count}' for count in TASKS)} |\n|---|{'---:|' * len(TASKS)}")
    for name, curve in curves.items():
        print(f"| {name} | {' | '.join(f'{curve[count] / curve[1]:.2f}' for count in TASKS)} |")
    if arguments.figure is not None:
        draw(curves, arguments.figure)


def step_of(count: int, method: str, folder: Path | None) -> Callable[[], None]:
    """A whole step of the trainer on `count` tasks, with a teacher that is saved in `folder`, if there is one."""
    tasks = [f"attribute{number:02}" for number in range(count)]
    student = network(tasks, [POOLED])
    teachers = Teachers({}, None)
    pair = HintPair(POOLED, POOLED)
    if folder is not None:
        save_student(network(tasks, []), folder)
        section = TeacherSection(path=str(folder))
        teachers = Teachers(
            {task: partial(load_teacher, section, task=task, layers=[POOLED]) for task in tasks}, None
        )
    loss_configs = dict.fromkeys(tasks, LossConfig(hints=[pair] if folder is not None else []))
    shapes = {task: card.shapes for task, card in teachers.cards.items()}
    terms = build_terms(loss_configs, student.trunk.shapes, shapes)
    objective = Objective(student, loss_configs, terms, make_rule(method, tasks))
    recipe = Recipe.model_validate(
        {
            "student": {"model": "resnet18"},
            "tasks": {task: {"classes": 2} for task in tasks},
            "data": {"faces": {"shards": "", "labels": {task: {} for task in tasks}}},
            "training": {"batch_size": ROWS, "teachers_on": "all"},
        }
    )
    trainer = Trainer(
        start_accelerator(recipe.training),
        objective,
        TargetProviders(LiveTeachers(dict(teachers), "all")),
        recipe,
        schedule=Schedule.constant(loss_configs, 1000),
    )
    trainer.module.train()
    batch, numbers = labelled_batch(tasks), iter(range(1000))
    return lambda: trainer.step(next(numbers), [batch])


def network(tasks: list[str], layers: list[str | None]) -> Student:
    kinds = {task: build_kind("classification", ["no", "yes"]) for task in tasks}
    return build_student(
        StudentSection(model="resnet18", input_size=SIZE, init="random"), kinds, layers, seed=0
    )


def labelled_batch(tasks: list[str]) -> Batch:
    """Rows that are labelled for every task."""
    return Batch(
        images=torch.randint(0, 256, (ROWS, SIZE, SIZE, 3), dtype=torch.uint8).permute(0, 3, 1, 2),
        labels={task: torch.randint(0, 2, (ROWS,)) for task in tasks},
        labelled=dict.fromkeys(tasks, torch.ones(ROWS, dtype=torch.bool)),
        keys=[str(row) for row in range(ROWS)],
        source=torch.zeros(ROWS, dtype=torch.int64),
    )


def draw(curves: Mapping[str, Mapping[int, float]], path: Path) -> None:
    """Time beside that of one task, and what as many networks of one task would take."""
    from matplotlib import pyplot

    axis = pyplot.figure(figsize=(6, 4), layout="constrained").subplots()
    for name, curve in curves.items():
        axis.plot(list(curve), [seconds / curve[1] for seconds in curve.values()], marker="o", label=name)
    axis.plot(TASKS, TASKS, color="grey", linestyle="--", label="a network for each task")
    axis.set(xlabel="tasks", ylabel="time of a step, one task = 1", ylim=(0, 4))
    axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    pyplot.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
