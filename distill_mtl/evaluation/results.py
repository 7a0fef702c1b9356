"""The outcome of an evaluation as data: what `results.json` holds, and whether the student is accepted."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from distill_mtl.evaluation.baselines import Baseline
from distill_mtl.evaluation.cross_domain import Abroad
from distill_mtl.evaluation.differences import Calibration, ClassDelta, Disagreement
from distill_mtl.evaluation.mcnemar import McNemar
from distill_mtl.evaluation.table import console_table, markdown_table
from distill_mtl.evaluation.verdict import Rule, Verdict, judge
from distill_mtl.files import write_text


@dataclass(frozen=True, kw_only=True)
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
        ece: calibration error of student and teacher, in points; None where answers carry no confidence.
        classes: scores of each class in the classes' order; None where the score has none.
        disagreements: rows on which the student is worse than its teacher, hardest first.
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
    ece: Calibration | None = None
    classes: tuple[ClassDelta, ...] | None = None
    disagreements: tuple[Disagreement, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """What was measured, of the task's entry in results.json."""
        listed = {"ci95": self.ci95, "classes": self.classes, "disagreements": self.disagreements}
        return asdict(self) | {
            key: None if value is None else [asdict(item) if is_dataclass(item) else item for item in value]
            for key, value in listed.items()
        }


@dataclass(frozen=True)
class Cost:
    """What one image costs a network, or several together.

    Attributes:
        parameters: numbers that were learned; None: not known of a network that comes as a program.
        flops: of one forward pass; a multiplication and an addition count as two. None: another runtime than
            torch runs it, and nobody counts.
        bytes: of the weights in float32, as a file of them takes; None: not known.
        latency_ms: median time of one forward pass of one image.
        batch: rows of a batch that saturates, for what follows.
        rows_per_second: of such batches; None: not measured.
        peak_memory: bytes of the weights and of the most that a pass of such a batch takes beside them, the batch
            left out; None: it cannot be had here.
    """

    parameters: int | None
    flops: int | None
    bytes: int | None
    latency_ms: float
    batch: int = 1
    rows_per_second: float | None = None
    peak_memory: int | None = None

    def __add__(self, other: "Cost") -> "Cost":
        """Of both on every row, one after the other: all weights stay in memory, working memory is used again."""
        mine, theirs = self._working, other._working
        stored = _sum(self.bytes, other.bytes)
        rate = None
        if self.rows_per_second and other.rows_per_second:
            rate = 1 / (1 / self.rows_per_second + 1 / other.rows_per_second)
        return Cost(
            _sum(self.parameters, other.parameters),
            _sum(self.flops, other.flops),
            _sum(self.bytes, other.bytes),
            self.latency_ms + other.latency_ms,
            max(self.batch, other.batch),
            rate,
            None if mine is None or theirs is None or stored is None else stored + max(mine, theirs),
        )

    @property
    def _working(self) -> int | None:
        """Bytes beside the weights."""
        if self.peak_memory is None or self.bytes is None:
            return None
        return max(0, self.peak_memory - self.bytes)


@dataclass(frozen=True)
class HeadCost:
    """What one task's head takes of its student.

    Attributes:
        parameters: of the head alone.
        flops: of its part of a forward pass of one image, its trunk's left out.
    """

    parameters: int
    flops: int


def _sum(one: int | None, other: int | None) -> int | None:
    """Not known where a part is not."""
    return None if one is None or other is None else one + other


