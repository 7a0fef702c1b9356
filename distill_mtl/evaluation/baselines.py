"""Other networks on the rows of an evaluation: what labels alone give, one network per task, an earlier student."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from distill_mtl.evaluation.results import TaskResult

BaselineKind = Literal["labels_only", "single_task", "model"]


@dataclass(frozen=True)
class Baseline:
    """One of them.

    Attributes:
        kind: labels_only: one student trained on labels alone; single_task: a network for each task, of the same
            trunk; model: any other that was named.
        tasks: results by task, where the baseline stands in the student's place.
    """

    kind: BaselineKind
    tasks: Mapping[str, "TaskResult"]

    def to_dict(self) -> dict[str, Any]:
        """Its entry of results.json."""
        return {
            "kind": self.kind,
            "tasks": {
                task: {
                    "score": result.student,
                    "delta": result.delta,
                    "ci95": None if result.ci95 is None else list(result.ci95),
                }
                for task, result in self.tasks.items()
            },
        }
