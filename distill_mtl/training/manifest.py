"""teachers.json: what was really loaded, by file and hash, how it scored in the check, and its precision."""

import json
from collections.abc import Mapping
from pathlib import Path

from distill_mtl.checks.teachers import Examined
from distill_mtl.teachers.teacher import Teacher
from distill_mtl.training.run_folder import write_aside


def write_teachers(
    path: Path,
    teachers: Mapping[str, Teacher],
    examined: Mapping[str, Examined],
    precisions: Mapping[str, str],
) -> None:
    """Write each teacher's file, sha256, classes and input, the score of the check, and its targets' precision."""
    entries = {
        task: {
            **teacher.card.describe(),
            "score": measured.score if (measured := examined[task].measured) is not None else None,
            "precision": precisions[task],
        }
        for task, teacher in teachers.items()
    }
    write_aside(path, json.dumps(entries, indent=2) + "\n")


def read_precisions(path: Path) -> dict[str, str]:
    """The precision in which each teacher of a run makes its targets; nothing where the run wrote none."""
    if not path.exists():
        return {}
    entries = json.loads(path.read_text(encoding="utf-8"))
    return {task: entry["precision"] for task, entry in entries.items()}
