"""Why a teacher scores less than it should: the usual causes, tried one by one.

`teacher_check` asks `diagnose` about a teacher that falls short, and `find_better_preprocessing` about one that
passes without a recorded score.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_mtl.checks.preprocessings import Candidate, candidates, pixel_candidates
from distill_mtl.checks.probe import ProbeScore, probe
from distill_mtl.checks.teacher_score import LabelledRows, MeasuredScore, measure_score, score_gain, subsample
from distill_mtl.data.batch import Batch
from distill_mtl.networks.backbone import LOGITS
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.teacher import Teacher

ROWS = 512
"""Rows on which each candidate is tried; the best one is then measured on all of them."""
GAIN = 2.0
"""Points that a candidate must gain: over the preprocessing of a teacher that passes, and, where the candidate is an
order of classes, over every other candidate."""
DEPENDS = 0.05
"""How far an answer may move when the batch changes, as a share of the largest answer. Rounding, and quantisation by
batch, move it less."""


@dataclass(frozen=True)
class Diagnosis:
    """The likely cause of a low score.

    Attributes:
        cause: a clause.
        remedy: a sentence that says what to do.
    """

    cause: str
    remedy: str


BATCH_DEPENDENT = Diagnosis(
    "its answers depend on the other rows of the batch: is a layer (BatchNorm) in train mode?",
    "Save or export it again after model.eval(), with running statistics in its norms.",
)


def diagnose(
    teacher: Teacher,
    kind: TaskKind,
    task: str,
    batches: Sequence[Batch],
    measured: MeasuredScore,
    expected: float | None,
) -> Diagnosis | None:
    """The likeliest cause of a low score; None where nothing explains it.

    First the candidates of `preprocessings`: one of them is the cause if it makes good most of what is missing.
    With an expected score that is four fifths, because the best order of classes lifts even a random head;
    without one it is half of the way to a perfect score. Then a probe of its features: it knows the classes if it
    goes half of the way from a constant answer.

    Args:
        teacher: that scored too low, and whose answers do not depend on the batch.
        kind, task, batches: what it was measured on.
        measured: its score.
        expected: the score that it should have; None if unknown.
    """
    sign = 1 if kind.higher_is_better else -1
    goal = sign * (expected if expected is not None else kind.perfect)
    best, score = _best_candidate(teacher, kind, task, batches, sign)
    if best is not None and goal - sign * score <= (0.2 if expected is not None else 0.5) * (
        goal - sign * measured.score
    ):
        return _by_candidate(best, score)
    probed = probe(teacher, kind, task, subsample(batches, ROWS) if kind.dense else batches)
    if probed is None:
        return None
    known = goal - sign * probed.score <= 0.5 * (goal - sign * probed.constant)
    return _by_features(probed, known, kind.dense)


def find_better_preprocessing(
    teacher: Teacher, kind: TaskKind, task: str, rows: LabelledRows, measured: MeasuredScore
) -> Diagnosis | None:
    """A preprocessing of the pixels that is clearly better than the one that a teacher passed with.

    For teachers without an expected score: most survive a wrong normalisation and lose some points. Clearly
    better means 2 points (of a score in points), a third of what is missing, and more than chance.
    """
    few = list(rows(ROWS // 2))
    missing = abs(kind.perfect - measured.score)
    best, best_gain = None, max(GAIN if kind.in_points else 0.0, missing / 3)
    for candidate in pixel_candidates(teacher):
        more, low = score_gain(candidate, lambda images: teacher(images).logits, kind, task, few)
        if more > best_gain and low > 0:
            best, best_gain = candidate, more
    found = measure_score(best, kind, task, rows(measured.rows)) if best is not None else None
    return _by_candidate(best, found.score) if best is not None and found is not None else None


def depends_on_batch(teacher: Teacher, images: Tensor) -> bool:
    """Whether the same images get other answers in another batch.

    Args:
        images: [B, 3, H, W] in [0, 1]; a batch of 4 and fewer shows nothing.
    """
    together = teacher.raw(images)[LOGITS]
    apart = torch.cat([teacher.raw(part)[LOGITS] for part in images.split(4)])
    return bool((together - apart).abs().max() > DEPENDS * together.abs().max())


def _best_candidate(
    teacher: Teacher, kind: TaskKind, task: str, batches: Sequence[Batch], sign: int
) -> tuple[Candidate | None, float]:
    """The candidate with the best score, and that score on all rows."""
    few, best, best_score = subsample(batches, ROWS), None, -math.inf
    for candidate in candidates(teacher, kind, task, batches):
        measured = measure_score(candidate, kind, task, few)
        if measured is None:
            continue
        # An order is fitted to the labels, so it must do better than a candidate that is not.
        score = sign * measured.score - (GAIN if candidate.order is not None else 0.0)
        if score > best_score:
            best, best_score = candidate, score
    found = measure_score(best, kind, task, batches) if best is not None else None
    return (best, found.score) if found is not None else (None, 0.0)


def _by_candidate(candidate: Candidate, score: float) -> Diagnosis:
    return Diagnosis(f"{candidate.cause} (it then scores {score:.2f})", candidate.remedy)


def _by_features(probed: ProbeScore, known: bool, dense: bool) -> Diagnosis:
    by_probe = f"({probed.score:.1f} by a linear probe)"
    if known:
        return Diagnosis(
            f"its last layer looks random: its features tell the classes apart {by_probe}, its answers do not",
            "Was the head replaced, or num_classes changed, after loading?",
        )
    compare = "Compare its sha256 with that of the file you mean, and the labels with its training labels."
    unknown = f"neither its answers nor its features tell the classes apart {by_probe}"
    if dense:
        # A decoder makes more of its trunk's features than a linear probe does.
        return Diagnosis(
            f"{unknown}: its decoder looks random, or these are the weights of another task",
            f"Was the head replaced after loading? {compare}",
        )
    return Diagnosis(f"{unknown}: these look like the weights of another task", compare)
