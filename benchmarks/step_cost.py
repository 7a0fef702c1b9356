"""What a step of distill_mtl costs beside the work that no implementation can avoid.

    python benchmarks/step_cost.py

timm's resnet18 at 64 px, batch 64, three teachers of the same architecture, each needed on the two
thirds of the rows without its label. The ideal is the student's forward, backward and AdamW step and
the teachers' forwards on just these rows, written by hand, channels-last like ours. Rounds are
interleaved, so that other work on the machine affects all of them; figures are medians of process CPU
time on one thread.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from loader import measure as measure_loader
from timm.models import save_for_hf
from torch import nn
from torch.nn import functional as F

from distill_mtl.balance import make_rule
from distill_mtl.data.batch import Batch
from distill_mtl.distillation.objective import Objective
from distill_mtl.distillation.stages import Schedule
from distill_mtl.distillation.term import HintPair, LossConfig, build_terms
from distill_mtl.recipe.schema import Recipe, StudentSection, TeacherSection
from distill_mtl.students.initial_weights import build_student
from distill_mtl.targets.combined import TargetProviders
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.tasks.base import build_kind
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.teachers.teacher import Teacher
from distill_mtl.training.processes import start_accelerator
from distill_mtl.training.step import Trainer

TASKS, ROWS, SIZE, CLASSES = ("a", "b", "c"), 64, 64, 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # threads that wait for each other would count as work
    batch = toy_batch()
    with tempfile.TemporaryDirectory() as folder:
        teachers = {task: saved_teacher(Path(folder), task) for task in TASKS}
    steps = {
        "ideal": ideal_step(batch, teachers),
        "uniform": our_step(batch, teachers, "uniform"),
        "mgda_ub": our_step(batch, teachers, "mgda_ub"),
    }
    seconds = interleaved(steps, arguments.rounds)
    print(f"| step | ms (median of {arguments.rounds}) | ratio to the ideal |\n|---|---|---|")
    for name, value in seconds.items():
        print(f"| {name} | {1000 * value:.0f} | {value / seconds['ideal']:.3f} |")
    print(f"\nmgda_ub beside uniform: {seconds['mgda_ub'] / seconds['uniform']:.3f}")
    loader = measure_loader()
    print(f"loader beside bare decoding: {loader['share']:.2f} ({loader['loader']:.0f} rows/s)")


def interleaved(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of process CPU time of each step, measured in turn."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 2):
        for name, step in steps.items():
            start = time.process_time()
            step()
            if number >= 2:
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def toy_batch() -> Batch:
    """Rows of three data sets, each labelled for one task."""
    source = torch.arange(ROWS) % len(TASKS)
    return Batch(
        images=torch.randint(0, 256, (ROWS, SIZE, SIZE, 3), dtype=torch.uint8).permute(0, 3, 1, 2),
        labels={task: torch.randint(0, CLASSES, (ROWS,)) for task in TASKS},
        labelled={task: source == index for index, task in enumerate(TASKS)},
        keys=[str(row) for row in range(ROWS)],
        source=source,
    )


def saved_teacher(folder: Path, task: str) -> Teacher:
    """A resnet18 with random weights, through timm's local-dir form as a user's would come."""
    network = timm.create_model("resnet18", num_classes=CLASSES)
    network.pretrained_cfg = {**network.pretrained_cfg, "input_size": (3, SIZE, SIZE)}
    save_for_hf(network, folder / task, safe_serialization=True)
    return load_teacher(TeacherSection(path=str(folder / task)), task=task, layers=[None])


def ideal_step(batch: Batch, teachers: dict[str, Teacher]) -> Callable[[], None]:
    """The unavoidable work, by hand: one pass of the student, one AdamW step, the teachers on their rows."""
    trunk = timm.create_model("resnet18", num_classes=0).to(memory_format=torch.channels_last)
    heads = nn.ModuleDict({task: nn.Linear(512, CLASSES) for task in TASKS})
    optimizer = torch.optim.AdamW([*trunk.parameters(), *heads.parameters()])
    trunk.train()

    def step() -> None:
        images = (batch.images.float() / 255).contiguous(memory_format=torch.channels_last)
        for task in TASKS:
            teachers[task](images[~batch.labelled[task]])
        features = trunk(images)
        loss = torch.stack(
            [F.cross_entropy(heads[task](features), batch.labels[task]) for task in TASKS]
        ).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(batch: Batch, teachers: dict[str, Teacher], method: str) -> Callable[[], None]:
    """The whole step of the trainer: soft targets, hints, balancing, clipping."""
    kinds = {task: build_kind("classification", [str(c) for c in range(CLASSES)]) for task in TASKS}
    student = build_student(
        StudentSection(model="resnet18", input_size=SIZE, init="random"),
        kinds,
        [None],
        seed=0,
        teacher_folders={},
    )
    pair = HintPair(student.trunk.last, teachers["a"].card.last_map)
    loss_configs = dict.fromkeys(TASKS, LossConfig(hints=[pair]))
    shapes = {task: teacher.card.shapes for task, teacher in teachers.items()}
    terms = build_terms(loss_configs, student.trunk.shapes, shapes)
    objective = Objective(student, loss_configs, terms, make_rule(method, TASKS))
    recipe = Recipe.model_validate(
        {
            "student": {"model": "resnet18"},
            "tasks": {task: {"classes": CLASSES} for task in TASKS},
            "data": {task: {"shards": "", "labels": {task: {}}} for task in TASKS},
            "training": {"batch_size": ROWS},
        }
    )
    trainer = Trainer(
        start_accelerator(recipe.training),
        objective,
        TargetProviders(LiveTeachers(teachers)),
        recipe,
        schedule=Schedule.constant(loss_configs, 1000),
    )
    trainer.module.train()
    numbers = iter(range(1000))

    def step() -> None:
        trainer.step(next(numbers), [batch])

    return step


if __name__ == "__main__":
    main()
