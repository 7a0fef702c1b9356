"""Everything of a run but the training: what `distill-mtl check` does, and what every run begins with."""

from collections.abc import Mapping

import torch
from rich.console import Console

from distill_mtl.checks.data import show_sources
from distill_mtl.checks.one_batch import try_one_batch
from distill_mtl.checks.teachers import examine_teachers, refuse_bad_teachers, show_teachers
from distill_mtl.training.build import Parts


def run_check(parts: Parts, device: torch.device, console: Console) -> Mapping[str, float]:
    """Show the data, measure the teachers, run one batch through everything.

    Args:
        parts: built, which has already validated the recipe, every shard and every folder.
        device: where the run will train.
        console: where the findings are shown.

    Returns:
        The score of every teacher that could be measured.

    Raises:
        TeacherError: a teacher falls short of its recorded score, or of a constant answer.
        UserError: a batch does not go through.
    """
    show_sources(console, parts.sources)
    with console.status("measuring the teachers"):
        examined = examine_teachers(parts.recipe, parts.teachers, parts.kinds, parts.sources, device)
    if examined:
        show_teachers(console, examined, parts.kinds)
        refuse_bad_teachers(examined)
    try_one_batch(parts, device)
    console.print(parts.balance, highlight=False)
    return {task: result.measured.score for task, result in examined.items() if result.measured is not None}
