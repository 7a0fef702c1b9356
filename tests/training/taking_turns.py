"""Two tasks on rows of their own that take turns: what a small trunk learns for one, it forgets for the other.

A picture has one of four textures in one of four colours. Half of the rows are labelled for the texture,
the others for the colour, and batches are of one kind for `PHASE` steps.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import toys
from accelerate import Accelerator
from torch import Tensor

from distill_mtl.balance import make_rule
from distill_mtl.data.batch import Batch
from distill_mtl.distillation.objective import Objective
from distill_mtl.distillation.stages import Schedule
from distill_mtl.distillation.term import LossConfig, build_terms
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.students.student import Student
from distill_mtl.students.student_folder import save_student
from distill_mtl.targets.combined import TargetProviders
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.targets.self_teacher import SelfTeacher
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.training.step import Trainer

TASKS = ("texture", "colour")
CLASSES, ROWS, PHASE, PHASES = 4, 32, 30, 4
COLOURS = torch.tensor([[1.0, 0.3, 0.3], [0.3, 1.0, 0.3], [0.3, 0.3, 1.0], [0.8, 0.8, 0.1]])


def drops(
    decay: float | None = None, *, remembers: bool = False, teachers: Path | None = None
) -> list[float]:
    """By how many points each task falls while the other one has its turn, averaged over two seeds.

    Args:
        decay: of an average as self-teacher.
        remembers: whether a self-teacher teaches.
        teachers: folder of teachers for both tasks.
    """
    runs = [_drops(seed, decay, remembers, teachers) for seed in (0, 1)]
    return [sum(of_phase) / len(runs) for of_phase in zip(*runs, strict=True)]


def train_teachers(folder: Path) -> Path:
    """A wider network of its own for each task, trained on its labels."""
    for task in TASKS:
        student = _student([task], width=16, seed=7)
        trainer = _trainer(student, TargetProviders(LiveTeachers({})), steps=60)
        for step in range(60):
            trainer.step(step, [_batch(task, ROWS, 50_000 + step)])
        save_student(student, folder / task)
    return folder


def _drops(seed: int, decay: float | None, remembers: bool, folder: Path | None) -> list[float]:
    student = _student(TASKS, width=8, seed=seed)
    teachers = {
        task: load_teacher(TeacherSection(path=str(folder / task)), task=task)
        for task in (TASKS if folder is not None else ())
    }
    selves = [SelfTeacher(student, TASKS, lambda step: step % PHASE == 0, decay=decay)] if remembers else []
    trainer = _trainer(student, TargetProviders(LiveTeachers(teachers), selves), steps=PHASE * PHASES)
    fallen: list[float] = []
    for phase in range(PHASES):
        now, other = TASKS[phase % 2], TASKS[(phase + 1) % 2]
        before = _accuracy(student, other)
        for step in range(phase * PHASE, (phase + 1) * PHASE):
            trainer.step(step, [_batch(now, ROWS, seed * 100_000 + step)])
        if phase:
            fallen.append(max(0.0, before - _accuracy(student, other)))
    return fallen


def _student(tasks: Sequence[str], *, width: int, seed: int) -> Student:
    student = toys.toy_student({task: toys.classification(CLASSES) for task in tasks}, width, seed)
    student.tap(())
    return student


def _trainer(student: Student, providers: TargetProviders, *, steps: int) -> Trainer:
    tasks = list(student.kinds)
    loss_configs = dict.fromkeys(tasks, LossConfig(temperature=1.0))
    recipe = Recipe.model_validate(
        {
            "student": {"model": "toy:net"},
            "tasks": {task: {"classes": CLASSES} for task in tasks},
            "data": {task: {"shards": "", "labels": {task: {}}} for task in tasks},
            "training": {"batch_size": ROWS},
            "optimizer": {"lr": 0.02, "warmup": 0, "min_lr": 1.0},
        }
    )
    objective = Objective(
        student, loss_configs, build_terms(loss_configs, {}, {}), make_rule("uniform", tasks)
    )
    return Trainer(
        Accelerator(), objective, providers, recipe, schedule=Schedule.constant(loss_configs, steps)
    )


@torch.no_grad()
def _accuracy(student: Student, task: str) -> float:
    rows = _batch(task, 300, 10_000)
    return 100 * float((student(rows.images)[task].argmax(1) == rows.labels[task]).float().mean())


def _batch(task: str, rows: int, seed: int) -> Batch:
    """Pictures of every texture and colour, labelled for one task."""
    generator = torch.Generator().manual_seed(seed)
    texture, colour = torch.randint(CLASSES, (2, rows), generator=generator)
    shift = torch.randint(4, (2, rows, 1, 1), generator=generator)
    pattern = _pattern(texture, shift)
    clean = 0.8 * pattern[:, None] * COLOURS[colour][:, :, None, None]
    images = (clean + 0.15 * torch.randn(clean.shape, generator=generator)).clamp(0, 1)
    return Batch(
        images,
        {"texture": texture, "colour": colour},
        {name: torch.full((rows,), name == task) for name in TASKS},
        [str(row) for row in range(rows)],
        torch.zeros(rows, dtype=torch.int64),
    )


def _pattern(texture: Tensor, shift: Tensor) -> Tensor:
    """[R, S, S]: stripes, two pixels wide, in one of four directions, each row moved by some pixels."""
    y, x = torch.meshgrid(torch.arange(toys.SIZE), torch.arange(toys.SIZE), indexing="ij")
    down, right = y + shift[0], x + shift[1]
    stripes = torch.stack([right, down, down + right, down - right]) % 4 < 2
    return stripes[texture, torch.arange(len(texture))].float()
