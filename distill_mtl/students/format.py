"""What a student's config.json is called, what it records, and which of the heads answers for a task."""

from collections.abc import Sequence
from pathlib import Path

from distill_mtl.errors import UserError, nearest

FORMAT = "distill_mtl.student"
SCORES = "scores"
"""Under `extra` of the config: task -> metric, score and rows, as the run that left the student found them."""


def chosen_head(folder: Path, tasks: Sequence[str], asked: str | None, default: str) -> str:
    """Which head of a student's folder answers.

    Args:
        folder: for the message.
        tasks: that the folder has heads for.
        asked: which was asked for by name; None: the one called `default`, or the only one.
        default: the task that it is to answer for.

    Raises:
        UserError: there is no such head.
    """
    wanted = asked or (default if default in tasks or len(tasks) > 1 else tasks[0])
    if wanted not in tasks:
        mend = "Choose one with `teacher: {path: ..., task: NAME}` (on the command line: --task NAME)."
        raise UserError(
            f"{folder} has no head '{wanted}'.{nearest(wanted, tasks)} Heads: {', '.join(tasks)}. {mend}"
        )
    return wanted
