"""Where a student differs from its teacher, by class and row by row: made by `compare`, shown by table and report."""

from dataclasses import dataclass

MOST_DISAGREEMENTS = 12


@dataclass(frozen=True)
class ClassDelta:
    """One class's scores.

    Attributes:
        name: of the class.
        teacher: its score; None without a teacher.
        student: its score.
        delta: positive where the student is better; None without a teacher.
    """

    name: str
    teacher: float | None
    student: float
    delta: float | None


@dataclass(frozen=True)
class Disagreement:
    """A row on which the student is worse than its teacher.

    Attributes:
        key: source/shard/key of the row.
        teacher: what the teacher answers, in a few words; None where words do not say it.
        student: what the student answers.
        label: what is right.
        loss: by how much the student's score on this row alone is worse than the teacher's, in the score's unit.
    """

    key: str
    teacher: str | None
    student: str | None
    label: str | None
    loss: float
