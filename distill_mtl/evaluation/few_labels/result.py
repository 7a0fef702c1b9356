"""The result of few labels as one type: a difference, an interval and a verdict for each task over all pictures."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, computed_field, model_validator
from pydantic.dataclasses import dataclass

from distill_mtl import __version__
from distill_mtl.evaluation.result import Acceptance, hides_loss
from distill_mtl.evaluation.verdict import AcceptanceRule, Decision, judge
from distill_mtl.files import write_text

FORMAT: Final = "distill_mtl few labels"
_PART = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_PART)
class LabelledSlice:
    """A task on the pictures of a slice, from the labels that fell into it.

    Attributes:
        name: of the slice.
        pictures: that it has.
        population, asked, answered, skipped: as of the task, of these pictures.
        delta, ci95: as of the task, from these pictures alone; the interval holds after every label. None: too few
            pictures or answers.
        p: of so large a difference between networks that are alike on all of these pictures, valid after every label.
        p_holm: the same, corrected for the number of slices of all tasks.
        margin, verdict: where `acceptance.slices` names the slice.
    """

    name: str
    pictures: int
    population: int
    asked: int
    answered: int
    skipped: int = 0
    delta: float | None = None
    ci95: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None
    margin: float | None = None
    verdict: Decision | None = None

    def judged(self, margin: float | None, rule: AcceptanceRule) -> "LabelledSlice":
        """The same with a margin of its own and what it decides; None: it has none."""
        if margin is None:
            return replace(self, margin=None, verdict=None)
        if self.delta is None and self.ci95 is None:
            return replace(self, margin=margin, verdict="undecided")
        found = judge(
            *(self.delta or 0.0, self.ci95, max(1, self.answered), margin),
            "interval" if self.delta is None else rule,
        )
        return replace(self, margin=margin, verdict=found.decision)


@dataclass(frozen=True, kw_only=True, config=_PART)
class LabelledTask:
    """One task over all pictures, from the labels of some.

    Attributes:
        kind, metric, higher_is_better, in_points: as in `TaskResult`.
        population: pictures that could be asked: those on which the networks differ, or all.
        decided: only those on which they differ, as the others cannot change the difference.
        agreement: of student and teacher over all pictures, in [0, 1].
        asked: questions.
        answered: of them.
        skipped: questions that were answered with "cannot say".
        delta: the difference over all pictures, positive where the student is better; None without an answer.
        ci95: its 95 % interval; None: too few answers for one.
        anytime: the interval holds after every label, because not all questions are answered yet.
        unscored: classes that no answer shows.
        margin, verdict: as in `TaskResult`; set by the `LabelledSet`.
        labels_to_decide: about how many more labels would end `undecided`; None: as `rows_to_decide`.
        slices: of the pictures, the one that lost most first.
    """

    kind: str
    metric: str
    higher_is_better: bool
    in_points: bool
    population: int
    decided: bool
    agreement: float
    asked: int
    answered: int
    skipped: int = 0
    delta: float | None = None
    ci95: tuple[float, float] | None = None
    anytime: bool = False
    unscored: tuple[str, ...] = ()
    margin: float = 0.0
    verdict: Decision = "undecided"
    labels_to_decide: int | None = None
    slices: tuple[LabelledSlice, ...] = ()

    def judged(self, acceptance: Acceptance, task: str) -> "LabelledTask":
        """The same with a margin and what it decides."""
        margin, rule = acceptance.margin[task], acceptance.rule
        own = acceptance.of_slices(task)
        self = replace(self, slices=tuple(each.judged(own.get(each.name), rule) for each in self.slices))
        if self.delta is None and self.ci95 is None:
            return replace(self, margin=margin, verdict="undecided", labels_to_decide=None)
        # Without an answer the interval alone may decide: where few rows differ, few points can be lost.
        rows = max(1, self.answered)
        found = judge(self.delta or 0.0, self.ci95, rows, margin, rule if self.answered else "interval")
        more = found.rows_to_decide if self.answered else None
        if more is not None and math.isfinite(more):
            more = min(more, max(1, self.population - self.answered))
        return replace(self, margin=margin, verdict=found.decision, labels_to_decide=more)


class LabelledSet(BaseModel):
    """One student against its teachers on unlabelled pictures, of which some were labelled; `write` makes result.json.

    Attributes:
        format, version: of the file.
        distill_mtl: the program's version that measured.
        run: the run folder.
        pictures: over which the differences are.
        unread: pictures that could not be read, which no number includes.
        tasks: results by task, each with its verdict.
        acceptance: rule and margins.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    format: Literal["distill_mtl few labels"] = FORMAT
    version: Literal[1] = 1
    distill_mtl: str = __version__
    run: str
    pictures: int
    unread: int
    tasks: dict[str, LabelledTask]
    acceptance: Acceptance

    @computed_field  # type: ignore[prop-decorator]
    @property
    def accepted(self) -> bool:
        """Whether every task is non-inferior to its teacher, also on the slices that have margins."""
        verdicts = [task.verdict for task in self.tasks.values()]
        verdicts += [each.verdict for task in self.tasks.values() for each in task.slices if each.verdict]
        return all(verdict == "non-inferior" for verdict in verdicts)

    @property
    def hidden_losses(self) -> dict[str, tuple[LabelledTask, LabelledSlice]]:
        """`TASK in SLICE` -> both, of slices with a loss that the verdict does not tell, worst first: as of
        `Evaluation`."""
        found = {
            f"{task} in {each.name}": (result, each)
            for task, result in self.tasks.items()
            if result.verdict != "inferior"
            for each in result.slices
            if hides_loss(each.delta, each.p_holm, each.verdict, each.margin, result.margin)
        }
        return dict(sorted(found.items(), key=lambda line: line[1][1].delta or 0.0))

    @property
    def answered(self) -> int:
        """Labels of all tasks."""
        return sum(task.answered for task in self.tasks.values())

    def write(self, path: Path) -> None:
        """Write result.json, complete or not at all."""
        content: dict[str, Any] = self.model_dump(mode="json")
        write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")

    @model_validator(mode="after")
    def _judge(self) -> "LabelledSet":
        """Set every task's verdict, so that none can differ from the numbers and the margin beside it."""
        judged = {task: result.judged(self.acceptance, task) for task, result in self.tasks.items()}
        object.__setattr__(self, "tasks", judged)
        return self
