"""Why a teacher scores less than it should: the usual causes, tried one by one.

`teacher_check` asks `diagnose` about a teacher that falls short; about one that does not, it asks `better_reading`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distill_mtl.checks.preprocessings import Candidate, candidates, class_order, reordered
from distill_mtl.checks.probe import ProbeScore, probe
from distill_mtl.checks.teacher_score import TOLERANCE, MeasuredScore, measure_score, subsample
from distill_mtl.data.batch import Batch
from distill_mtl.errors import a_few
from distill_mtl.networks.backbone import LOGITS
from distill_mtl.networks.boxes import boxes_apart, is_boxes
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.teacher import Teacher

ROWS = 512
"""Rows on which the best candidates are tried; the best one is then measured on all of them."""
_LEFT_BY_READING = 0.8
"""Share of what is missing that another reading of a detector's boxes may leave: a good one scores 40."""
_OF_WAY, _OF_FEATURES = 0.25, 0.75
"""Of a weak network without a recorded score, another preprocessing is the cause too if it goes this far from a
constant answer to a perfect one, and nearly as far as a probe of its features, which no random head does."""
_FEW = 128
"""Rows on which every candidate is tried."""
_KEPT = 4
_ALIKE = 0.5
"""Points that a less common mistake must gain over a commoner one to be named."""
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


NO_STATISTICS = Diagnosis(
    "its BatchNorm layers have no statistics (running mean 0, running variance 1, as before training)",
    "Save the whole state dict, with its buffers, not the parameters alone.",
)
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
    goes half of the way from a constant answer. Where the best candidate goes about as far as the probe, that
    candidate is the cause.

    Args:
        teacher: that scored too low, and whose answers do not depend on the batch.
        kind, task, batches: what it was measured on.
        measured: its score.
        expected: the score that it should have; None if unknown.
    """
    if lacks_statistics(teacher):
        return NO_STATISTICS
    sign = 1 if kind.higher_is_better else -1
    goal = sign * (expected if expected is not None else kind.perfect)
    best, score = _best_candidate(teacher, kind, task, batches, sign)
    if best is not None:
        # Nothing but another reading of its boxes turns a detector that finds next to nothing into one that finds much.
        left = _LEFT_BY_READING if best.reading else 0.2 if expected is not None else 0.5
        if goal - sign * score <= left * (goal - sign * measured.score):
            return _by_candidate(best, score)
    probed = probe(teacher, kind, task, subsample(batches, ROWS) if kind.dense else batches)
    if probed is None:
        return None
    if expected is None and best is not None and best.order is None:
        way = sign * (score - measured.constant)
        features = sign * (probed.score - probed.constant)
        if way >= max(_OF_WAY * abs(kind.perfect - measured.constant), _OF_FEATURES * features):
            return _by_candidate(best, score)
    known = goal - sign * probed.score <= 0.5 * (goal - sign * probed.constant)
    return _by_features(probed, known, kind.dense)


def not_finite(teacher: Teacher) -> Diagnosis:
    """Why a teacher answers with NaN or infinity: its own numbers, or what it computes from them."""
    weights = [*teacher.named_parameters(), *teacher.named_buffers()]
    broken = [name for name, values in weights if values.is_floating_point() and not values.isfinite().all()]
    if broken:
        return Diagnosis(
            f"its weights are not finite: {a_few(broken, 3)}",
            "Its training diverged, or the file is damaged: take an earlier checkpoint.",
        )
    return Diagnosis(
        "its weights are finite, so a number grows too large on the way (a division by 0, a logarithm of 0, float16)",
        "Run it in float32, and look at its input: mean, std and range.",
    )


def lacks_statistics(teacher: Teacher) -> bool:
    """Whether every BatchNorm layer has the running statistics that it was made with; no layer: False."""
    buffers = dict(teacher.named_buffers())
    means = [values for name, values in buffers.items() if name.endswith("running_mean")]
    variances = [values for name, values in buffers.items() if name.endswith("running_var")]
    fresh = all(bool((values == 0).all()) for values in means)
    return bool(means) and fresh and all(bool((values == 1).all()) for values in variances)


def depends_on_batch(teacher: Teacher, images: Tensor) -> bool:
    """Whether the same images get other answers in another batch.

    Args:
        images: [B, 3, H, W] in [0, 1]; a batch of 4 and fewer shows nothing.
    """
    together = teacher.raw(images)[LOGITS]
    apart = torch.cat([teacher.raw(part)[LOGITS] for part in images.split(4)])
    if is_boxes(together):
        return bool(boxes_apart(together, apart).max() > DEPENDS)
    return bool((together - apart).abs().max() > DEPENDS * together.abs().max())


def _best_candidate(
    teacher: Teacher, kind: TaskKind, task: str, batches: Sequence[Batch], sign: int
) -> tuple[Candidate | None, float]:
    """The candidate with the best score, and that score on all rows."""
    tried = list(candidates(teacher, batches))
    order = class_order(teacher, kind, task, batches)
    tried += [] if order is None else [reordered(teacher, kind, order)]

    def scored(rows: int, those: Sequence[Candidate]) -> list[tuple[float, Candidate]]:
        few = subsample(batches, rows)
        found = [(measure_score(candidate, kind, task, few), candidate) for candidate in those]
        return [(sign * score.score, candidate) for score, candidate in found if score is not None]

    first = sorted(scored(_FEW, tried), key=lambda each: -each[0])[:_KEPT]
    kept = [candidate for _, candidate in first]
    best, best_score = None, -math.inf
    # In the order of how common they are: of those that are alike, the commonest mistake is named.
    for score, candidate in scored(ROWS, sorted(kept, key=tried.index)):
        # An order is fitted to the labels, so it must do better than a candidate that is not.
        score -= TOLERANCE if candidate.order is not None else 0.0
        if best is None or score > best_score + (_ALIKE if kind.in_points else 0.0):
            best, best_score = candidate, score
    final = measure_score(best, kind, task, batches) if best is not None else None
    return (best, final.score) if final is not None else (None, 0.0)


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
