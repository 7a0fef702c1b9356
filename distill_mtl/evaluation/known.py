"""Labels as far as a teacher is asked about them: one that knows some of the classes only has no say in the others.

Its logits there (`teachers.label_map.UNKNOWN`) are no answers, so neither it nor the student beside it is scored on
them, in the check, along the way and in the comparison.
"""

from dataclasses import replace

import torch

from distill_mtl.data.batch import Batch
from distill_mtl.tasks.base import TaskKind

Known = tuple[int, ...] | None
"""Positions of the classes that a teacher knows; None: all of them."""


def known_to(teacher: object) -> Known:
    """The classes that a network knows, where it says so."""
    known: Known = getattr(teacher, "known", None)
    return known


def asked_about(batch: Batch, kind: TaskKind, task: str, known: Known) -> Batch:
    """The batch with labels of the classes in `known` alone, where the kind can tell them apart."""
    if known is None:
        return batch
    return replace(batch, labels={**batch.labels, task: kind.within(batch.labels[task], known)})


def still_labelled(batch: Batch, kind: TaskKind, task: str) -> Batch:
    """The rows of a batch whose label says something."""
    keep = [row for row, label in enumerate(batch.labels[task]) if kind.has_label(label)]
    return batch.only(torch.tensor(keep, dtype=torch.long))
