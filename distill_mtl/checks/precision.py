"""The precision in which a teacher computes its targets: bf16 where it is faster on this machine and as good."""

import time
from collections.abc import Callable, Mapping
from functools import partial

import torch

from distill_mtl.checks.teacher_score import LIMIT, LabelledRows, measure_score
from distill_mtl.networks.bf16 import faster_in_bf16
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.teacher import Teacher

FASTER = 0.75
"""Largest share of the fp32 time at which bf16 is worth it. Networks gain half or nothing, so the choice is clear."""
WORTH, WORTH_ELSEWHERE = 0.1, 0.005
"""Seconds that a batch must take in fp32, on a CPU and elsewhere. A smaller network would be chosen by noise, and runs
would not repeat."""
LOST = 0.1
"""Points that a score may lose; percent for a score in the label's unit."""
ROUNDS = 5


def choose_precision(
    section: TeacherSection,
    teacher: Teacher,
    kind: TaskKind,
    task: str,
    rows: LabelledRows,
    score: float | None,
) -> str:
    """fp32, bf16 or fp16, as the recipe says; `auto` by a rule on a CPU with bf16, else by a timing; and by the score.

    Args:
        section: of the recipe.
        teacher: on its device.
        kind: of the task.
        task: its name.
        rows: with labels.
        score: of the teacher on them, in fp32; None if it was not measured: then fp32 is kept.
    """
    if section.precision != "auto":
        return section.precision
    if score is None:
        return "fp32"
    images = next(iter(rows(LIMIT))).images
    by_rule = images.device.type == "cpu" and faster_in_bf16(teacher)
    live = {name: LiveTeachers({task: teacher}, precisions={task: name}) for name in ("fp32", "bf16")}
    if not by_rule and not _much_faster(live, task, images):
        return "fp32"
    low = live["bf16"]
    again = measure_score(
        lambda seen: low.together(seen, {task: torch.arange(len(seen))})[task].logits.float(),
        kind,
        task,
        rows(LIMIT),
    )
    assert again is not None
    lost = score - again.score if kind.higher_is_better else again.score - score
    allowed = LOST if kind.in_points else LOST / 100 * abs(score)
    return "bf16" if lost <= allowed else "fp32"


def _much_faster(live: Mapping[str, LiveTeachers], task: str, images: torch.Tensor) -> bool:
    """Whether a teacher is large, and bf16 saves a quarter of its time."""
    every = {task: torch.arange(len(images))}
    worth = WORTH if images.device.type == "cpu" else WORTH_ELSEWHERE
    ways = {name: partial(teachers.together, images, every) for name, teachers in live.items()}
    try:
        seconds = _fastest(ways, images, worth)
    except RuntimeError:
        return False  # an operation in the file may have no other type
    return seconds["fp32"] >= worth and seconds["bf16"] <= FASTER * seconds["fp32"]


def _fastest(
    ways: Mapping[str, Callable[[], object]], images: torch.Tensor, worth: float
) -> dict[str, float]:
    """Least seconds of each over interleaved rounds: processor time on the CPU, wall time elsewhere.

    Args:
        ways: what is timed; the first decides whether the others matter.
        images: on the device that works.
        worth: once the first has taken less, its time alone is the answer.
    """
    on_cpu = images.device.type == "cpu"
    first, best = next(iter(ways)), dict.fromkeys(ways, float("inf"))
    for number in range(ROUNDS + 1):
        for name, way in ways.items():
            start = time.process_time() if on_cpu else time.perf_counter()
            way()
            if not on_cpu:
                torch.accelerator.synchronize(images.device)
            taken = (time.process_time() if on_cpu else time.perf_counter()) - start
            if name == first and taken < worth:
                return {name: taken}
            if number:  # the first round warms up
                best[name] = min(best[name], taken)
    return best
