"""Rows per source and step: whole, never negative, and right in the long run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_mtl.data.quota import PERIOD, Quota

weights = st.lists(st.floats(0.01, 100), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(weights, st.integers(1, 300), st.integers(0, 10_000))
def test_every_step_is_full_and_within_a_row_of_the_shares(
    weights: list[float], batch_size: int, step: int
) -> None:
    if batch_size * PERIOD < 100 * len(weights):
        batch_size += 10
    counts = Quota(weights, batch_size).counts(step)
    exact = np.array(weights) / sum(weights) * batch_size
    assert counts.sum() == batch_size
    assert (counts >= 0).all()
    # One unit of rounding more for shares below a unit, which are raised to one.
    assert (np.abs(counts - exact) < 1 + len(weights) / PERIOD).all()


@settings(max_examples=30, deadline=None)
@given(weights, st.integers(4, 200))
def test_the_closed_form_is_the_sum_of_the_steps(weights: list[float], batch_size: int) -> None:
    quota = Quota(weights, batch_size)
    total = np.zeros(len(weights), np.int64)
    for step in range(2 * PERIOD + 5):
        assert quota.before(step).tolist() == total.tolist()
        total += quota.counts(step)


def test_the_long_run_share_is_right_to_one_row_in_a_period() -> None:
    weights = np.sqrt([6000.0, 500.0, 37.0])
    counts = Quota(weights.tolist(), 32).before(10 * PERIOD)
    np.testing.assert_allclose(counts / counts.sum(), weights / weights.sum(), atol=1 / (PERIOD * 32))


def test_remainders_rotate_within_a_few_steps() -> None:
    quota = Quota([1.0, 1.0, 1.0], 256)
    counts = np.array([quota.counts(step) for step in range(9)])
    assert set(counts.ravel().tolist()) == {85, 86}
    assert (counts == 86).any(axis=0).all(), "no source waits long for the row that is left over"


def test_a_source_of_almost_no_weight_still_comes() -> None:
    quota = Quota([1e-9, 1.0, 1.0], 4)
    assert quota.before(PERIOD)[0] == 1
    assert quota.before(PERIOD).sum() == 4 * PERIOD


@pytest.mark.parametrize("weight", [0.5, 3.0])
def test_only_the_ratio_of_weights_counts(weight: float) -> None:
    scaled = Quota([weight, 2 * weight], 10)
    assert [scaled.counts(step).tolist() for step in range(20)] == [
        Quota([1, 2], 10).counts(step).tolist() for step in range(20)
    ]
