"""The order of rows is a pure function: every row once per epoch, classes in balance."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_mtl.data.order import ClassBalanced, Shuffled

ROWS = np.array([3, 5, 8, 9, 11, 40, 41])


def test_each_epoch_holds_every_row_once_in_an_order_of_its_own() -> None:
    epochs, rows = Shuffled(0, "pets", ROWS)(np.arange(4 * len(ROWS)))
    assert epochs.tolist() == np.repeat(np.arange(4), len(ROWS)).tolist()
    orders = [tuple(part) for part in rows.reshape(4, -1).tolist()]
    assert all(sorted(order) == ROWS.tolist() for order in orders)
    assert len(set(orders)) == 4


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 200), min_size=1, max_size=20))
def test_a_position_gives_the_same_row_whatever_was_asked_before(positions: list[int]) -> None:
    order = Shuffled(7, "pets", ROWS)
    whole = order(np.arange(201))
    asked = order(np.array(positions))
    assert asked[0].tolist() == whole[0][positions].tolist()
    assert asked[1].tolist() == whole[1][positions].tolist()


def test_seed_and_source_change_the_order() -> None:
    rows = np.arange(50)
    orders = [Shuffled(seed, name, rows)(rows)[1].tolist() for seed, name in ((0, "a"), (1, "a"), (0, "b"))]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_the_order_stays_the_same_for_ever() -> None:
    assert Shuffled(0, "pets", ROWS)(np.arange(7))[1].tolist() == [9, 3, 11, 8, 5, 40, 41]


def test_every_place_of_an_epoch_is_as_likely_for_every_row() -> None:
    rows = np.arange(4)
    _, drawn = Shuffled(0, "pets", rows)(np.arange(4 * 4000))
    places = drawn.reshape(-1, 4)
    for place in range(4):
        np.testing.assert_allclose(np.bincount(places[:, place]) / 4000, 0.25, atol=0.03)


def test_class_balance_draws_each_class_equally_often_and_each_row_of_a_class_too() -> None:
    classes = np.array([0, 0, 0, 0, 0, 4, 7])
    order = ClassBalanced(0, "pets", ROWS, classes)
    epochs, rows = order(np.arange(3 * 20))
    drawn = classes[np.searchsorted(ROWS, rows)].reshape(-1, 3)
    assert (np.sort(drawn, axis=1) == [0, 4, 7]).all(), "every class once in every three rows"
    assert len({tuple(block) for block in drawn.tolist()}) > 1, "in a changing order"
    counts = dict(zip(*np.unique(rows, return_counts=True), strict=True))
    assert counts == {3: 4, 5: 4, 8: 4, 9: 4, 11: 4, 40: 20, 41: 20}
    assert len(set(zip(epochs.tolist(), rows.tolist(), strict=True))) == 60, (
        "no row twice in one epoch of its class"
    )
    some = np.array([44, 2, 17])
    assert order(some)[1].tolist() == rows[some].tolist()
