"""What was asked: rows and their chances, as ask.json keeps them beside the pictures."""

import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from distill_mtl import __version__
from distill_mtl.errors import UserError
from distill_mtl.reading import Remedy, fit, read_json, shown

FORMAT: Final = "distill_mtl questions"
NAME = "ask.json"
_PART = ConfigDict(extra="forbid", allow_inf_nan=False)
_AGAIN = Remedy("Ask again: distill-mtl evaluate RUN --pictures PLACE --ask N --to FOLDER")


@dataclass(frozen=True, config=_PART)
class Question:
    """One row that a person answers for one task.

    Attributes:
        row: the name of its picture, without the ending.
        chance: as `draw` gives it.
    """

    row: str
    chance: float


@dataclass(frozen=True, config=_PART)
class AskedSlice:
    """The part of a task's draw that fell into a slice of the pictures.

    Attributes:
        population: rows of the slice that could be drawn.
        chances: row -> its chance among those of the slice, in the order of the draw.
    """

    population: int
    chances: dict[str, float]


@dataclass(frozen=True, kw_only=True, config=_PART)
class AskedTask:
    """The questions of one task.

    Attributes:
        metric: of the run.
        population: rows that could be drawn.
        agreement: of student and teacher over all pictures, in [0, 1].
        decided: only rows on which the networks differ could be drawn, as the others cannot change the difference.
        questions: in the order of the draw.
        student, teacher: statistics summed over all pictures, with the teacher's answer in the label's place; None
            where the kind's statistics cannot be summed, or are not needed.
        slices: the part of each slice.
    """

    metric: str
    population: int
    agreement: float
    decided: bool
    questions: list[Question]
    student: list[float] | None = None
    teacher: list[float] | None = None
    slices: dict[str, AskedSlice] = Field(default_factory=dict)


class Questions(BaseModel):
    """The file ask.json: nothing in it says what a network answers about a picture.

    Attributes:
        format, version: of the file.
        distill_mtl: the program's version.
        run: the run folder, as it was named.
        networks: SHA-256 of the files of the student, and of each teacher.
        seed: of the draws.
        pictures: that both networks looked at.
        unread: further pictures that could not be read.
        keys: row -> the picture's own name.
        tasks: those with a teacher.
        slices: slice -> how many pictures it has.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="forbid")

    format: Literal["distill_mtl questions"] = FORMAT
    version: Literal[1] = 1
    distill_mtl: str = __version__
    run: str
    networks: dict[str, str]
    seed: int
    pictures: int
    unread: int
    keys: dict[str, str]
    tasks: dict[str, AskedTask]
    slices: dict[str, int] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _of_slices(self) -> "Questions":
        if unknown := {name for task in self.tasks.values() for name in task.slices} - set(self.slices):
            raise ValueError(f"`slices` does not say how many pictures '{min(unknown)}' has")
        return self

    @property
    def number(self) -> int:
        """Of all questions."""
        return sum(len(task.questions) for task in self.tasks.values())

    def to_json(self) -> str:
        """The file."""
        return json.dumps(self.model_dump(mode="json"), indent=1, allow_nan=False) + "\n"

    @classmethod
    def read(cls, path: Path) -> "Questions":
        """From an ask.json.

        Raises:
            UserError: it is none, or of another version.
        """
        content = read_json(path, remedy=_AGAIN)
        found: dict[str, Any] = content if isinstance(content, dict) else {}
        if found.get("format") != FORMAT or found.get("version") != 1:
            raise UserError(
                f"{path} holds no questions: it has format {shown(found.get('format'))}, version "
                f"{shown(found.get('version'))}, and not {FORMAT!r}, version 1. {_AGAIN.mend}"
            )
        questions: Questions = fit(content, cls, str(path), remedy=_AGAIN)
        return questions
