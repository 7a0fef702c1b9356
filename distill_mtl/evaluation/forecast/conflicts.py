"""How much teachers of different tasks are at odds: features by depth, answers, gradients of the first steps, data."""

from collections.abc import Mapping, Sequence
from dataclasses import field
from itertools import combinations

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor

from distill_mtl.data.all_sources import SourceSummary
from distill_mtl.training.branching.find import Branching
from distill_mtl.training.branching.teacher_features import row_batches
from distill_mtl.training.parts import Parts

_PART = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True, kw_only=True, config=_PART)
class PairOfTasks:
    """Two tasks.

    Attributes:
        tasks: their names.
        affinity: rank correlation of which rows are alike for the two teachers (`rsa`), by depth of the student; empty:
            their features cannot be compared.
        agreement: how often the two teachers decide alike, in [0, 1]; None: they do not answer the same classes.
        cosine: of the tasks' gradients, mean over the steps of the fork; None: the balancing rule compares none.
        together: share of the training rows with a label of either task that have labels of both, in [0, 1].
    """

    tasks: tuple[str, str]
    affinity: dict[str, float] = field(default_factory=dict)
    agreement: float | None = None
    cosine: float | None = None
    together: float = 0.0


@dataclass(frozen=True, kw_only=True, config=_PART)
class Conflicts:
    """What is known of the teachers together.

    Attributes:
        pairs: of tasks, in the recipe's order.
        random: affinity of the teachers to a network of the student's kind with random weights, by depth: what any two
            networks share.
        unlike: task -> why its teacher's features are not compared.
    """

    pairs: tuple[PairOfTasks, ...]
    random: dict[str, float] = field(default_factory=dict)
    unlike: dict[str, str] = field(default_factory=dict)


def conflicts_of(
    parts: Parts, images: Tensor, branching: Branching | None, device: torch.device, why: str = ""
) -> Conflicts:
    """Everything but the gradients, which a fork measures.

    Args:
        parts: of the run, their teachers on the device.
        images: rows that answers are compared on, float [R, 3, H, W] in [0, 1].
        branching: the teachers' likeness by depth; None: it cannot be had.
        device: where the teachers are.
        why: it cannot be had.
    """
    likeness = {} if branching is None else branching.likeness["rsa"]
    depths = [] if branching is None else [depth.layer for depth in branching.depths]
    agreements = agreements_of(parts, images, device)
    summaries = parts.sources.summary()
    return Conflicts(
        pairs=tuple(
            PairOfTasks(
                tasks=pair,
                affinity=dict(zip(depths, likeness.get(pair, ()), strict=False)),
                agreement=agreements.get(pair),
                together=labelled_together(pair, summaries),
            )
            for pair in combinations(parts.kinds, 2)
        ),
        random=dict(zip(depths, likeness.get((), ()), strict=False)),
        unlike=dict(branching.left_out) if branching is not None else dict.fromkeys(parts.kinds, why),
    )


@torch.no_grad()
def agreements_of(parts: Parts, images: Tensor, device: torch.device) -> dict[tuple[str, str], float]:
    """Pairs of tasks of the same kind and classes -> how often their teachers decide alike."""
    found: dict[tuple[str, str], list[Tensor]] = {}
    for pair in combinations(parts.kinds, 2):
        one, other = (parts.kinds[task] for task in pair)
        same = type(one) is type(other) and one.classes and one.classes == other.classes
        if same and all(task in parts.teachers for task in pair):
            found[pair] = []
    asked = {task for pair in found for task in pair}
    for batch in row_batches(images, device) if found else ():
        logits = {task: parts.teachers[task](batch).logits for task in asked}
        for (task, other_task), values in found.items():
            values.append(parts.kinds[task].agreement(logits[task], logits[other_task]))
    return {pair: float(torch.cat(values).mean()) for pair, values in found.items()}


def labelled_together(pair: tuple[str, str], summaries: Sequence[SourceSummary]) -> float:
    """Share of the training rows with a label of either task that are of a data set with labels of both."""
    rows = {each.name: each.rows["train"] for each in summaries}
    either = [each.name for each in summaries if set(pair) & set(each.labels)]
    both = [each.name for each in summaries if set(pair) <= set(each.labels)]
    return sum(rows[name] for name in both) / max(1, sum(rows[name] for name in either))


def mean_cosines(steps: Sequence[Mapping[str, float]]) -> dict[tuple[str, str], float]:
    """Pair of tasks -> mean cosine of their gradients, from the diagnostics of some steps.

    Args:
        steps: `Diagnostics.cosines` of each step, by `TASK/TASK`; of a student in parts each part has its own.
    """
    found = dict[tuple[str, str], list[float]]()
    for cosines in steps:
        for name, value in cosines.items():
            *_, one, other = name.split("/")
            found.setdefault((one, other), []).append(value)
    return {pair: sum(values) / len(values) for pair, values in found.items()}
