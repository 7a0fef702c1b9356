"""Average precision from weights, against the libraries that score rows one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision

from distill_mtl.tasks import metrics
from distill_mtl.tasks.metrics import average_precision, precision_recall, rank


@st.composite
def ranked(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Scores with ties, hits with at least one among them, and how often each counts."""
    size = draw(st.integers(2, 12))
    scores = torch.tensor(draw(st.lists(st.integers(0, 5), min_size=size, max_size=size))) / 5
    hits = torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    counts = torch.tensor(draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)))
    hits[0], counts[0] = True, max(1, int(counts[0]))
    return scores, hits, counts


@settings(deadline=None, max_examples=60)
@given(ranked())
def test_weights_are_repeated_rows_to_scikit_learn_and_torchmetrics(
    case: tuple[Tensor, Tensor, Tensor],
) -> None:
    scores, hits, counts = case
    got = average_precision(scores, hits, counts[None], (counts * hits).sum()[None])
    repeated = scores.repeat_interleave(counts), hits.repeat_interleave(counts)
    want = average_precision_score(repeated[1].numpy(), repeated[0].numpy())
    assert float(got) == pytest.approx(want)
    assert float(got) == pytest.approx(
        float(binary_average_precision(repeated[0], repeated[1].long())), abs=1e-6
    )


@settings(deadline=None, max_examples=60)
@given(ranked(), st.integers(0, 4))
def test_the_interpolated_area_is_what_the_definition_says(
    case: tuple[Tensor, Tensor, Tensor], missed: int
) -> None:
    scores, hits, counts = case
    positives = int((counts * hits).sum()) + missed
    got = average_precision(scores, hits, counts[None], torch.tensor([positives]), interpolated=True)
    points = []
    for threshold in scores.unique():
        taken = scores >= threshold
        if counts[taken].sum():
            right = int((counts * hits)[taken].sum())
            points.append((right / positives, right / int(counts[taken].sum())))
    want = np.mean(
        [max((p for r, p in points if r >= recall), default=0.0) for recall in np.linspace(0, 1, 101)]
    )
    assert float(got) == pytest.approx(want)


def test_the_interpolated_area_is_that_of_pycocotools() -> None:
    """Without ties; the loop of `COCOeval.accumulate` for one class and one area range."""
    generator = np.random.default_rng(0)
    scores, hits = generator.permutation(50) / 50, generator.random(50) < 0.4
    order = np.argsort(-scores)
    right = hits[order].cumsum()
    recall, precision = right / 30, right / np.arange(1, 51)
    for place in range(49, 0, -1):
        precision[place - 1] = max(precision[place - 1], precision[place])
    confidence_bins = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    want = np.mean([precision[place] if place < 50 else 0.0 for place in confidence_bins])
    got = average_precision(
        torch.from_numpy(scores),
        torch.from_numpy(hits),
        torch.ones(1, 50),
        torch.tensor([30]),
        interpolated=True,
    )
    assert float(got) == pytest.approx(want, abs=1e-12)


def test_a_curve_by_hand() -> None:
    scores, hits = torch.tensor([0.9, 0.5, 0.5, 0.1]), torch.tensor([True, False, True, True])
    precision, recall = precision_recall(rank(scores, hits), torch.ones(1, 4), torch.tensor([4]))
    assert precision.dtype == torch.float64
    torch.testing.assert_close(precision, torch.tensor([[1, 2 / 3, 3 / 4]], dtype=torch.float64))
    torch.testing.assert_close(recall, torch.tensor([[1 / 4, 2 / 4, 3 / 4]], dtype=torch.float64))
    area = average_precision(scores, hits, torch.ones(1, 4), torch.tensor([4]))
    assert float(area) == pytest.approx((1 + 2 / 3 + 3 / 4) / 4)


@pytest.mark.parametrize("interpolated", [False, True])
def test_no_answers_find_nothing_and_no_positives_say_nothing(interpolated: bool) -> None:
    nothing = torch.zeros(0), torch.zeros(0, dtype=torch.bool), torch.zeros(2, 0)
    got = average_precision(*nothing, torch.tensor([3, 0]), interpolated=interpolated)
    assert float(got[0]) == 0.0
    assert got[1].isnan()


@pytest.mark.parametrize("interpolated", [False, True])
def test_chunks_and_rows_change_nothing(monkeypatch: pytest.MonkeyPatch, interpolated: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    scores, hits = torch.rand(30, generator=generator), torch.rand(30, generator=generator) < 0.5
    rows = torch.randint(10, (30,), generator=generator)
    weights = torch.randint(3, (7, 10), generator=generator)
    positives = (weights[:, rows] * hits).sum(1) + 2
    whole = average_precision(scores, hits, weights[:, rows], positives, interpolated=interpolated)
    monkeypatch.setattr(metrics, "_AT_ONCE", 60)
    by_row = average_precision(scores, hits, weights, positives, rows=rows, interpolated=interpolated)
    assert torch.equal(whole, by_row)


def test_answers_are_put_in_order_once_for_all_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    sorted_, argsort = [], Tensor.argsort
    monkeypatch.setattr(metrics, "_AT_ONCE", 20)  # chunks of two resamples
    monkeypatch.setattr(Tensor, "argsort", lambda *args, **kw: (sorted_.append(1), argsort(*args, **kw))[1])
    average_precision(torch.rand(10), torch.rand(10) > 0.5, torch.ones(7, 10), torch.full((7,), 10))
    assert len(sorted_) == 1
