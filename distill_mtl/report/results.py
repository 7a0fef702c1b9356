"""results.json as the report reads it."""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from distill_mtl.errors import UserError


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True)


class ClassScore(_Entry):
    """One class of a task; `delta` is positive where the student is better."""

    name: str
    teacher: float | None
    student: float | None
    delta: float | None


class Disagreement(_Entry):
    """A row on which student and teacher part; in words, where words can say it."""

    key: str
    teacher: str | None
    student: str | None
    label: str | None
    loss: float


class McNemar(_Entry):
    """Rows that one of the two alone has right, and how likely that is by chance."""

    student_only: int
    teacher_only: int
    p: float
    test: Literal["exact", "clustered"]


class CalibrationError(_Entry):
    """Expected calibration error of both, in points."""

    student: float
    teacher: float | None


class TaskScore(_Entry):
    """One task, measured."""

    kind: str
    metric: str
    higher_is_better: bool
    rows: int
    teacher: float | None
    student: float
    delta: float | None
    ci95: tuple[float, float] | None
    agreement: float | None
    in_points: bool
    groups: int
    margin: float
    verdict: Literal["non-inferior", "inferior", "undecided"] | None
    rows_to_decide: int | None
    mcnemar: McNemar | None
    ece: CalibrationError | None
    classes: list[ClassScore] | None
    disagreements: list[Disagreement]


class NetworkCost(_Entry):
    """What a network, or several one after another, take."""

    parameters: int | None
    flops: int | None
    bytes: int | None
    latency_ms: float
    batch: int
    rows_per_second: float | None
    peak_memory: int | None


class HeadShare(_Entry):
    """What one head takes of its student, the shares in [0, 1]."""

    parameters: int
    flops: int
    parameters_share: float | None
    flops_share: float | None


class Costs(_Entry):
    """Student, all teachers together, each of them, and the student's heads."""

    student: NetworkCost
    teachers: NetworkCost | None
    heads: dict[str, HeadShare]
    each: dict[str, NetworkCost]
    machine: str


class CrossAgreement(_Entry):
    """How often student and teacher decide alike on another data set's images, in [0, 1]; None without any."""

    rows: int
    agreement: float | None


class BaselineScore(_Entry):
    """A baseline on one task; `delta` to the teacher, positive where the baseline is better."""

    score: float
    delta: float | None
    ci95: tuple[float, float] | None


class Baseline(_Entry):
    """Another network that was measured beside the student."""

    kind: str
    tasks: dict[str, BaselineScore]


class Acceptance(_Entry):
    """The rule by which a student is accepted, and its margin by task."""

    rule: Literal["interval", "point"]
    margin: dict[str, float]


class Results(_Entry):
    """The whole file."""

    tasks: dict[str, TaskScore]
    cost: Costs
    accepted: bool
    steps: int | None
    seconds: float | None
    split: str
    acceptance: Acceptance
    cross_domain: dict[str, dict[str, CrossAgreement]]
    baselines: dict[str, Baseline]


def read_results(path: Path) -> Results:
    """The file's content.

    Raises:
        UserError: it is not what a run of this version writes.
    """
    try:
        return Results.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is no JSON ({error}). Write it again: distill-mtl evaluate RUN.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}, {where}: {first['msg']}. It comes from another version; write it again with this one."
        ) from None
