"""A stream in windows: the same rows on any number of processes, each of which reads shards of its own."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_shards import KINDS, parts, pets, recipe, source, three_sets, write

from distill_mtl.data import Batch, DataSettings, Sources, open_sources
from distill_mtl.data.batch import ProcessShare
from distill_mtl.data.order import Shuffled
from distill_mtl.data.quota import Quota
from distill_mtl.data.source import is_in_windows
from distill_mtl.data.windows import RowsByShard
from distill_mtl.errors import RecipeError
from distill_mtl.recipe import load_recipe
from distill_mtl.recipe.schema import SourceSection

SHARDS, ROWS = 12, 5
WINDOWS = {"order": "windows", "window": 2}


def opened(
    folder: Path, *, batch_size: int = 24, lanes: int = 8, mode: str = "mixed", **options: Any
) -> Sources:
    """60 pets in twelve shards, and 11 parts in two."""
    if not (folder / "pets-test.tar").exists():
        three_sets(folder, "pets", pets, 4)
        for number in range(SHARDS):
            write(folder / f"pets-train-{number}.tar", pets(ROWS, first=number * ROWS))
        three_sets(folder, "parts", parts, 11)
    data = {"pets": source(folder, "pets", "pet", **options), "parts": source(folder, "parts", "part")}
    data["pets"]["shards"] = str(folder / f"pets-train-{{0..{SHARDS - 1}}}.tar")
    stream = {"lanes": lanes, "mode": mode}
    settings = DataSettings.of(recipe(data, batch_size=batch_size, stream=stream))
    return open_sources(settings, KINDS, (8, 8), every_set=False)  # 5 % of 60 rows may be none


def content(batches: Iterable[Batch]) -> Counter[tuple[Any, ...]]:
    """Every row of the batches with all that belongs to it."""
    rows: Counter[tuple[Any, ...]] = Counter()
    for batch in batches:
        for place, key in enumerate(batch.keys):
            labels = [(name, labels[place].numpy().tobytes()) for name, labels in batch.labels.items()]
            color = tuple(batch.color[place].tolist()) if batch.color is not None else None
            rows[key, batch.images[place].numpy().tobytes(), *labels, color] += 1
    return rows


@pytest.mark.parametrize("mode", ["mixed", "alternate"])
@pytest.mark.parametrize("limit", [None, {"rows": 14}])
def test_any_number_of_processes_has_the_rows_of_one(tmp_path: Path, mode: str, limit: Any) -> None:
    sources = opened(tmp_path, mode=mode, limit=limit, **WINDOWS)
    whole = list(sources.stream(steps=6))
    assert {len(batch) for batch in whole} == {24}
    for world, micro in ((2, 1), (4, 1), (8, 1), (1, 3), (2, 2)):
        shares = [
            list(sources.stream(steps=6, share=ProcessShare(rank, world), micro_batches=micro))
            for rank in range(world)
        ]
        for step, batch in enumerate(whole):
            together = [each for part in shares for each in part[step * micro : (step + 1) * micro]]
            assert content(together) == content([batch]), (world, micro, step)
            assert all(map(len, together))


def test_a_run_goes_on_at_a_step_with_another_number_of_processes(tmp_path: Path) -> None:
    whole = list(opened(tmp_path, **WINDOWS).stream(steps=9))
    again = opened(tmp_path, **WINDOWS)
    tail = [
        list(again.stream(start_step=5, steps=9, share=ProcessShare(rank, 4), workers=int(rank == 3)))
        for rank in range(4)
    ]
    for step, batches in enumerate(zip(*tail, strict=True)):
        assert content(batches) == content([whole[5 + step]])


def test_an_epoch_of_the_stream_has_every_row_once_whatever_the_split(tmp_path: Path) -> None:
    for split in ({}, {"split": {}}):
        sources = opened(tmp_path, weight=1.0, **split, **WINDOWS)
        keys = [key for batch in sources.stream(steps=40) for key in batch.keys if key.startswith("pets/")]
        rows = sources.rows()["pets"]
        assert rows == SHARDS * ROWS or split
        for first in range(0, len(keys) - rows, rows):
            assert len({*keys[first : first + rows]}) == rows


def test_a_process_reads_few_shards_and_mostly_its_own(tmp_path: Path) -> None:
    sources = opened(tmp_path, lanes=4, **(WINDOWS | {"window": 1}))
    epoch = [
        [
            {key.split("/")[1] for key in batch.keys if key.startswith("pets/")}
            for batch in sources.stream(steps=3, share=ProcessShare(rank, 4))
        ]
        for rank in range(4)
    ]
    for steps in epoch:
        assert all(len(shards) <= 3 for shards in steps)
    own = [set().union(*steps) for steps in epoch]
    assert all(len(one & other) <= 1 for one in own for other in own if one is not other)


def test_shards_on_this_machine_keep_the_order_of_rows(tmp_path: Path) -> None:
    sources = opened(tmp_path)
    shares = np.sqrt([SHARDS * ROWS, 11])
    counts, before = Quota(shares, 24), np.zeros(2, np.int64)
    orders = [
        Shuffled(0, source.name, source.rows("train"))(np.arange(200))[1].tolist()
        for source in sources.opened
    ]
    for step, batch in enumerate(sources.stream(steps=8)):
        after = before + counts.counts(step)
        drawn = [rows[first:end] for rows, first, end in zip(orders, before, after, strict=True)]
        assert batch.row.tolist() == [*drawn[0], *drawn[1]]
        before = after


def test_one_lane_and_a_window_of_all_shards_are_the_order_of_rows_to_the_bit(tmp_path: Path) -> None:
    for limit in (None, {"rows": 14}):
        rows = opened(tmp_path, limit=limit)
        windows = opened(tmp_path, lanes=1, limit=limit, order="windows", window=SHARDS)
        for ours, theirs in zip(rows.stream(steps=8), windows.stream(steps=8), strict=True):
            assert ours.keys == theirs.keys
            assert ours.images.equal(theirs.images)


def test_rows_that_are_looked_up_on_demand_are_those_that_are_held(tmp_path: Path) -> None:
    for options in ({}, {"split": {}}, {"limit": {"rows": 14}}):
        held = opened(tmp_path, **options).opened[0]
        asked = opened(tmp_path, lanes=1, **options, **WINDOWS).opened[0]
        assert len(held) == len(asked)
        rows = np.random.RandomState(0).permutation(len(held))
        assert held.keys(rows.tolist()) == asked.keys(rows.tolist())
        assert held.payloads(held.image, rows) == asked.payloads(asked.image, rows)
        assert held.are_shown(rows).tolist() == asked.are_shown(rows).tolist()
        for split in ("train", "validation", "test"):
            assert held.rows(split).tolist() == asked.rows(split).tolist()
            assert held.count(split) == asked.count(split) == len(held.rows(split))
            assert held.shown_rows(split).tolist() == asked.shown_rows(split).tolist()
            assert [part.keys for part in held.by_shard(split)] == [
                part.keys for part in asked.by_shard(split)
            ]
        for row in held.rows("train").tolist():
            assert held.after(row) == asked.after(row)
            assert held.group(row) == asked.group(row)
            assert held.place("png", row) == asked.place("png", row)


def test_lists_of_rows_are_the_same_and_look_up_only_what_is_asked_for(tmp_path: Path) -> None:
    held = opened(tmp_path, limit={"rows": 14})
    asked = opened(tmp_path, limit={"rows": 14}, **WINDOWS)
    for split in ("train", "validation", None):
        for limit in (None, 5):
            for share in (ProcessShare(), ProcessShare(1, 2)):
                ours, theirs = (
                    [
                        *(batch.keys for batch in each.labelled("pet", split, 4, share=share, limit=limit)),
                        *(batch.keys for batch in each.pictures("pets", split, 4, share=share, limit=limit)),
                    ]
                    for each in (held, asked)
                )
                assert ours == theirs
    rows = asked.opened[0].rows_by_shard("train")
    looked = RowsByShard(
        rows.counts, lambda shard: rows.of(shard) if shard in (2, 7) else pytest.fail("not asked for")
    )
    places = np.array([2 * ROWS, 7 * ROWS + 4, 2 * ROWS + 1])
    assert looked.at(places).tolist() == asked.opened[0].rows("train")[places].tolist()


def test_lanes_that_the_processes_cannot_share_are_refused(tmp_path: Path) -> None:
    sources = opened(tmp_path, **WINDOWS)
    with pytest.raises(
        RecipeError, match=r"lanes: 8 lanes .* 3 processes.* pets .*2 or 4 processes.*lanes=9"
    ):
        sources.stream(steps=1, share=ProcessShare(0, 3))
    assert len(next(sources.preview(micro_batches=3, steps=1))) == 8
    list(opened(tmp_path).stream(steps=1, share=ProcessShare(0, 3)))


def test_a_step_that_may_leave_a_process_without_rows_is_refused(tmp_path: Path) -> None:
    sources = opened(tmp_path, batch_size=8, **WINDOWS)
    with pytest.raises(
        RecipeError, match=r"batch_size: with 8 rows on lanes, one of 8 processes .*`order: rows`"
    ):
        sources.stream(steps=1, share=ProcessShare(0, 8))


@pytest.mark.parametrize("key", ["class_balance: true", "limit: {per_class: 2}"])
def test_what_needs_every_rows_class_ahead_is_refused_by_name(tmp_path: Path, key: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "student: resnet18\ntasks: {pet: {classes: 3}}\n"
        f"data: {{pets: {{shards: a.tar, labels: {{pet: cls}}, order: windows, {key}}}}}\n"
    )
    with pytest.raises(RecipeError, match=rf"(?s)data\.pets\.order.*`{key.split(':')[0]}.*`order: rows`"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("shards", "options", "windows"),
    [
        ("pets-{0..9}.tar", {}, False),
        ("s3://bucket/pets-{0..9}.tar", {}, True),
        ("https://host/pets.tar", {}, True),
        ("s3://bucket/pets.tar", {"class_balance": True}, False),
        ("s3://bucket/pets.tar", {"limit": {"per_class": 3}}, False),
        ("s3://bucket/pets.tar", {"order": "rows"}, False),
        (["a.tar", "s3://bucket/pets.tar"], {}, True),
        (None, {}, False),
    ],
)
def test_auto_is_windows_for_shards_that_are_read_from_elsewhere(
    shards: Any, options: dict[str, Any], windows: bool
) -> None:
    assert is_in_windows(SourceSection.model_validate({"shards": shards, **options})) == windows
