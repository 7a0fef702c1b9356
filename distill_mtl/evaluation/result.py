"""The result of a comparison as one type: what was measured, what it decides, and its file, results.json.

Everything that shows a result (console, model card, report, hub card) is made from an `Evaluation` and from nothing
else. Verdicts and acceptance are computed here alone, when an `Evaluation` is made, from its numbers and its margins.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    computed_field,
    model_serializer,
    model_validator,
)
from pydantic.dataclasses import dataclass

from distill_mtl import __version__
from distill_mtl.errors import UserError
from distill_mtl.evaluation.network_costs import Costs
from distill_mtl.evaluation.verdict import AcceptanceRule, Decision, judge
from distill_mtl.files import write_text
from distill_mtl.reading import Remedy, fit, read_json, shown
from distill_mtl.recipe.schema import task_of

FORMAT: Final = "distill_mtl results"
VERSION: Final = 2
"""Format and version of results.json. Whoever adds a key to a version that was released raises it: a reader refuses
keys that it does not know. Files of all earlier versions are read: a new key has a default, which says that nothing is
known. Version 2 added `distill_mtl`, `hashed`, `unscored`, `unmeasured`, `training_rows`, `acceptance.gate`, and for
tasks with several teachers `against` and `classes.known_by`, `slices` and `acceptance.slices`, `resampled` and
`drawn_from`."""
_PROGRAM = re.compile(r"[\w.+-]{1,40}")  # a version of it
_NUMBERS = re.compile(r"\[\s+-?\d[^\]\"{}]*\]")  # a list of numbers takes one line of the file
HIDDEN = 0.05
"""p, corrected for the number of slices, below which a loss in a slice is beyond chance."""
McNemarTest = Literal["exact", "clustered"]
BaselineKind = Literal["labels_only", "single_task", "model"]
_PART = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, config=_PART)
class McNemar:
    """Rows that one of two networks alone gets right.

    Attributes:
        student_only: rows right by the student alone.
        teacher_only: rows right by the teacher alone.
        p: of so uneven a split, or a more uneven one, if both are equally accurate; both sides.
        test: which one gave it: `exact` for rows that are independent, `clustered` for rows that form groups.
    """

    student_only: int
    teacher_only: int
    p: float
    test: McNemarTest


@dataclass(frozen=True, config=_PART)
class CalibrationError:
    """Expected calibration errors, in points."""

    student: float
    teacher: float | None


@dataclass(frozen=True, config=_PART)
class ClassDelta:
    """One class's scores.

    Attributes:
        name: of the class.
        teacher: its score; None without a teacher.
        student: its score.
        delta: positive where the student is better; None without a teacher.
        known_by: names of the teachers that know it, of a task with several.
    """

    name: str
    teacher: float | None
    student: float
    delta: float | None
    known_by: tuple[str, ...] = ()


@dataclass(frozen=True, config=_PART)
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


@dataclass(frozen=True, kw_only=True, config=_PART)
class SliceResult:
    """A task on some of its test rows, those of a slice. Without scores it has too few of them.

    Attributes:
        name: of the slice.
        rows, groups: how many it has.
        teacher, student, delta, ci95: as of a task, from the rows of the slice.
        p: of so large a difference between networks that are alike on these rows.
        p_holm: the same, corrected for the number of slices of all tasks.
        margin: the largest loss allowed on this slice, where the recipe names it in `acceptance.slices`.
        verdict: what is decided on it then.
        rows_to_decide: as of a task.
    """

    name: str
    rows: int
    groups: int
    teacher: float | None = None
    student: float | None = None
    delta: float | None = None
    ci95: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None
    margin: float | None = None
    verdict: Decision | None = None
    rows_to_decide: int | None = None

    def judged(self, margin: float | None, rule: AcceptanceRule) -> "SliceResult":
        """The same with a margin of its own and what it decides; None: it has none."""
        if margin is None:
            return replace(self, margin=None, verdict=None, rows_to_decide=None)
        if self.delta is None:
            return replace(self, margin=margin, verdict="undecided", rows_to_decide=None)
        found = judge(self.delta, self.ci95, self.rows, margin, rule)
        return replace(self, margin=margin, verdict=found.decision, rows_to_decide=found.rows_to_decide)


def hides_loss(
    delta: float | None,
    p_holm: float | None,
    verdict: Decision | None,
    margin: float | None,
    margin_of_task: float,
) -> bool:
    """Whether a slice loses more than its margin, or its task's, as measured and beyond chance, and no verdict on it
    says so."""
    allowed = margin_of_task if margin is None else margin
    beyond_chance = p_holm is not None and p_holm < HIDDEN
    return beyond_chance and verdict != "inferior" and delta is not None and delta < -allowed


@dataclass(frozen=True, kw_only=True, config=_PART)
class TaskResult:
    """One task, measured on its own labelled rows. Without a teacher, what compares is None.

    Attributes:
        kind: of the task.
        metric: name of the score.
        higher_is_better: its direction.
        rows: how many rows were measured.
        groups: how many independent groups they form.
        teacher: score of the teacher, in points or in the labels' unit.
        student: score of the student.
        delta: difference in the same, positive where the student is better whatever the direction.
        ci95: 95 % interval of delta; None too where a single group of rows leaves nothing to resample.
        agreement: how often student and teacher decide alike, in [0, 1].
        in_points: whether the score is in points (or degrees), not in a unit of the labels.
        mcnemar: the test of whether accuracies differ; None for other scores.
        ece: calibration error of student and teacher; None where answers carry no confidence.
        classes: scores of each class in the classes' order; None where the score has none.
        unscored: classes without a label on these rows, which have no score.
        unmeasured: the labels cannot tell a good answer from a constant one: only one of several exclusive classes has
            labels, or no class has a score. The scores mean nothing then, and there is no verdict.
        disagreements: rows on which the student is worse than its teacher, hardest first.
        margin: the largest loss allowed, in the score's unit. It and the verdict are set by the `Evaluation`.
        verdict: what is decided; None without a teacher, and before it is judged.
        rows_to_decide: about how many more rows would end `undecided`; None: it is decided, or no number of rows
            is known to help.
        against: who the teacher is, of a task with several, and which classes it knows.
        slices: of the rows, the one that lost most first.
        resampled: delta on the first resamples of the groups, which are drawn alike in every run: so runs of several
            seeds are compared on the same rows.
        drawn_from: a digest of the groups' names; None without resamples.
    """

    kind: str
    metric: str
    higher_is_better: bool
    rows: int
    groups: int
    teacher: float | None = None
    student: float
    delta: float | None = None
    ci95: tuple[float, float] | None = None
    agreement: float | None = None
    in_points: bool = True
    mcnemar: McNemar | None = None
    ece: CalibrationError | None = None
    classes: tuple[ClassDelta, ...] | None = None
    unscored: tuple[str, ...] = ()
    unmeasured: bool = False
    disagreements: tuple[Disagreement, ...] = ()
    margin: float = 0.0
    verdict: Decision | None = None
    rows_to_decide: int | None = None
    against: str | None = None
    slices: tuple[SliceResult, ...] = ()
    resampled: tuple[float, ...] = ()
    drawn_from: str | None = None

    def judged(
        self, margin: float, rule: AcceptanceRule, of_slices: Mapping[str, float] = MappingProxyType({})
    ) -> "TaskResult":
        """The same with a margin and what it decides, of the whole and of the slices that have margins."""
        if self.delta is not None:
            judged = tuple(each.judged(of_slices.get(each.name), rule) for each in self.slices)
            self = replace(self, slices=judged)
        if self.delta is None:
            return replace(self, margin=margin, verdict=None, rows_to_decide=None)
        if self.unmeasured:
            return replace(self, margin=margin, verdict="undecided", rows_to_decide=None)
        found = judge(self.delta, self.ci95, self.rows, margin, rule)
        return replace(self, margin=margin, verdict=found.decision, rows_to_decide=found.rows_to_decide)

    def on_slice(self, one: SliceResult) -> "TaskResult":
        """A slice of the task in the form of a task, for what is said of either."""
        return replace(
            self,
            rows=one.rows,
            groups=one.groups,
            teacher=one.teacher,
            student=self.student if one.student is None else one.student,
            delta=one.delta,
            ci95=one.ci95,
            margin=self.margin if one.margin is None else one.margin,
            verdict=one.verdict,
            rows_to_decide=one.rows_to_decide,
            slices=(),
        )


@dataclass(frozen=True, config=_PART)
class CrossDomainAgreement:
    """Student and teacher of one task on the images of a source that has no labels of it.

    Attributes:
        rows: images that were looked at.
        agreement: how often they decide alike, in [0, 1]; None without images.
    """

    rows: int
    agreement: float | None


@dataclass(frozen=True, config=_PART)
class StudentScore:
    """The student of a run on other rows than those of its comparison.

    Attributes:
        score: in the metric of the task's result.
        rows: how many were measured.
        ci95: the 95 % interval of the score.
    """

    score: float
    rows: int
    ci95: tuple[float, float]


@dataclass(frozen=True, config=_PART)
class BaselineScore:
    """One task of a baseline.

    Attributes:
        score: in the metric of the task's result.
        delta: baseline minus teacher, positive where the baseline is better; None without a teacher.
        ci95: its 95 % interval.
    """

    score: float
    delta: float | None
    ci95: tuple[float, float] | None


@dataclass(frozen=True, config=_PART)
class Baseline:
    """One network, or several, in the student's place.

    Attributes:
        kind: labels_only: one student trained on labels only; single_task: a network for each task, of the same
            trunk; model: any other that was named.
        tasks: scores by task; a model may lack some.
    """

    kind: BaselineKind
    tasks: dict[str, BaselineScore]

    @classmethod
    def of(cls, kind: BaselineKind, results: Mapping[str, TaskResult]) -> "Baseline":
        """From a comparison of the baseline with the teachers."""
        return cls(
            kind,
            {task: BaselineScore(found.student, found.delta, found.ci95) for task, found in results.items()},
        )


@dataclass(frozen=True, config=_PART)
class Acceptance:
    """The margins and the rule by which a student is accepted.

    Attributes:
        rule: whether the interval or the measured difference alone is held against the margin.
        margin: by task, the largest loss allowed, in points or in the unit of its labels.
        gate: the run asked for an exit status of its own if the student is not accepted.
        slices: slice -> task -> the largest loss allowed on the rows of the slice.
    """

    rule: AcceptanceRule
    margin: dict[str, float]
    gate: bool = False
    slices: dict[str, dict[str, float]] = Field(default_factory=dict)

    def of_slices(self, task: str) -> dict[str, float]:
        """Slice -> its margin in a task, where it has one."""
        return {name: margins[task] for name, margins in self.slices.items() if task in margins}


class Evaluation(BaseModel):
    """One student against its teachers: scores, cost, verdict. `write` makes a results.json of it, `read` reads one.

    Attributes:
        format, version: of the file.
        distill_mtl: the program's version that measured; None: one that did not say it.
        tasks: results by task, each with its verdict; of a task with several teachers also TASK/1, TASK/2 and so on,
            the student against each of them on its classes and rows, and TASK/all, against them together on the
            classes that all of them know, where these are not all classes.
        cost: of student and teachers.
        cross_domain: task -> source that has no labels of it -> how student and teacher agree on its images.
        baselines: by name, other networks on the same rows.
        split: the set that was measured; None: all rows of the data.
        hashed: tasks whose rows were split off by a hash of their key; their teachers may have seen these rows.
        acceptance: rule and margins.
        training_rows: by task, the student on some of the rows that it was trained on, where the evaluation ends a run.
        steps: optimizer steps of the run, where the evaluation ends one.
        seconds: training time of the run.
        student, against: what stood in the student's and in the teachers' place, where they were named one by one.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants")

    format: Literal["distill_mtl results"] = FORMAT
    version: Literal[2] = VERSION
    distill_mtl: str | None = __version__
    tasks: dict[str, TaskResult]
    cost: Costs
    cross_domain: dict[str, dict[str, CrossDomainAgreement]] = Field(default_factory=dict)
    baselines: dict[str, Baseline] = Field(default_factory=dict)
    split: str | None = "test"
    hashed: tuple[str, ...] = ()
    acceptance: Acceptance
    training_rows: dict[str, StudentScore] = Field(default_factory=dict)
    steps: int | None = None
    seconds: float | None = None
    student: str | None = None
    against: str | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def accepted(self) -> bool:
        """Whether every task that has a teacher is measured, and non-inferior to it; also on the slices that have a
        margin."""
        return all(
            result.verdict in (None, "non-inferior")
            for result in (*self.tasks.values(), *self.judged_slices.values())
        )

    @property
    def judged_slices(self) -> dict[str, TaskResult]:
        """`TASK in SLICE` -> its result, of the slices that have a margin of their own."""
        return {
            f"{task} in {each.name}": result.on_slice(each)
            for task, result in self.tasks.items()
            for each in result.slices
            if each.verdict is not None
        }

    @property
    def hidden_losses(self) -> dict[str, TaskResult]:
        """`TASK in SLICE` -> its result, worst first, of slices with a loss that the verdict does not tell.

        They lose more than the margin as measured, and lose beyond chance (Holm) where there are so many slices; and
        neither their task nor the slice itself is judged inferior.
        """
        lost = [
            (f"{task} in {each.name}", result.on_slice(each))
            for task, result in self.tasks.items()
            if result.verdict != "inferior"
            for each in result.slices
            if hides_loss(each.delta, each.p_holm, each.verdict, each.margin, result.margin)
        ]
        return dict(sorted(lost, key=lambda each: each[1].delta or 0.0))

    @property
    def compared(self) -> dict[str, TaskResult]:
        """The tasks that have a teacher."""
        return {task: result for task, result in self.tasks.items() if result.delta is not None}

    @property
    def teacher_count(self) -> int:
        """How many teachers there are; one that teaches two tasks counts twice."""
        return len(self.cost.each) or len(self.compared)

    @classmethod
    def read(cls, path: Path) -> "Evaluation":
        """From a results.json.

        Raises:
            UserError: it is none, or one of a later version; says which program reads it, and which command measures
                again.
        """
        again = f"Measure again: distill-mtl evaluate {path.parent} --write"
        content = read_json(path, remedy=Remedy(again))
        found = content if isinstance(content, dict) else {}
        version = found.get("version")
        if found.get("format") != FORMAT or type(version) is not int or version < 1:
            said = "no format" if "format" not in found else f"format {shown(found['format'])}"
            raise UserError(
                f"{path} is no results.json: it has {said}, version {shown(version)}, and not {FORMAT!r}, version 1 to "
                f"{VERSION}. {again}"
            )
        if version > VERSION:
            writer = str(found.get("distill_mtl"))
            program = f"distill_mtl {writer if _PROGRAM.fullmatch(writer) else 'of a later version'}"
            raise UserError(
                f"{path} has version {version}, written by {program}. This is distill_mtl {__version__}, which reads "
                f"versions 1 to {VERSION}. Read it with {program}. {again}"
            )
        unknown = {"distill_mtl": None} if version == 1 else {}
        result: Evaluation = fit(
            unknown | content | {"version": VERSION}, cls, str(path), remedy=Remedy(again)
        )
        return result

    def changed(self, **fields: Any) -> "Evaluation":
        """The same with other values of some fields, checked and judged again."""
        return Evaluation(**(dict(self) | fields))

    def write(self, path: Path) -> None:
        """Write results.json, complete or not at all.

        Raises:
            ValueError: a number is not finite, which JSON cannot say.
        """
        text = json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False)
        write_text(path, _NUMBERS.sub(lambda found: " ".join(found[0].split()), text) + "\n")

    @model_validator(mode="after")
    def _judge(self) -> "Evaluation":
        """Set every task's verdict, so that none can differ from the numbers and the margin beside it."""
        rule, margin = self.acceptance.rule, self.acceptance.margin
        if lacking := [task for task in self.tasks if task not in margin]:
            raise ValueError(f"acceptance.margin lacks the task {shown(lacking[0])}")
        judged = {
            task: result.judged(margin[task], rule, self.acceptance.of_slices(task))
            for task, result in self.tasks.items()
        }
        object.__setattr__(self, "tasks", judged)
        return self

    @model_serializer(mode="wrap")
    def _without_names(self, content: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """`student` and `against` are keys of a file that compares two named models, and of no other."""
        written: dict[str, Any] = content(self)
        return {
            key: value
            for key, value in written.items()
            if value is not None or key not in ("student", "against")
        }


def margins_by_task(acceptance: float | Mapping[str, float], tasks: Mapping[str, Any]) -> dict[str, float]:
    """The recipe's `acceptance` by task: one number for all, or by name with 1 point for the rest."""
    if isinstance(acceptance, Mapping):
        return {name: float(acceptance.get(name, acceptance.get(task_of(name), 1.0))) for name in tasks}
    return {task: float(acceptance) for task in tasks}
