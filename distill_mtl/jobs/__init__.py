"""What a user can have done: one module per job, each job one typed function with a docstring.

`JOBS` is the one list of them. `distill_mtl` exports its functions, and cli.py makes a command of each from its
signature and docstring. Nothing is imported for that: help needs no torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

NOT_READ, NOT_ACCEPTED = 2, 3
"""Exit statuses: some input could not be read (that of any mistake); the student is below its acceptance."""


def _always(result: Any) -> int:
    return 0


def _accepted(result: Any) -> int:
    """0 where every comparison is accepted; also for questions (`--ask`), which decide nothing."""
    found = result.values() if isinstance(result, dict) else [result]
    return 0 if all(getattr(comparison, "accepted", True) for comparison in found) else NOT_ACCEPTED


def _accepted_or_no_gate(evaluation: Any) -> int:
    """A run that did its work ends with 0, unless its recipe makes acceptance a gate."""
    return _accepted(evaluation) if evaluation.acceptance.gate else 0


def _all_read(unread: Any) -> int:
    return NOT_READ if unread else 0


@dataclass(frozen=True)
class Job:
    """A function of the public API and the command that runs it.

    Attributes:
        command: its words after `distill-mtl`. `distill` is also what `accelerate launch distill.py` starts, which may
            run several processes.
        module: of `distill_mtl.jobs`, that holds the function.
        function: its name.
        status: the exit status, from what the function returns.
        keeps_data: the command takes --cache: it may download or generate data.
    """

    command: str
    module: str
    function: str
    status: Callable[[Any], int] = _always
    keeps_data: bool = True

    @property
    def path(self) -> str:
        """The module with its packages."""
        return f"{__name__}.{self.module}"


DISTILL = Job("distill", "distill", "distill", _accepted_or_no_gate)
JOBS = (
    DISTILL,
    Job("shards folder", "shards", "shards_from_folder", keeps_data=False),
    Job("shards table", "shards", "shards_from_table", keeps_data=False),
    Job("shards pairs", "shards", "shards_from_pairs", keeps_data=False),
    Job("shards torchvision", "shards", "shards_from_torchvision", keeps_data=False),
    Job("shards coco", "annotated_shards", "shards_from_coco", keeps_data=False),
    Job("shards yolo", "annotated_shards", "shards_from_yolo", keeps_data=False),
    Job("shards voc", "annotated_shards", "shards_from_voc", keeps_data=False),
    Job("shards hf", "annotated_shards", "shards_from_hf", keeps_data=False),
    Job("index", "index", "index_shards", keeps_data=False),
    Job("init", "new_recipe", "draft_recipe"),
    Job("check", "check", "check"),
    Job("branch", "branch", "branch"),
    Job("forecast", "forecast", "forecast"),
    Job("cache write", "cache", "write_cache"),
    Job("cache verify", "cache", "verify_cache"),
    Job("evaluate", "evaluate", "evaluate", _accepted),
    Job("report", "report", "write_report", keeps_data=False),
    Job("export", "export", "export_student"),
    Job("verify", "verify", "verify_export", _accepted),
    Job("predict", "predict", "predict", _all_read),
    Job("schema", "new_recipe", "recipe_schema", keeps_data=False),
    Job("teacher inspect", "one_teacher", "inspect_teacher", keeps_data=False),
    Job("teacher check", "one_teacher", "check_teacher"),
    Job("teacher train", "one_teacher", "train_teacher"),
)
