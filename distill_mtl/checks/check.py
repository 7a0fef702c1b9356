"""What every run begins with: its data and its teachers, looked at and measured."""

from collections.abc import Iterator, Mapping

import torch
from rich.console import Console

from distill_mtl.checks.data import show_sources
from distill_mtl.checks.teachers import Examined, examine_teachers, refuse_bad_teachers, show_teachers
from distill_mtl.training.parts import Parts


def run_check(parts: Parts, device: torch.device, console: Console) -> Mapping[str, Examined]:
    """Show the data, measure the teachers, say which balancing rule was taken. One process does it for all.

    Args:
        parts: built, which has already validated the recipe, every shard and every folder.
        device: where the run will train.
        console: where the findings are shown.

    Returns:
        What was found out about every teacher; nothing where the cache speaks for them, which was written after
        they had been measured.

    Raises:
        TeacherError: a teacher falls short of its recorded score, or of a constant answer.
    """
    show_sources(console, parts.sources)
    examined: Mapping[str, Examined] = {}
    if parts.cached is None:
        with console.status("measuring the teachers"):
            examined = examine_teachers(parts.recipe, parts.teachers, parts.kinds, parts.sources, device)
    console.print(_student_line(parts), highlight=False, soft_wrap=True)
    if examined:
        show_teachers(console, examined, parts.kinds)
        refuse_bad_teachers(examined)
    for task in parts.recipe.tasks:
        if parts.recipe.tasks[task].hints and task in parts.teachers and not parts.lessons[task].hints:
            console.print(
                f"{task}: its teacher gives nothing but its answer, so there is no hint", highlight=False
            )
    console.print(parts.balance, highlight=False, soft_wrap=True)
    for line in (parts.taught, *_former_self_lines(parts), *_stage_lines(parts)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return examined


def _student_line(parts: Parts) -> str:
    trunk = parts.student.trunk
    height, width = trunk.inputs.size
    parameters = sum(parameter.numel() for parameter in parts.student.parameters())
    return (
        f"student: {trunk.name} at {height} x {width} pixels, {parameters:,} parameters with its heads, "
        f"{parts.begins}"
    )


def _former_self_lines(parts: Parts) -> Iterator[str]:
    if parts.recipe.training.teachers_on == "none":
        return
    for memory, tasks in parts.memories.items():
        yield f"taught by the student's former self, {memory.describe()}: {', '.join(tasks)}"


def _stage_lines(parts: Parts) -> Iterator[str]:
    stages = parts.schedule.stages
    for number, stage in enumerate(stages if len(stages) > 1 else ()):
        trains = "everything trains"
        if stage.trains is not None:
            trains = f"{', '.join(parts.recipe.schedule[number].train or ())} train"
        yield f"schedule: stage {number + 1} of {len(stages)} ends with step {stage.ends}, {trains}"
