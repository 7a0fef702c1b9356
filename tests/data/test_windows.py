"""The order of windows is a pure function: every row once per epoch, few shards at a time on each lane."""

from itertools import islice, pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_mtl.data.order import Shuffled
from distill_mtl.data.windows import RowsByShard, Windows

COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)
WINDOWS, LANES = st.integers(1, 5), st.integers(1, 6)


def by_shard(counts: list[int]) -> RowsByShard:
    """Rows numbered through shards of one row more each, whose last one is no training row."""
    firsts = np.cumsum([0, *(count + 1 for count in counts)])
    return RowsByShard(np.array(counts), lambda shard: firsts[shard] + np.arange(counts[shard]))


def shards_of(rows: np.ndarray, counts: list[int]) -> np.ndarray:
    firsts = np.cumsum([0, *(count + 1 for count in counts)])
    return np.searchsorted(firsts, rows, side="right") - 1


def every_row(counts: list[int]) -> list[int]:
    rows = by_shard(counts)
    return np.concatenate([rows.of(shard) for shard in range(len(counts))]).tolist()


@settings(max_examples=30, deadline=None)
@given(COUNTS, WINDOWS, LANES)
def test_each_epoch_holds_every_row_once(counts: list[int], window: int, lanes: int) -> None:
    total = sum(counts)
    order = Windows(0, "pets", by_shard(counts), window=window, lanes=lanes)
    epochs, rows = order(np.arange(3 * total))
    assert epochs.tolist() == np.repeat(np.arange(3), total).tolist()
    for epoch in rows.reshape(3, -1):
        assert sorted(epoch.tolist()) == every_row(counts)


@settings(max_examples=25, deadline=None)
@given(COUNTS, WINDOWS, LANES, st.lists(st.integers(0, 150), min_size=1, max_size=20))
def test_a_position_gives_the_same_row_whatever_was_asked_before(
    counts: list[int], window: int, lanes: int, positions: list[int]
) -> None:
    order, again = (Windows(7, "pets", by_shard(counts), window=window, lanes=lanes) for _ in range(2))
    whole = order(np.arange(151))
    for asked in (again(np.array(positions)), order(np.array(positions))):
        assert asked[0].tolist() == whole[0][positions].tolist()
        assert asked[1].tolist() == whole[1][positions].tolist()


@settings(max_examples=20, deadline=None)
@given(COUNTS, st.integers(0, 3))
def test_one_lane_with_a_window_of_all_shards_is_the_order_of_rows(counts: list[int], more: int) -> None:
    positions = np.arange(3 * sum(counts))
    windows = Windows(3, "pets", by_shard(counts), window=len(counts) + more, lanes=1)(positions)
    shuffled = Shuffled(3, "pets", np.array(every_row(counts)))(positions)
    assert np.array_equal(windows, shuffled)


@settings(max_examples=25, deadline=None)
@given(COUNTS, WINDOWS, LANES)
def test_rows_come_from_the_windows_that_are_told_ahead(counts: list[int], window: int, lanes: int) -> None:
    order = Windows(0, "pets", by_shard(counts), window=window, lanes=lanes)
    end = sum(counts)
    _, rows = order(np.arange(end))
    shards = shards_of(rows, counts)
    for lane in range(lanes):
        told = list(islice(order.ahead(0, [lane]), end + 1))
        assert all(len(each.shards) <= window for each in told)
        assert all(one.end + lanes - 1 == other.first for one, other in pairwise(told))
        for each in told:
            mine = np.arange(each.first, min(each.end, end), lanes)
            assert (mine % lanes == lane).all()
            if each.end <= end:
                assert sorted({*shards[mine].tolist()}) == each.shards


def test_windows_of_all_lanes_are_told_by_their_first_position_from_any_position_on() -> None:
    order = Windows(0, "pets", by_shard([5, 3, 9, 4, 7, 6]), window=2, lanes=3)
    for position in (0, 17, 40, 100):
        told = list(islice(order.ahead(position), 12))
        assert [each.first for each in told] == sorted(each.first for each in told)
        assert all(each.end > position for each in told)
        now = {position + each for each in range(3)}
        assert all(any(each.first <= at < each.end for each in told[:3]) for at in now)


def test_a_lane_holds_few_shards_and_its_neighbours_others() -> None:
    counts = [20] * 24
    order = Windows(0, "pets", by_shard(counts), window=2, lanes=3)
    total = sum(counts)
    shards = shards_of(order(np.arange(total))[1], counts)
    for lane in range(3):
        mine = shards[lane::3]
        assert [len({*part.tolist()}) for part in mine.reshape(-1, 40)] == [2] * 4
        assert not {*mine.tolist()} & {*shards[(lane + 1) % 3 :: 3].tolist()}


def test_shards_and_rows_come_in_another_order_in_each_epoch_and_for_each_seed_and_source() -> None:
    counts = [8] * 12
    orders = [
        Windows(seed, name, by_shard(counts), window=2, lanes=2)
        for seed, name in ((0, "pets"), (1, "pets"), (0, "cars"))
    ]
    drawn = [tuple(part) for order in orders for part in order(np.arange(192))[1].reshape(2, -1).tolist()]
    assert len({*drawn}) == 6
    laid = [tuple(shards_of(np.array(part), counts)) for part in drawn]
    assert len({*laid}) == 6


def test_the_order_stays_the_same_for_ever() -> None:
    order = Windows(0, "pets", by_shard([3, 4, 2]), window=2, lanes=2)
    assert order(np.arange(18))[1].tolist() == [6, 9, 0, 10, 7, 1, 5, 2, 4, 4, 10, 7, 2, 5, 9, 0, 1, 6]
