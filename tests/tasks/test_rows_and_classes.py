"""What kinds say beyond one score: rows alone, classes alone, confidence."""

import pytest
import torch
from kind_examples import CLASSES, EXAMPLES
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
    multiclass_f1_score,
    multiclass_jaccard_index,
    multiclass_recall,
)

from distill_mtl.tasks.base import TaskKind, build_kind
from distill_mtl.tasks.metrics import calibration_error

KINDS_AND_METRICS = [
    (name, metric)
    for name, example in EXAMPLES.items()
    for metric in type(example.kind(name)).metrics
    if metric != "top5"  # of more classes than the examples have
]


def of(name: str, metric: str) -> tuple[TaskKind, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    kind = EXAMPLES[name].kind(name, metric)
    return kind, EXAMPLES[name].draw(kind)


@pytest.mark.parametrize(("name", "metric"), KINDS_AND_METRICS)
def test_every_row_has_a_score_whatever_rows_stand_beside_it(name: str, metric: str) -> None:
    kind, (logits, _, labels) = of(name, metric)
    statistics = kind.statistics(logits, labels)
    scores = kind.row_scores(statistics)
    assert scores.shape == (6,)
    assert scores.isfinite().all()
    parts = [kind.row_scores(statistics[rows : rows + 2]) for rows in (0, 2, 4)]
    assert torch.equal(torch.cat(parts), scores)
    assert len(scores.unique()) > 1 or metric == "within_11_25"  # of which random normals have none
    if metric not in ("map", "r2", "recall_at_1"):  # a row alone has no neighbour
        alone = torch.stack([kind.score(statistics[row : row + 1]) for row in range(6)])
        torch.testing.assert_close(scores, alone)


@pytest.mark.parametrize("metric", ["map", "error"])
def test_a_row_of_attributes_without_a_mistake_has_the_best_score(metric: str) -> None:
    kind, (_, _, labels) = of("multilabel", metric)
    perfect = labels.float() * 2 - 1
    assert kind.row_scores(kind.statistics(perfect, labels)).tolist() == [kind.perfect] * 6
    perfect[0, 0] = -1
    worse = 100 / 3 if metric == "error" else 200 / 3
    assert float(kind.row_scores(kind.statistics(perfect, labels))[0]) == pytest.approx(worse)


def test_a_row_of_values_is_explained_as_far_as_its_error_allows() -> None:
    kind = build_kind("regression", CLASSES, "r2", scale=2.0)
    labels = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, float("nan")]])
    answers = torch.tensor([[1.0, 2.0, 3.0], [1.0, 4.0, 0.0]])
    assert kind.row_scores(kind.statistics(answers, labels)).tolist() == pytest.approx([100, 50])


@pytest.mark.parametrize(("name", "metric"), KINDS_AND_METRICS)
def test_scores_of_classes_are_none_or_one_each(name: str, metric: str) -> None:
    kind, (logits, _, labels) = of(name, metric)
    statistics = kind.statistics(logits, labels)
    scores = kind.class_scores(statistics)
    if name in ("depth", "normals", "embedding") or metric == "ece":
        assert scores is None
        return
    assert scores is not None
    assert scores.shape == (3,)
    if metric in ("balanced_accuracy", "macro_f1", "miou", "map", "error", "r2", "mae", "rmse"):
        # A class that is predicted and has no label has no score of its own, and counts with 0 in these means.
        with_zeros = scores.nan_to_num(0.0) if metric in ("macro_f1", "miou") else scores
        assert float(with_zeros.nanmean()) == pytest.approx(float(kind.score(statistics)))


def test_classes_are_scored_as_torchmetrics_does() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(200, 3, generator=generator), torch.arange(200) % 3
    for metric, reference in (
        ("accuracy", multiclass_recall),
        ("balanced_accuracy", multiclass_recall),
        ("macro_f1", multiclass_f1_score),
    ):
        kind = build_kind("classification", CLASSES, metric)
        found = kind.class_scores(kind.statistics(logits, labels))
        want = reference(logits.argmax(1), labels, num_classes=3, average="none")
        torch.testing.assert_close(found, 100 * want.double(), check_dtype=False, rtol=1e-6, atol=1e-6)
    kind = build_kind("segmentation", CLASSES)
    maps, truth = (
        torch.randn(4, 3, 8, 8, generator=generator),
        torch.randint(3, (4, 8, 8), generator=generator),
    )
    found = kind.class_scores(kind.statistics(maps, truth))
    want = multiclass_jaccard_index(maps.argmax(1), truth, num_classes=3, average="none")
    torch.testing.assert_close(found, 100 * want.double(), check_dtype=False, rtol=1e-6, atol=1e-6)


