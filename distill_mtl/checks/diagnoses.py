"""Why a teacher does worse than it should: the usual suspects, tried one by one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_mtl.checks.preprocessings import Reading, pixel_readings, readings
from distill_mtl.checks.probe import Probed, probe
from distill_mtl.checks.teacher_score import Measured, Rows, gain, measure, thinned
from distill_mtl.data.batch import Batch
from distill_mtl.networks.backbone import LOGITS
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.teacher import Teacher

ROWS = 512
"""Rows on which each reading is tried; the best one is then measured on all of them."""
GAIN = 2.0
"""Points by which another reading must do better before a teacher that passes is called misread, and an order of
classes before it is preferred to another reading."""
DEPENDS = 0.05
"""How far an answer may move in other company, as a share of the largest: rounding, and the quantisation of a
batch, move it less."""


@dataclass(frozen=True)
class Suspect:
    """What seems to be wrong with a teacher.

    Attributes:
        what: a clause.
        mend: a sentence that says what to do.
    """

    what: str
    mend: str


BATCH = Suspect(
    "its answers depend on the other rows of the batch: is a layer (BatchNorm) in train mode?",
    "Save or export it again after model.eval(), with running statistics in its norms.",
)


def find_suspect(
    teacher: Teacher,
    kind: TaskKind,
    task: str,
    batches: Sequence[Batch],
    measured: Measured,
    expected: float | None,
) -> Suspect | None:
    """The likeliest cause of a low score; None where nothing explains it.

    First another reading, if it makes good most of what is missing: four fifths where it is known what is
    missing, because the best order of classes lifts even a random head; half of what a perfect network would
    score where it is not. Then what its features know: a probe that goes half of the way from a constant
    answer knows the classes.

    Args:
        teacher: that scored too low, and whose answers do not depend on the batch.
        kind, task, batches: what it was measured on.
        measured: what it scored.
        expected: what it should score, where somebody says.
    """
    sign = 1 if kind.higher_is_better else -1
    goal = sign * (expected if expected is not None else kind.perfect)
    best, score = _best_reading(teacher, kind, task, batches, sign)
    if best is not None and goal - sign * score <= (0.2 if expected is not None else 0.5) * (
        goal - sign * measured.score
    ):
        return _suspect(best, score)
    probed = probe(teacher, kind, task, thinned(batches, ROWS) if kind.dense else batches)
    if probed is None:
        return None
    known = goal - sign * probed.score <= 0.5 * (goal - sign * probed.constant)
    return _by_features(probed, known, kind.dense)


def find_misreading(
    teacher: Teacher, kind: TaskKind, task: str, rows: Rows, measured: Measured
) -> Suspect | None:
    """A reading of the pixels that does clearly better than the one that a teacher passed with.

    For teachers of which nobody says what to expect: most survive a wrong normalisation, with some points
    less. Clearly is 2 points (of a score in points), a third of what is missing, and more than chance.
    """
    few = list(rows(ROWS // 2))
    missing = abs(kind.perfect - measured.score)
    best, best_gain = None, max(GAIN if kind.in_points else 0.0, missing / 3)
    for reading in pixel_readings(teacher):
        more, low = gain(reading, lambda images: teacher(images).logits, kind, task, few)
        if more > best_gain and low > 0:
            best, best_gain = reading, more
    found = measure(best, kind, task, rows(measured.rows)) if best is not None else None
    return _suspect(best, found.score) if best is not None and found is not None else None


def _suspect(reading: Reading, score: float) -> Suspect:
    return Suspect(f"{reading.what} (it scores {score:.2f} when read so)", reading.mend)


def _best_reading(
    teacher: Teacher, kind: TaskKind, task: str, batches: Sequence[Batch], sign: int
) -> tuple[Reading | None, float]:
    """The reading that lifts the teacher most, and what it scores on all rows."""
    few, best, best_score = thinned(batches, ROWS), None, -math.inf
    for reading in readings(teacher, kind, task, batches):
        measured = measure(reading, kind, task, few)
        if measured is None:
            continue
        # An order is fitted to the labels, so it must do better than a reading that is not.
        score = sign * measured.score - (GAIN if reading.order is not None else 0.0)
        if score > best_score:
            best, best_score = reading, score
    found = measure(best, kind, task, batches) if best is not None else None
    return (best, found.score) if found is not None else (None, 0.0)


def _by_features(probed: Probed, known: bool, dense: bool) -> Suspect:
    by_probe = f"({probed.score:.1f} by a simple probe)"
    if known:
        return Suspect(
            f"its last layer looks random: its features tell the classes apart {by_probe}, its answers do not",
            "Was the head replaced, or num_classes changed, after loading?",
        )
    compare = "Compare its sha256 with that of the file you mean, and the labels with what it was trained on."
    if dense:
        # A decoder makes more of its trunk's features than a linear probe does.
        return Suspect(
            f"neither its answers nor its features know these classes {by_probe}: its decoder looks random, or these "
            "are the weights of another task",
            f"Was the head replaced after loading? {compare}",
        )
    return Suspect(
        f"neither its answers nor its features know these classes {by_probe}: these look like the weights of "
        "another task",
        compare,
    )


def depends_on_batch(teacher: Teacher, images: Tensor) -> bool:
    """Whether the same pictures get other answers in other company.

    Args:
        images: [B, 3, H, W] in [0, 1]; a batch of 4 and fewer tells nothing.
    """
    together = teacher.raw(images)[LOGITS]
    apart = torch.cat([teacher.raw(part)[LOGITS] for part in images.split(4)])
    return bool((together - apart).abs().max() > DEPENDS * together.abs().max())
