"""score.json in a teacher's folder: how good it is and on what that was measured.

`distill-mtl teacher train` writes it, and the check before training must find the same score.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from distill_mtl.errors import TeacherError

SCORE = "score.json"


@dataclass(frozen=True)
class RecordedScore:
    """A measured score.

    Attributes:
        metric: name of the score.
        score: in points of 100, or as the metric has it.
        rows: how many were measured; None where nobody says, and the score is then taken as exact.
        task: name of the task in the recipe that trained the teacher.
        kind: of the task.
        measured_on: which rows, in words.
        command: how to get such a teacher and this score again.
    """

    metric: str
    score: float
    rows: int | None = None
    task: str = ""
    kind: str = ""
    measured_on: str = ""
    command: str = ""


def read_score(folder: Path) -> RecordedScore | None:
    """The score in a teacher's folder, None where it records none.

    Raises:
        TeacherError: the file is there and makes no sense.
    """
    path = folder / SCORE
    if not path.is_file():
        return None
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return RecordedScore(**{**entry, "score": float(entry["score"])})
    except (ValueError, TypeError, KeyError) as error:
        raise TeacherError(
            f"{path} cannot be read: {error}. It holds `metric` and `score`, and may hold "
            f"{', '.join(list(RecordedScore.__dataclass_fields__)[2:])}; or delete it."
        ) from error


def write_score(folder: Path, score: RecordedScore) -> None:
    """Record a score beside the weights it belongs to."""
    (folder / SCORE).write_text(json.dumps(asdict(score), indent=2) + "\n", encoding="utf-8")