@dataclass(frozen=True)
class Evaluation:
    """One student against its teachers: scores, cost, verdict.

    Attributes:
        tasks: results by task.
        student_cost: of the whole student.
        teachers_cost: of all teachers together, None where no task has one.
        acceptance: margin of each task: the largest loss allowed, in points or in the unit of its labels.
        rule: whether the interval or the measured difference alone is held against the margin.
        hashed: tasks whose test rows were split off by a hash; their teachers may have seen these rows.
        split: the set that was measured; None: all rows of the data.
        steps: optimizer steps of the run, where the evaluation ends one.
        seconds: training time of the run.
        heads: by task, what its head takes of the student's cost; empty where the student does not show its heads.
        each_cost: by task, of its teacher alone.
        machine: that the costs were measured on.
        cross_domain: task -> source that has no labels of it -> how student and teacher agree on its images.
        baselines: by name, other networks on the same rows.
        names: what stood in the student's and in the teachers' place, where they were named one by one.
    """

    tasks: Mapping[str, TaskResult]
    student_cost: Cost
    teachers_cost: Cost | None
    acceptance: Mapping[str, float]
    hashed: frozenset[str] = field(default_factory=frozenset)
    split: str | None = "test"
    steps: int | None = None
    seconds: float | None = None
    heads: Mapping[str, HeadCost] = field(default_factory=dict)
    each_cost: Mapping[str, Cost] = field(default_factory=dict)
    machine: str | None = None
    cross_domain: Mapping[str, Mapping[str, Abroad]] = field(default_factory=dict)
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    rule: Rule = "interval"
    names: tuple[str, str] | None = None

    def verdict(self, task: str) -> Verdict | None:
        """What is decided about a task; None for one without a teacher, which is not judged."""
        return judge(self.tasks[task], self.acceptance[task], self.rule)

    def accepts(self, task: str) -> bool:
        """Whether the student may replace the task's teacher; a task without a teacher is not judged."""
        verdict = self.verdict(task)
        return verdict is None or verdict.decision == "non-inferior"

    @property
    def accepted(self) -> bool:
        """Whether every task is accepted."""
        return all(self.accepts(task) for task in self.tasks)

    def to_dict(self) -> dict[str, Any]:
        """The content of results.json."""
        return {
            "tasks": {name: self._task(name) for name in self.tasks},
            "cost": {
                "student": asdict(self.student_cost),
                "teachers": None if self.teachers_cost is None else asdict(self.teachers_cost),
                "each": {task: asdict(cost) for task, cost in self.each_cost.items()},
                "heads": {task: self._head(head) for task, head in self.heads.items()},
                "machine": self.machine,
            },
            "cross_domain": {
                task: {source: asdict(abroad) for source, abroad in found.items()}
                for task, found in self.cross_domain.items()
            },
            "baselines": {name: baseline.to_dict() for name, baseline in self.baselines.items()},
            "split": self.split,
            "acceptance": {"rule": self.rule, "margin": dict(self.acceptance)},
            "accepted": self.accepted,
            "steps": self.steps,
            "seconds": self.seconds,
        } | ({} if self.names is None else {"student": self.names[0], "against": self.names[1]})

    def _task(self, task: str) -> dict[str, Any]:
        """What was measured, and what it decides."""
        verdict = self.verdict(task)
        return self.tasks[task].to_dict() | {
            "margin": self.acceptance[task],
            "verdict": None if verdict is None else verdict.decision,
            "rows_to_decide": None if verdict is None else verdict.rows_to_decide,
        }

    def _head(self, head: HeadCost) -> dict[str, Any]:
        """A head's cost and its share of the student's, in [0, 1]."""
        whole = self.student_cost
        return asdict(head) | {
            "parameters_share": share_of(head.parameters, whole.parameters),
            "flops_share": share_of(head.flops, whole.flops),
        }

    def write(self, path: Path) -> None:
        """Write results.json, complete or not at all."""
        write_text(path, json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    def table(self) -> RenderableType:
        """For a rich console."""
        return console_table(self)

    def markdown(self) -> str:
        """The same for a page."""
        return markdown_table(self)


def share_of(part: int, whole: int | None) -> float | None:
    """In [0, 1]; None where there is nothing to share, or the whole is not known."""
    return part / whole if whole else None


def allowed_drops(acceptance: float | Mapping[str, float], tasks: Mapping[str, Any]) -> dict[str, float]:
    """The recipe's `acceptance` by task: one number for all, or by name with 1 point for the rest."""
    if isinstance(acceptance, Mapping):
        return {task: float(acceptance.get(task, 1.0)) for task in tasks}
    return {task: float(acceptance) for task in tasks}
