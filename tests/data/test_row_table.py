"""Rows that are looked up shard by shard are those of tables that hold all, however few shards are open."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_mtl.data.index import ShardIndex
from distill_mtl.data.row_table import HeldRows, RowsOnDemand, RowTable, count_sets
from distill_mtl.errors import ShardError

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=8)
MEMBERS = ("jpg", "cls", "group")


def index(shard: int, length: int) -> ShardIndex:
    """Rows of which the odd shards have no class, and none has a group."""
    endings = ("jpg",) if shard % 2 else ("cls", "jpg")
    places = 1000 * shard + np.arange(length * len(endings), dtype=np.int64).reshape(length, -1)
    keys = [f"{shard}.{row:0{row + 1}d}".encode() for row in range(length)]
    ends = np.cumsum([len(key) for key in keys], dtype=np.int64)
    return ShardIndex(Path(), endings, places * 512, places, np.full_like(places, -1), b"".join(keys), ends)


def homes(shard: int, index: ShardIndex) -> np.ndarray:
    """Shards of training rows, of none, and of some."""
    return np.array([0 if shard % 3 == 0 else row * (shard % 3) % 3 for row in range(len(index))], np.int8)


def tables(lengths: list[int], most: int) -> tuple[HeldRows, RowsOnDemand]:
    indexes = [index(shard, length) for shard, length in enumerate(lengths)]
    cut = [homes(shard, each) for shard, each in enumerate(indexes)]
    asked = RowsOnDemand(indexes.__getitem__, np.array(lengths), count_sets(cut), homes, MEMBERS, most)
    return HeldRows(indexes, cut, MEMBERS), asked


def looked_up(table: RowTable, rows: np.ndarray) -> list[object]:
    """All that a table says of rows."""
    spans = [list(table.spans(member, rows)) for member in MEMBERS]
    there = [[span if span[2] >= 0 else None for span in of_one] for of_one in spans]
    return [table.keys(rows), table.are_training(rows).tolist(), *there]


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(1, 4), st.lists(st.lists(st.integers(0, 10**6), max_size=12), max_size=6))
def test_rows_are_the_same_whatever_was_asked_before(
    lengths: list[int], most: int, batches: list[list[int]]
) -> None:
    held, asked = tables(lengths, most)
    for batch in batches:
        rows = np.array(batch, np.int64) % len(held)
        assert looked_up(asked, rows) == looked_up(held, rows)
    every = np.arange(len(held))
    assert looked_up(asked, every) == looked_up(held, every)
    for split in ("train", "validation", "test"):
        assert held.count(split) == asked.count(split)
        assert held.rows(split).tolist() == asked.rows(split).tolist()


def test_no_more_shards_are_open_than_may_be() -> None:
    loaded = []

    def load(shard: int) -> ShardIndex:
        loaded.append(shard)
        return index(shard, 3)

    lengths = np.full(5, 3)
    in_sets = np.stack([lengths, 0 * lengths, 0 * lengths], axis=1)
    table = RowsOnDemand(load, lengths, in_sets, lambda shard, index: np.zeros(3, np.int8), MEMBERS, most=2)
    for shard in (0, 1, 0, 1, 2, 1, 2, 0):
        table.keys(np.array([3 * shard]))
    assert loaded == [0, 1, 2, 0]
    assert table.by_shard("train").of(4).tolist() == [12, 13, 14]
    assert loaded == [0, 1, 2, 0], "a shard of one set alone needs no index"


def test_a_shard_that_lost_rows_since_is_named() -> None:
    lengths = np.array([3, 4])
    in_sets = np.stack([lengths, 0 * lengths, 0 * lengths], axis=1)
    table = RowsOnDemand(two_rows, lengths, in_sets, homes, MEMBERS, most=1)
    with pytest.raises(ShardError, match=r"has 2 rows now and had 4 when the run began"):
        table.keys(np.array([5]))


def test_a_table_that_travels_to_a_reader_begins_with_no_open_shard() -> None:
    lengths = np.array([2, 2])
    in_sets = np.stack([lengths, 0 * lengths, 0 * lengths], axis=1)
    table = RowsOnDemand(two_rows, lengths, in_sets, homes, MEMBERS, most=1)
    size = len(pickle.dumps(table))
    before = table.keys(np.arange(4))
    assert len(pickle.dumps(table)) == size
    assert pickle.loads(pickle.dumps(table)).keys(np.arange(4)) == before


def two_rows(shard: int) -> ShardIndex:
    return index(shard, 2)
