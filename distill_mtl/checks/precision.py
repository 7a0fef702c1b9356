"""In which precision a teacher makes its targets: the lower one where it is faster on this machine and as good."""

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch

from distill_mtl.checks.teacher_score import LIMIT, Rows, measure
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.teacher import Teacher

FASTER = 0.75
"""Largest share of the time in fp32 that makes bf16 worth it. Networks gain half or nothing, so the choice is clear."""
WORTH, WORTH_ELSEWHERE = 0.1, 0.005
"""Seconds that a batch must take in fp32, on a CPU and elsewhere. For a small network noise would decide, and a run
should repeat itself."""
LOST = 0.1
"""Points that a score may lose; of a score in a unit of its own, percent."""
ROUNDS = 5


def choose_precision(
    section: TeacherSection,
    teacher: Teacher,
    kind: TaskKind,
    task: str,
    rows: Rows,
    score: float | None,
) -> str:
    """fp32, bf16 or fp16, as the recipe says; `auto` is decided by a measurement.

    Args:
        section: of the recipe.
        teacher: on its device.
        kind: of the task.
        task: its name.
        rows: labelled ones, as many as asked for.
        score: of the teacher on them, in fp32; None: nobody measured it, and nothing is risked.
    """
    if section.precision != "auto":
        return section.precision
    if score is None:
        return "fp32"
    images = next(iter(rows(LIMIT))).images
    asked = {name: LiveTeachers({task: teacher}, precisions={task: name}) for name in ("fp32", "bf16")}
    every = {task: torch.arange(len(images))}
    try:
        seconds = _fastest(
            {name: partial(live.together, images, every) for name, live in asked.items()}, images
        )
    except RuntimeError:
        return "fp32"  # a file may hold operations that know no other type
    worth = WORTH if images.device.type == "cpu" else WORTH_ELSEWHERE
    if seconds["fp32"] < worth or seconds["bf16"] > FASTER * seconds["fp32"]:
        return "fp32"
    low = asked["bf16"]
    again = measure(
        lambda seen: low.together(seen, {task: torch.arange(len(seen))})[task].logits.float(),
        kind,
        task,
        rows(LIMIT),
    )
    assert again is not None
    lost = score - again.score if kind.higher_is_better else again.score - score
    allowed = LOST if kind.in_points else LOST / 100 * abs(score)
    return "bf16" if lost <= allowed else "fp32"


def _fastest(ways: Mapping[str, Callable[[], object]], images: torch.Tensor) -> dict[str, float]:
    """Least seconds of each way over interleaved rounds: of the processor on the CPU, of the clock elsewhere."""
    on_cpu = images.device.type == "cpu"
    best = dict.fromkeys(ways, float("inf"))
    for number in range(ROUNDS + 1):
        for name, way in ways.items():
            start = time.process_time() if on_cpu else time.perf_counter()
            way()
            if not on_cpu:
                torch.accelerator.synchronize(images.device)
            taken = (time.process_time() if on_cpu else time.perf_counter()) - start
            if number:  # the first round warms up
                best[name] = min(best[name], taken)
    return best
