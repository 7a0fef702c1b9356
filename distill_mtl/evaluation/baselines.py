"""Other networks on the rows of an evaluation: what labels alone give, one network per task, an earlier student."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from distill_mtl.evaluation.results import TaskResult

BaselineKind = Literal["labels_only", "single_task", "model"]


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Baseline:
    """One network, or several, in the student's place.

    Attributes:
        kind: labels_only: one student trained on labels alone; single_task: a network for each task, of the same
            trunk; model: any other that was named.
        tasks: scores by task; a model may lack some.
    """

    kind: BaselineKind
    tasks: Mapping[str, BaselineScore]

    @classmethod
    def of(cls, kind: BaselineKind, results: Mapping[str, "TaskResult"]) -> "Baseline":
        """From a comparison of the baseline with the teachers."""
        return cls(
            kind,
            {task: BaselineScore(found.student, found.delta, found.ci95) for task, found in results.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """Its entry of results.json."""
        return {
            "kind": self.kind,
            "tasks": {
                task: asdict(score) | {"ci95": None if score.ci95 is None else list(score.ci95)}
                for task, score in self.tasks.items()
            },
        }


def baselines_in(results: Mapping[str, Any]) -> dict[str, Baseline]:
    """Those that the content of a results.json holds."""
    return {
        name: Baseline(
            entry["kind"],
            {
                task: BaselineScore(
                    score["score"], score["delta"], None if score["ci95"] is None else tuple(score["ci95"])
                )
                for task, score in entry["tasks"].items()
            },
        )
        for name, entry in results.get("baselines", {}).items()
    }
