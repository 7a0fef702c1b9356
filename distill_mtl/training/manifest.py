"""teachers.json: what was really loaded, by file and hash, and how it scored in the check."""

import json
from collections.abc import Mapping
from pathlib import Path

from distill_mtl.teachers.teacher import Teacher
from distill_mtl.training.run_folder import write_aside


def write_teachers(path: Path, teachers: Mapping[str, Teacher], scores: Mapping[str, float]) -> None:
    """Write each teacher's file, sha256, classes, input and the score that the check measured."""
    entries = {
        task: {**teacher.card.describe(), "score": scores.get(task)} for task, teacher in teachers.items()
    }
    write_aside(path, json.dumps(entries, indent=2) + "\n")
