"""A fixed number of views in turn: the first plain, each the same whenever its turn comes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_shards import open_two, pets, three_sets

from distill_mtl.data import Sources
from distill_mtl.data.augmentation import DrawnViews
from distill_mtl.data.batch import BatchRows
from distill_mtl.geometry.views import plain_view

SIZE = (8, 8)
PICTURE = (200, 300)


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return open_two(tmp_path)


def views(
    sources: Sources, count: int | None, turns: list[int], row: int = 3, source: int = 0
) -> list[object]:
    drawn = DrawnViews(sources.opened, SIZE, seed=0, count=count)
    rows, numbers = np.full(len(turns), row), drawn.turns(np.array(turns))
    choose = drawn.choose(source, rows, numbers)
    return [choose(place, row, PICTURE) for place in range(len(turns))]


def test_views_come_round(sources: Sources) -> None:
    fixed = views(sources, 3, list(range(9)))
    assert fixed[:3] == fixed[3:6] == fixed[6:]
    assert fixed[0] == plain_view(PICTURE, SIZE, "crop")
    assert len(set(fixed)) == 3
    assert len(set(views(sources, None, list(range(9))))) == 9


def test_a_view_is_the_fresh_one_of_the_epoch_of_its_number(sources: Sources) -> None:
    assert views(sources, 4, [1, 2, 3]) == views(sources, None, [1, 2, 3])


def test_a_row_that_replaces_another_has_its_own_view(sources: Sources) -> None:
    drawn = DrawnViews(sources.opened, SIZE, seed=0, count=2)
    choose = drawn.choose(0, np.array([3]), np.array([1]))
    assert [choose(0, 5, PICTURE)] == views(sources, 2, [1], row=5)


def test_a_batch_says_which_row_and_which_view_it_shows(sources: Sources) -> None:
    fresh = next(iter(sources.stream(steps=1)))
    assert fresh.view.tolist() == [-1] * len(fresh)
    keys = [
        sources.opened[source].keys([row])[0]
        for source, row in zip(fresh.source.tolist(), fresh.row.tolist(), strict=True)
    ]
    assert keys == fresh.keys
    sources.see_under(DrawnViews(sources.opened, SIZE, seed=0, count=2))
    seen: dict[tuple[str, int], bytes] = {}
    for batch in sources.stream(steps=40):
        for place, key in enumerate(batch.keys):
            image = batch.images[place].numpy().tobytes()
            assert seen.setdefault((key, int(batch.view[place])), image) == image
    assert {view for _, view in seen} == {0, 1}


def test_every_view_is_what_training_shows(sources: Sources) -> None:
    sources.see_under(DrawnViews(sources.opened, SIZE, seed=0, count=3))
    rows = sources.opened[0].rows("train")[4:9]
    for workers in (0, 1):
        (seen,) = sources.every_view([(0, rows)], workers=workers)
        images = seen.images.view(5, 3, 3, *SIZE)
        for view in range(3):
            picks = BatchRows(np.zeros(5, np.int64), np.full(5, view), rows)
            assert torch.equal(sources.training_rows(picks).images, images[:, view])
        assert seen.boxes.shape == (5, 3, 4)
        assert seen.flips.shape == (5, 3)


def test_rows_by_shard_are_the_training_rows_in_shard_order(tmp_path: Path) -> None:
    sources = open_two(tmp_path)
    for source in sources.opened:
        parts = source.by_shard("train")
        assert [part.path.name for part in parts] == [
            f"{source.name}-train-{number}.tar" for number in (0, 1)
        ]
        assert np.array_equal(np.concatenate([part.rows for part in parts]), source.rows("train"))
    before = [part.keys for part in sources.opened[0].by_shard("train")]
    three_sets(tmp_path, "pets", lambda count, first=0: pets(count, first + 1), 40)
    after = open_two(tmp_path).opened[0].by_shard("train")
    assert not set(before) & {part.keys for part in after}