def test_a_class_that_does_not_occur_has_no_score() -> None:
    for metric, score in (("accuracy", 50), ("balanced_accuracy", 50), ("macro_f1", 200 / 3)):
        kind = build_kind("classification", CLASSES, metric)
        scores = kind.class_scores(kind.statistics(torch.eye(3)[[0, 1]], torch.tensor([0, 0])))
        assert scores is not None
        assert float(scores[0]) == pytest.approx(score)
        assert scores[1:].isnan().all()


def test_boxes_are_scored_class_by_class_and_row_by_row() -> None:
    kind = build_kind("heatmap", ("car", "sign"), top=2)
    # score, score, class, class, hit, hit, cars, signs
    rows = torch.tensor(
        [[0.9, 0.4, 0, 1, 1, 0, 1, 1], [0.8, 0.7, 0, 0, 0, 1, 1, 0], [0.0, 0.0, -1, -1, 0, 0, 0, 0]],
        dtype=torch.float64,
    )
    scores = kind.class_scores(rows)
    assert scores is not None
    assert scores[1] == 0
    assert float(scores.mean()) == pytest.approx(float(kind.score(rows)))
    assert kind.row_scores(rows).tolist() == pytest.approx([50, 50, 0])
    many = rows.repeat(20, 1)  # more than are weighed at once
    assert kind.row_scores(many).tolist() == pytest.approx([50, 50, 0] * 20)
    points = build_kind("heatmap", ("car", "sign"), form="points")
    assert points.class_scores(torch.tensor([[1.0, 2.0]])) is None


def test_calibration_is_torchmetrics_for_pictures_pixels_and_attributes() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, labels = 2 * torch.randn(300, 3, generator=generator), torch.arange(300) % 3
    kind = build_kind("classification", CLASSES)
    counts = kind.calibration(logits, labels)
    want = multiclass_calibration_error(logits, labels, num_classes=3, n_bins=15)
    assert calibration_error(counts) == pytest.approx(100 * float(want), abs=1e-3)
    ece = build_kind("classification", CLASSES, "ece")
    assert calibration_error(counts) == pytest.approx(
        float(ece.score(ece.statistics(logits, labels))), abs=1e-3
    )

    parts = [kind.calibration(logits[rows], labels[rows]) for rows in (slice(0, 7), slice(7, 300))]
    assert torch.equal(parts[0] + parts[1], counts)

    kind = build_kind("segmentation", CLASSES)
    maps = 2 * torch.randn(4, 3, 8, 8, generator=generator)
    truth = torch.randint(3, (4, 8, 8), generator=generator)
    truth[0] = kind.ignore_index
    want = multiclass_calibration_error(maps[1:], truth[1:], num_classes=3, n_bins=15)
    assert calibration_error(kind.calibration(maps, truth)) == pytest.approx(100 * float(want), abs=1e-3)

    kind = build_kind("multilabel", CLASSES)
    looks = (torch.rand(300, 3, generator=generator) < 0.5).long()
    right = (logits > 0) == (looks == 1)
    looks[0] = -1
    sure = logits.abs().sigmoid()[1:].flatten()
    want = binary_calibration_error(sure, right[1:].flatten().long(), n_bins=15)
    assert calibration_error(kind.calibration(logits, looks)) == pytest.approx(100 * float(want), abs=1e-3)


@pytest.mark.parametrize("name", ["regression", "depth", "normals"])
def test_measures_carry_no_confidence(name: str) -> None:
    kind = EXAMPLES[name].kind(name)
    logits, _, labels = EXAMPLES[name].draw(kind)
    assert kind.calibration(logits, labels) is None
    assert kind.correct_rows(kind.statistics(logits, labels)) is None


def test_right_rows_are_known_where_the_metric_counts_them() -> None:
    logits, labels = torch.eye(3), torch.tensor([0, 2, 2])
    for metric, rows in (("accuracy", [True, False, True]), ("macro_f1", None), ("ece", None)):
        kind = build_kind("classification", CLASSES, metric)
        found = kind.correct_rows(kind.statistics(logits, labels))
        assert (None if found is None else found.tolist()) == rows
