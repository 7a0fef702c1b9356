"""teachers.json: what was really loaded, by file and hash, how it scored in the check, and its precision."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_mtl.files import write_text
from distill_mtl.recipe import Recipe
from distill_mtl.targets.facts import Teachers
from distill_mtl.training.target_providers import self_taught


def describe_teachers(recipe: Recipe, teachers: Teachers) -> dict[str, dict[str, Any]]:
    """Who teaches each task that has a teacher: its file, sha256, classes and input, or `self`."""
    remembered = {task: {"self": section.student} for task, section in self_taught(recipe).items()}
    return {task: card.describe() for task, card in teachers.cards.items()} | remembered


def write_teachers(
    path: Path,
    described: Mapping[str, dict[str, Any]],
    scores: Mapping[str, float | None],
    precisions: Mapping[str, str],
) -> None:
    """Write what describes each teacher, its score in the check, and its targets' precision.

    Args:
        path: of the file.
        described: by `describe_teachers`.
        scores: task -> score; None where the check had no rows to measure it on.
        precisions: task -> of its targets, for the tasks of `scores`.
    """
    entries = {task: dict(entry) for task, entry in described.items()}
    for task, score in scores.items():
        entries[task]["score"] = score
        entries[task]["precision"] = precisions[task]
    write_text(path, json.dumps(entries, indent=2) + "\n")


def read_precisions(path: Path) -> dict[str, str]:
    """The precision in which each teacher of a run makes its targets; nothing where the run wrote none."""
    if not path.exists():
        return {}
    entries = json.loads(path.read_text(encoding="utf-8"))
    return {task: entry["precision"] for task, entry in entries.items() if "precision" in entry}
