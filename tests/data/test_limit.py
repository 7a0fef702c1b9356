"""Few labels: so many rows keep theirs, always the same ones, and the others teach through teachers alone."""

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_shards import KINDS, mask, open_two, parts, pets, recipe, source, three_sets, write
from rich.console import Console

from distill_mtl.checks.before_training import show_sources
from distill_mtl.data import DataSettings, Sources, open_sources
from distill_mtl.data.batch import ProcessShare
from distill_mtl.errors import RecipeError


def open_pets(
    folder: Path, *, seed: int = 0, batch_size: int = 8, make: Any = pets, **options: Any
) -> Sources:
    """40 pets of three classes."""
    if not (folder / "pets-test.tar").exists():
        three_sets(folder, "pets", make, 40)
    data = {"pets": source(folder, "pets", "pet", **options)}
    return open_sources(DataSettings.of(recipe(data, batch_size=batch_size, seed=seed)), KINDS, (8, 8))


def kept(sources: Sources) -> set[str]:
    """Keys of the training rows that show their label."""
    return {key for batch in sources.labelled("pet", "train", 16) for key in batch.keys}


def skewed(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Rows of which every tenth is a dog, the others cats."""
    rows = pets(count, first)
    for number, row in enumerate(rows):
        row["cls"] = b"1" if (first + number) % 10 == 0 else b"0"
    return rows


def test_so_many_rows_show_their_label_and_no_other(tmp_path: Path) -> None:
    sources = open_pets(tmp_path, limit={"rows": 10})
    assert len(kept(sources)) == sources.count("pet", "train") == 10
    labelled, unlabelled = set(), set()
    for batch in sources.stream(steps=40):
        for key, real, label in zip(
            batch.keys, batch.labelled["pet"].tolist(), batch.labels["pet"].tolist(), strict=True
        ):
            (labelled if real else unlabelled).add(key)
            assert label == (int(key[-4:]) % 3 if real else 0), "what a row hides stands nowhere in the batch"
    assert labelled == kept(sources)
    assert len(unlabelled) == 30, "the others stay in the stream"


def test_validation_and_test_keep_all_their_labels(tmp_path: Path) -> None:
    limited, whole = open_pets(tmp_path, limit={"rows": 1}), open_pets(tmp_path)
    for split in ("validation", "test"):
        assert limited.count("pet", split) == whole.count("pet", split)
        ours, theirs = ([batch.keys for batch in each.labelled("pet", split, 2)] for each in (limited, whole))
        assert ours == theirs
    assert limited.rows() == whole.rows() == {"pets": 40}
    assert limited.steps_per_epoch(8) == whole.steps_per_epoch(8)


def test_the_rows_follow_from_the_seed_and_those_of_a_smaller_limit_are_among_them(tmp_path: Path) -> None:
    few, more, most = (kept(open_pets(tmp_path, limit={"rows": rows})) for rows in (5, 10, 39))
    assert few < more < most
    assert few == kept(open_pets(tmp_path, limit={"rows": 5, "share": 0.7}))
    assert few != kept(open_pets(tmp_path, limit={"rows": 5}, seed=1))
    assert sorted(key[-4:] for key in few) == ["0001", "0005", "0012", "0014", "0039"], "for ever"


@pytest.mark.parametrize("rows", [40, 4000])
def test_a_limit_of_all_rows_is_none(tmp_path: Path, rows: int) -> None:
    limited, whole = open_pets(tmp_path, limit={"rows": rows}), open_pets(tmp_path)
    assert [batch.keys for batch in limited.stream(steps=6)] == [
        batch.keys for batch in whole.stream(steps=6)
    ]
    assert limited.covered_by_labels("pet")
    assert "labelled" not in shown(limited)


def test_some_rows_of_every_class_may_be_kept(tmp_path: Path) -> None:
    few, more = (open_pets(tmp_path, limit={"per_class": count}) for count in (2, 3))
    assert Counter(int(key[-4:]) % 3 for key in kept(few)) == {0: 2, 1: 2, 2: 2}
    assert kept(few) < kept(more)


def test_a_class_with_fewer_rows_keeps_them_all_and_the_check_says_so(tmp_path: Path) -> None:
    sources = open_pets(tmp_path, make=skewed, limit={"per_class": 5})
    assert sources.summary()[0].small_classes == {"dog": 4, "bird": 0}
    assert sources.count("pet", "train") == 9
    text = shown(sources)
    assert "9 of 40 labelled" in text
    assert "dog (4), bird (0)" in text


def test_the_check_says_how_many_rows_are_labelled(tmp_path: Path) -> None:
    text = shown(open_pets(tmp_path, limit={"rows": 10, "share": 0.5}))
    assert "pet (cls), 10 of 40 labelled" in text
    assert "pets: 50 % of its rows in a batch have labels" in text


def test_the_check_says_that_data_sets_take_turns(tmp_path: Path) -> None:
    turning = shown(open_two(tmp_path, stream={"mode": "alternate", "phase": 3}))
    assert "share of the steps" in turning
    assert "3 steps (training.stream)" in turning


@pytest.mark.parametrize(
    ("limit", "share"),
    [
        ({"rows": 4}, 0.25),
        ({"rows": 30}, 0.75),
        ({"rows": 4, "share": 0.5}, 0.5),
        ({"rows": 30, "share": 0.125}, 0.125),
        ({"rows": 4, "share": 1}, 1),
    ],
)
def test_labelled_rows_have_their_share_of_every_batch(tmp_path: Path, limit: dict, share: float) -> None:
    sources = open_pets(tmp_path, batch_size=16, limit=limit)
    batches = list(sources.stream(steps=20))
    assert {int(batch.labelled["pet"].sum()) for batch in batches} == {int(16 * share)}
    assert sources.summary()[0].labelled_share == share


def test_the_source_keeps_its_share_of_a_batch(tmp_path: Path) -> None:
    whole, limited = open_two(tmp_path), open_two(tmp_path, limit={"rows": 3})
    assert [one.share for one in whole.summary()] == [one.share for one in limited.summary()]
    rows = [
        sum(np.bincount(batch.source, minlength=2) for batch in each.stream(steps=128))
        for each in (whole, limited)
    ]
    assert np.abs(rows[0] - rows[1]).max() <= 2, "to the rounding of a period"


def test_every_row_of_a_part_comes_once_before_any_comes_again(tmp_path: Path) -> None:
    sources = open_pets(tmp_path, limit={"rows": 10, "share": 0.5})
    real, pool = [], []
    for batch in sources.stream(steps=15):
        for key, labelled in zip(batch.keys, batch.labelled["pet"].tolist(), strict=True):
            (real if labelled else pool).append(key)
    assert {len(set(real[start : start + 10])) for start in range(0, 60, 10)} == {10}
    assert {len(set(pool[start : start + 30])) for start in range(0, 60, 30)} == {30}


@pytest.mark.parametrize("stream", [None, {"mode": "alternate"}])
def test_slices_and_resuming_give_the_same_rows(tmp_path: Path, stream: dict | None) -> None:
    sources = open_two(tmp_path, batch_size=12, limit={"rows": 4}, stream=stream)
    whole = list(sources.stream(steps=7))
    ranks = [list(sources.stream(steps=7, share=ProcessShare(rank, 3))) for rank in range(3)]
    for step, batch in enumerate(whole):
        flat = [row for rank in ranks for row in _rows(rank[step])]
        assert sorted(flat) == sorted(_rows(batch))
    resumed = list(sources.stream(steps=7, start_step=5, workers=1))
    assert [_rows(batch) for batch in resumed] == [_rows(batch) for batch in whole[5:]]


def test_a_source_limited_for_two_tasks_hides_both_labels_of_the_same_rows(tmp_path: Path) -> None:
    def both(count: int, first: int = 0) -> list[dict[str, Any]]:
        return [{**row, "seg.png": mask(number)} for number, row in enumerate(pets(count, first))]

    three_sets(tmp_path, "both", both, 20)
    section = source(tmp_path, "both", "pet", limit={"rows": 5})
    section["labels"]["part"] = {"member": "seg.png"}
    sources = open_sources(DataSettings.of(recipe({"both": section})), KINDS, (8, 8))
    for batch in sources.stream(steps=10):
        assert torch.equal(batch.labelled["pet"], batch.labelled["part"])
        hidden = ~batch.labelled["part"]
        assert (batch.labels["part"][hidden] == 255).all()
    assert not sources.covered_by_labels("pet")
    assert not sources.covered_by_labels("part")
    section["limit"]["share"] = 1
    alone = open_sources(DataSettings.of(recipe({"both": section})), KINDS, (8, 8))
    assert alone.covered_by_labels("part"), "the pool is not drawn"


def test_class_balance_holds_among_the_labelled_rows(tmp_path: Path) -> None:
    sources = open_pets(
        tmp_path, make=skewed, class_balance=True, limit={"rows": 20, "share": 0.5}, batch_size=16
    )
    cats, dogs = Counter[bool](), Counter[bool]()
    for batch in sources.stream(steps=20):
        for key, real in zip(batch.keys, batch.labelled["pet"].tolist(), strict=True):
            (dogs if int(key[-4:]) % 10 == 0 else cats)[real] += 1
    assert cats[True] == dogs[True] == 80
    assert dogs[False] < cats[False] / 4, "the pool is drawn as it is"


def test_a_limit_per_class_needs_one_class_label(tmp_path: Path) -> None:
    three_sets(tmp_path, "parts", parts, 4)
    data = {"parts": source(tmp_path, "parts", "part", limit={"per_class": 1})}
    with pytest.raises(
        RecipeError,
        match=r"data\.parts\.limit\.per_class: .*found none.*`rows`",
    ):
        open_sources(DataSettings.of(recipe(data)), KINDS, (8, 8))


def test_the_pools_labels_are_not_even_read(tmp_path: Path) -> None:
    three_sets(tmp_path, "pets", pets, 40)
    rows = pets(20)
    hidden = {int(key[-4:]) for key in kept(open_pets(tmp_path, limit={"rows": 5}))} ^ set(range(20))
    for row in rows:
        if int(row["__key__"]) in hidden:
            row["cls"] = b"horse"
    write(tmp_path / "pets-train-0.tar", rows)
    batches = list(open_pets(tmp_path, limit={"rows": 5}).stream(steps=20))
    assert sum(int(batch.labelled["pet"].sum()) for batch in batches) == 40


def shown(sources: Sources) -> str:
    console = Console(file=io.StringIO(), width=140)
    show_sources(console, sources)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _rows(batch: Any) -> list[tuple[str, bytes, bool, bool]]:
    flags = zip(batch.labelled["pet"].tolist(), batch.labelled["part"].tolist(), strict=True)
    pictures = [image.numpy().tobytes() for image in batch.images]
    return [(key, picture, *flag) for key, picture, flag in zip(batch.keys, pictures, flags, strict=True)]


def test_rows_are_found_by_their_keys(tmp_path: Path) -> None:
    sources = open_pets(tmp_path)
    some = sorted(kept(sources))[3:6]
    asked = sources.labelled("pet", "train", 2, only=[*some, "pets/no-such-shard/000"])
    assert sorted(key for batch in asked for key in batch.keys) == some
