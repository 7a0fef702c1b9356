"""What a difference and its interval decide."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from distill_mtl.evaluation.bootstrap import rows_to_exclude, unseen_difference
from distill_mtl.evaluation.verdict import Verdict, judge

DELTAS = st.floats(-50, 50)
MARGINS = st.floats(0, 5)
WIDTHS = st.floats(0, 20)


def judged(
    delta: float, ci95: tuple[float, float] | None, margin: float = 1.0, *, rows: int = 1000
) -> Verdict:
    return judge(delta, ci95, rows, margin, "interval")


def decided(delta: float, ci95: tuple[float, float], margin: float) -> str:
    verdict = judged(delta, ci95, margin)
    assert verdict is not None
    return verdict.decision


@pytest.mark.parametrize(
    ("ci95", "decision"),
    [
        ((-0.9, -0.1), "non-inferior"),
        ((0.1, 2.0), "non-inferior"),
        ((-3.0, -1.1), "inferior"),
        ((-1.1, -0.2), "undecided"),
        ((-2.0, -0.9), "undecided"),
        ((-1.0, 0.5), "undecided"),  # its lower end is not above
        ((-2.0, -1.0), "undecided"),
    ],
)
def test_the_interval_is_held_against_the_margin(ci95: tuple[float, float], decision: str) -> None:
    assert decided(sum(ci95) / 2, ci95, 1.0) == decision


@given(DELTAS, WIDTHS, WIDTHS, MARGINS, st.floats(0, 5))
def test_a_wider_margin_never_speaks_against_the_student(
    delta: float, below: float, above: float, margin: float, more: float
) -> None:
    order = ["inferior", "undecided", "non-inferior"]
    ci95 = (delta - below, delta + above)
    assert order.index(decided(delta, ci95, margin)) <= order.index(decided(delta, ci95, margin + more))


@given(DELTAS, WIDTHS, WIDTHS, MARGINS)
def test_only_what_is_undecided_asks_for_rows(
    delta: float, below: float, above: float, margin: float
) -> None:
    assume(abs(delta + margin) > 0.1)  # nearer, it takes more rows than anybody has
    verdict = judged(delta, (delta - below, delta + above), margin)
    assert (verdict.decision == "undecided") == (verdict.rows_to_decide is not None)
    assert verdict.rows_to_decide is None or verdict.rows_to_decide > 0


@given(DELTAS, st.none() | st.just((-100.0, 100.0)), MARGINS)
def test_the_plain_rule_asks_for_no_interval(
    delta: float, ci95: tuple[float, float] | None, margin: float
) -> None:
    verdict = judge(delta, ci95, 1000, margin, "point")
    assert verdict == Verdict("non-inferior" if delta >= -margin - 1e-9 else "inferior")


def test_rows_are_asked_for_as_an_interval_shrinks() -> None:
    near = judged(0.0, (-2.0, 2.0))
    nearer = judged(-0.5, (-2.5, 1.5))
    grouped = judged(0.0, (-2.0, 2.0), rows=4000)
    assert near.rows_to_decide is not None
    # (1.96 + 1.28) / 1.96 * 2 / 1 as many, squared
    assert near.rows_to_decide == pytest.approx(1000 * ((3.2415 / 1.96 * 2) ** 2 - 1), rel=1e-3)
    assert nearer.rows_to_decide == pytest.approx(4 * (near.rows_to_decide + 1000) - 1000, rel=1e-3)
    assert grouped.rows_to_decide == pytest.approx(4 * near.rows_to_decide, abs=4)


def test_no_number_of_rows_is_known_on_the_margin_and_for_a_single_group() -> None:
    assert judged(-1.0, (-2.0, 0.0)) == Verdict("undecided")
    assert judged(0.3, None) == Verdict("undecided")


@pytest.mark.parametrize("rows", [46, 300, 367])
def test_a_handful_of_rows_without_any_difference_decides_nothing(rows: int) -> None:
    assert judged(0.0, unseen_difference(rows), rows=rows) == Verdict("undecided", 368 - rows)
    for enough in (rows_to_exclude(1.0), 10_000):
        assert decided(0.0, unseen_difference(enough), 1.0) == "non-inferior"


@given(st.floats(0.01, 99))
def test_rows_without_a_difference_exclude_a_loss_as_soon_as_they_can(loss: float) -> None:
    enough = rows_to_exclude(loss)
    assert -unseen_difference(enough)[0] <= loss * (1 + 1e-12)
    assert enough == 1 or -unseen_difference(enough - 1)[0] >= loss * (1 - 1e-9)
    assert math.isfinite(enough)
