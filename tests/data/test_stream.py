"""The stream gives every step the same rows and views, however and wherever they are read."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from data_shards import KINDS, open_two, recipe, source

from distill_mtl.data import Batch, DataSettings, Sources, open_sources
from distill_mtl.data.batch import ProcessShare
from distill_mtl.errors import RecipeError, ShardError

Content = dict[tuple[str, int], tuple]


def content(batches: Iterable[Batch]) -> Content:
    """Every row of the batches, by key and how often it came, with all that belongs to it."""
    rows: Content = {}
    for batch in batches:
        assert len(batch) == len(batch.images) == len(batch.source)
        for place, key in enumerate(batch.keys):
            times = sum(seen == key for seen, _ in rows)
            labels = {task: batch.labels[task][place].tolist() for task in batch.labels}
            labelled = {task: bool(batch.labelled[task][place]) for task in batch.labelled}
            color = batch.color[place].tolist() if batch.color is not None else None
            image = batch.images[place].numpy().tobytes()
            rows[key, times] = (image, labels, labelled, color, int(batch.source[place]))
    return rows


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return open_two(tmp_path, batch_size=9, size=6)


def test_two_processes_with_micro_batches_are_one_process(sources: Sources) -> None:
    whole = list(sources.stream(steps=5))
    for world, micro in ((2, 1), (1, 3), (2, 2), (3, 3)):
        parts = [
            list(sources.stream(steps=5, share=ProcessShare(rank, world), micro_batches=micro))
            for rank in range(world)
        ]
        assert all(len(part) == 5 * micro for part in parts)
        for step, batch in enumerate(whole):
            shares = [shared for part in parts for shared in part[step * micro : (step + 1) * micro]]
            assert content(shares) == content([batch])
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_every_part_of_a_step_mixes_the_sources(tmp_path: Path) -> None:
    sources = open_two(tmp_path, batch_size=32)
    for batch in sources.stream(steps=6, share=ProcessShare(1, 2), micro_batches=2):
        assert set(batch.source.tolist()) == {0, 1}


def test_a_resumed_stream_is_the_tail_of_the_whole_one(sources: Sources) -> None:
    whole = list(sources.stream(steps=9))
    resumed = list(sources.stream(steps=9, start_step=6))
    assert [batch.keys for batch in resumed] == [batch.keys for batch in whole[6:]]
    assert content(resumed) == content(whole[6:])
    assert not list(sources.stream(steps=9, start_step=9))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(sources: Sources, workers: int) -> None:
    alone = list(sources.stream(steps=4, micro_batches=2))
    helped = list(sources.stream(steps=4, micro_batches=2, workers=workers))
    assert [batch.keys for batch in helped] == [batch.keys for batch in alone]
    assert content(helped) == content(alone)


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_leaves_the_global_random_state_alone(sources: Sources, workers: int) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(sources.stream(steps=2, workers=workers))
    assert torch.equal(torch.rand(3), expected)


def test_an_error_in_a_worker_is_the_users_error_without_a_traceback(
    sources: Sources, tmp_path: Path
) -> None:
    (tmp_path / "pets-train-0.tar").write_bytes(b"")
    (tmp_path / "pets-train-1.tar").write_bytes(b"")
    with pytest.raises(ShardError) as caught:
        list(sources.stream(steps=2, workers=1))
    assert "it was changed while it was read" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_an_epoch_of_each_source_holds_every_row_once(tmp_path: Path) -> None:
    sources = open_two(tmp_path, batch_size=9, weight=1.0)
    seen: list[list[str]] = [[], []]
    for batch in sources.stream(steps=30):
        for key, number in zip(batch.keys, batch.source.tolist(), strict=True):
            seen[number].append(key)
    for keys, rows in zip(seen, (40, 11), strict=True):
        for epoch in range(len(keys) // rows):
            part = keys[epoch * rows : (epoch + 1) * rows]
            assert max(Counter(part).values()) == 1


def test_a_row_is_seen_differently_in_each_epoch_and_alike_on_replay(tmp_path: Path) -> None:
    first, again = (content(open_two(tmp_path, batch_size=9, size=6).stream(steps=30)) for _ in range(2))
    assert first == again
    key = next(key for key, times in first if times == 2)
    images = [first[key, times][0] for times in range(3)]
    colors = [tuple(first[key, times][3]) for times in range(3)]
    assert len(set(images)) == 3
    assert len(set(colors)) == 3
    other = content(open_two(tmp_path, batch_size=9, size=6, seed=1).stream(steps=30))
    assert first[key, 0][0] != other[key, 0][0]


def test_images_and_labels_have_one_size_and_type_in_every_batch(sources: Sources) -> None:
    for batch in sources.stream(steps=6, micro_batches=9):  # one row each: often no row of a source
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape == (1, 3, 6, 6)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels["pet"].shape == (1,)
        assert batch.labels["part"].shape == (1, 6, 6)
        assert {label.dtype for label in batch.labels.values()} == {torch.int64}
        assert batch.labelled["pet"].tolist() == [batch.source.item() == 0]
        assert batch.labelled["part"].tolist() == [batch.source.item() == 1]
        if not batch.labelled["part"].item():
            assert (batch.labels["part"] == 255).all()


def test_a_batch_becomes_floats_on_its_device(sources: Sources) -> None:
    batch = next(iter(sources.stream(steps=1)))
    moved = batch.to("cpu")
    assert moved.images.dtype == torch.float32
    assert torch.equal((moved.images * 255).round().to(torch.uint8), batch.images)
    assert moved.color is not None
    assert torch.equal(moved.color, batch.color)


def test_colours_follow_the_strength_of_each_source(tmp_path: Path) -> None:
    open_two(tmp_path)
    data = {
        "pets": source(tmp_path, "pets", "pet", augment={"color": 0.3}),
        "parts": source(tmp_path, "parts", "part", augment={"color": 0}),
    }
    sources = open_sources(DataSettings.of(recipe(data, batch_size=16)), KINDS, (8, 8))
    factors = {0: [], 1: []}
    for batch in sources.stream(steps=20):
        for row, number in zip(batch.color.tolist(), batch.source.tolist(), strict=True):
            factors[number] += row
    assert set(factors[1]) == {1.0}
    assert 0.7 <= min(factors[0]) < 0.75
    assert 1.25 < max(factors[0]) <= 1.3
    none = open_two(tmp_path, augment={"color": 0, "crop": None, "flip": False})
    assert next(iter(none.stream(steps=1))).color is None


def test_more_parts_than_rows_are_refused(sources: Sources) -> None:
    with pytest.raises(RecipeError, match=r"training\.batch_size: 9 rows cannot be shared by 5 processes"):
        sources.stream(steps=1, share=ProcessShare(0, 5), micro_batches=2)
    with pytest.raises(RecipeError, match=r"1 processes with 10 micro-batches"):
        sources.preview(steps=1, micro_batches=10)
