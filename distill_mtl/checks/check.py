"""What every run begins with: its data and its teachers, looked at and measured."""

from collections.abc import Mapping

import torch
from rich.console import Console

from distill_mtl.assembly.build import Parts
from distill_mtl.checks.data import show_sources
from distill_mtl.checks.teachers import examine_teachers, refuse_bad_teachers, show_teachers


def run_check(parts: Parts, device: torch.device, console: Console) -> Mapping[str, float]:
    """Show the data, measure the teachers, say which balancing rule was taken. One process does it for all.

    Args:
        parts: built, which has already validated the recipe, every shard and every folder.
        device: where the run will train.
        console: where the findings are shown.

    Returns:
        The score of every teacher that could be measured.

    Raises:
        TeacherError: a teacher falls short of its recorded score, or of a constant answer.
    """
    show_sources(console, parts.sources)
    with console.status("measuring the teachers"):
        examined = examine_teachers(parts.recipe, parts.teachers, parts.kinds, parts.sources, device)
    console.print(_student_line(parts), highlight=False, soft_wrap=True)
    if examined:
        show_teachers(console, examined, parts.kinds)
        refuse_bad_teachers(examined)
    console.print(parts.balance, highlight=False)
    console.print(parts.taught, highlight=False, markup=False, soft_wrap=True)
    return {task: result.measured.score for task, result in examined.items() if result.measured is not None}


def _student_line(parts: Parts) -> str:
    trunk = parts.student.trunk
    height, width = trunk.inputs.size
    parameters = sum(parameter.numel() for parameter in parts.student.parameters())
    return (
        f"student: {trunk.name} at {height} x {width} pixels, {parameters:,} parameters with its heads, "
        f"init {parts.recipe.student.init}"
    )
