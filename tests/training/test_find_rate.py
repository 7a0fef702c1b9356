"""The range test corrects a first guess, and never picks a rate at which training diverges."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_mtl.training.find_rate import MOST, SHARE, choose_rate, rising_rates

RATES = rising_rates(0.1, 1500)


def _curve(loss_at: dict[float, float]) -> list[tuple[float, float]]:
    """A loss for each rate: the one of the nearest lower key."""
    return [(rate, loss_at[max(key for key in loss_at if key <= rate)]) for rate in RATES]


@given(st.integers(1, 10**6), st.floats(1e-6, 1.0))
def test_a_test_costs_at_most_three_percent_of_the_run(steps: int, guess: float) -> None:
    rates = rising_rates(guess, steps)
    assert len(rates) <= min(MOST, SHARE * steps)
    assert rates == sorted(rates)
    assert not rates or rates[0] < guess < rates[-1]


def test_a_guess_inside_the_range_stays() -> None:
    assert choose_rate(0.1, _curve({0: 1.0, 0.05: 0.8, 0.2: 0.6, 2.0: 3.0}), "usual").lr == 0.1


@pytest.mark.parametrize("broken", [3.0, math.nan, math.inf])
def test_the_rate_is_well_below_one_that_diverges(broken: float) -> None:
    found = choose_rate(0.1, _curve({0: 1.0, 0.03: 0.9, 0.08: broken}), "usual")
    assert found.lr <= 0.1 / 4
    assert "diverges" in found.reason


def test_a_single_bad_batch_is_not_divergence() -> None:
    curve = _curve({0: 1.0, 0.05: 0.8})
    curve[5] = (curve[5][0], 9.0)
    assert choose_rate(0.1, curve, "usual").lr == 0.1


def test_the_rate_rises_where_nothing_moves_at_the_guess() -> None:
    found = choose_rate(0.1, _curve({0: 1.0, 2.0: 0.9, 3.0: 0.5}), "usual")
    assert 0.5 < found.lr <= 2.0


def test_a_loss_that_hardly_drops_raises_nothing() -> None:
    assert choose_rate(0.1, _curve({0: 1.0, 3.0: 0.9}), "usual").lr == 0.1


@given(st.lists(st.floats(0.01, 5) | st.just(math.nan), min_size=1, max_size=len(RATES)))
def test_every_curve_gives_a_rate_below_divergence(losses: list[float]) -> None:
    found = choose_rate(0.1, list(zip(RATES, losses, strict=False)), "usual")
    assert 0 < found.lr <= RATES[-1]
    broken = [rate for rate, loss in zip(RATES, losses, strict=False) if not math.isfinite(loss)]
    assert not broken or found.lr < broken[0]
