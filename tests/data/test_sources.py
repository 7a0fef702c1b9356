"""Opening the data of a recipe: what is refused before training, and what the check can say."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from data_shards import KINDS, mask, open_two, parts, pets, picture, recipe, source, three_sets, write

from distill_mtl.data import DataSettings, Sources, open_sources
from distill_mtl.data.batch import ProcessShare
from distill_mtl.errors import RecipeError, ShardError


def open_data(data: dict, size: tuple[int, int] = (8, 8)) -> Sources:
    return open_sources(DataSettings.of(recipe(data)), KINDS, size)


def test_rows_without_a_picture_or_a_label_are_counted_before_training(tmp_path: Path) -> None:
    three_sets(tmp_path, "pets", pets, 12)
    rows = pets(6)
    for row in rows[1:5]:
        del row["cls"]
    del rows[0]["png"]
    write(tmp_path / "pets-train-0.tar", rows)
    with pytest.raises(ShardError) as caught:
        open_data({"pets": source(tmp_path, "pets", "pet")})
    message = str(caught.value)
    assert re.search(
        r"\b1 of 21 rows [^:]*picture[^:]*jpg;jpeg;png;webp[^:]*: pets/pets-train-0/0000", message
    )
    assert "4 of 21 rows lack the label of pet (member cls)" in message
    assert "pets/pets-train-0/0001" in message
    assert "Members in the shards: cls, png" in message


def test_the_findings_of_all_sources_come_in_one_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError) as caught:
        open_data({"pets": source(tmp_path, "pets", "pet"), "parts": source(tmp_path, "parts", "part")})
    assert "data.pets.shards: 2 shards are missing" in str(caught.value)
    assert "data.parts.shards: 2 shards are missing" in str(caught.value)


def test_a_shard_in_two_sets_is_refused(tmp_path: Path) -> None:
    three_sets(tmp_path, "pets", pets, 12)
    section = source(tmp_path, "pets", "pet")
    section["split"]["test"] = section["split"]["validation"]
    with pytest.raises(ShardError, match="may belong to one of training, validation and test only"):
        open_data({"pets": section})


def test_a_label_that_makes_no_sense_is_named_with_its_place(tmp_path: Path) -> None:
    three_sets(tmp_path, "pets", pets, 12)
    rows = pets(6)
    rows[4]["cls"] = b"horse"
    shard = write(tmp_path / "pets-train-0.tar", rows)
    sources = open_data({"pets": source(tmp_path, "pets", "pet")})
    with pytest.raises(ShardError) as caught:
        list(sources.stream(steps=3))
    assert f"data.pets: {shard}, row 0004, member cls: the label 'horse'" in str(caught.value)


def test_a_mask_of_another_size_than_its_picture_is_refused(tmp_path: Path) -> None:
    three_sets(tmp_path, "parts", parts, 4)
    write(
        tmp_path / "parts-test.tar", [{"__key__": "a", "png": picture(1, 8, 10), "seg.png": mask(1, 10, 8)}]
    )
    sources = open_data({"parts": source(tmp_path, "parts", "part")})
    with pytest.raises(ShardError, match="the label has 8x10 pixels, its picture 10x8"):
        list(sources.labelled("part", "test", 4))


def test_sets_without_shards_are_cut_by_hash_and_reported(tmp_path: Path) -> None:
    write(tmp_path / "pets.tar", pets(300))
    shards = str(tmp_path / "pets.tar")
    sources = open_data({"pets": {"shards": shards, "labels": {"pet": {"member": "cls"}}}})
    counts = [sources.count("pet", split) for split in ("train", "validation", "test")]
    assert sum(counts) == 300
    assert all(count > 0 for count in counts)
    assert sources.hashed("pet")
    assert sources.summary()[0].hashed == ("validation", "test")
    keys = [
        key
        for split in ("train", "validation", "test")
        for b in sources.labelled("pet", split, 64)
        for key in b.keys
    ]
    assert len(set(keys)) == 300, "every row is in one set"


def test_only_the_set_without_shards_is_cut(tmp_path: Path) -> None:
    write(tmp_path / "pets.tar", pets(300))
    write(tmp_path / "test.tar", pets(7, first=900))
    section = {
        "shards": str(tmp_path / "pets.tar"),
        "labels": {"pet": {"member": "cls"}},
        "split": {"test": str(tmp_path / "test.tar")},
    }
    sources = open_data({"pets": section})
    assert sources.count("pet", "test") == 7
    assert sources.count("pet", "train") + sources.count("pet", "validation") == 300
    assert not sources.hashed("pet")


def test_too_few_rows_for_a_cut_say_so(tmp_path: Path) -> None:
    write(tmp_path / "pets.tar", pets(6))
    with pytest.raises(
        ShardError, match=r"data\.pets: no validation rows.* pet\b.*data\.pets\.split\.validation"
    ):
        open_data({"pets": {"shards": str(tmp_path / "pets.tar"), "labels": {"pet": {"member": "cls"}}}})


def test_a_transfer_pool_without_labels_keeps_all_its_rows(tmp_path: Path) -> None:
    three_sets(tmp_path, "pets", pets, 12)
    write(tmp_path / "pool.tar", [{"__key__": str(row), "webp": picture(row)} for row in range(30)])
    sources = open_data(
        {"pets": source(tmp_path, "pets", "pet"), "pool": {"shards": str(tmp_path / "pool.tar")}}
    )
    assert sources.rows() == {"pets": 12, "pool": 30}
    assert not sources.covered_by_labels("pet")
    batch = next(iter(sources.stream(steps=1)))
    assert batch.labelled["pet"].tolist() == (batch.source == 0).tolist()


def test_counts_shares_and_names(tmp_path: Path) -> None:
    sources = open_two(tmp_path)
    assert sources.names == ("pets", "parts")
    assert sources.rows() == {"pets": 40, "parts": 11}
    assert sources.rows("test") == {"pets": 5, "parts": 5}
    assert sources.steps_per_epoch(17) == 3
    first, second = sources.summary()
    assert (first.shards, first.rows["validation"], first.labels) == (4, 4, {"pet": "cls"})
    assert first.share == pytest.approx(np.sqrt(40) / (np.sqrt(40) + np.sqrt(11)))
    assert first.share + second.share == pytest.approx(1)
    weighted = open_two(tmp_path, weight=2.0).summary()
    assert [summary.share for summary in weighted] == [0.5, 0.5]


def test_labelled_rows_come_plain_in_shard_order_with_their_groups(tmp_path: Path) -> None:
    open_two(tmp_path)
    rows = pets(5, first=600)
    rows[1]["group"] = rows[3]["group"] = "scene ä\n".encode()
    write(tmp_path / "pets-test.tar", rows)
    sources = open_two(tmp_path)
    batches = list(sources.labelled("pet", "test", 2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert [key for batch in batches for key in batch.keys] == [
        f"pets/pets-test/{n:04d}" for n in range(600, 605)
    ]
    groups = [group for batch in batches for group in batch.groups]
    assert groups == [
        "pets/pets-test/0600",
        "scene ä",
        "pets/pets-test/0602",
        "scene ä",
        "pets/pets-test/0604",
    ]
    labels = torch.cat([batch.labels["pet"] for batch in batches])
    assert labels.tolist() == [n % 3 for n in range(600, 605)]
    assert all(batch.labelled["pet"].all() and batch.color is None for batch in batches)
    assert set(batches[0].labels) == {"pet"}
    again = list(sources.labelled("pet", "test", 2))
    assert torch.equal(batches[0].images, again[0].images)


def test_processes_share_the_labelled_rows_and_a_limit_spreads_over_the_set(tmp_path: Path) -> None:
    sources = open_two(tmp_path)

    def keys(**options: int) -> list[str]:
        return [key[-4:] for batch in sources.labelled("pet", "train", 4, **options) for key in batch.keys]

    assert sorted(
        keys(share=ProcessShare(0, 3)) + keys(share=ProcessShare(1, 3)) + keys(share=ProcessShare(2, 3))
    ) == sorted(keys())
    assert [key[:3] for key in keys(limit=4)] == ["000", "001", "002", "003"]
    assert keys(limit=4, share=ProcessShare(1, 2)) == keys(limit=4)[1::2]
    assert keys(limit=400) == keys()


def test_a_mask_without_a_valid_pixel_is_no_label(tmp_path: Path) -> None:
    from data_shards import png

    three_sets(tmp_path, "parts", parts, 4)
    rows = parts(3)
    rows[1]["seg.png"] = png(np.full((8, 8), 255, np.uint8))
    write(tmp_path / "parts-test.tar", rows)
    write(tmp_path / "parts-train-0.tar", rows)
    sources = open_data({"parts": source(tmp_path, "parts", "part")})
    keys = [key for batch in sources.labelled("part", "test", 2) for key in batch.keys]
    assert keys == ["parts/parts-test/0000", "parts/parts-test/0002"]
    for batch in sources.stream(steps=4):
        empty = [key.endswith("train-0/0001") for key in batch.keys]
        assert batch.labelled["part"].tolist() == [not row for row in empty]


def test_class_balance_needs_one_class_label(tmp_path: Path) -> None:
    three_sets(tmp_path, "parts", parts, 4)
    with pytest.raises(RecipeError, match=r"data\.parts\.class_balance: .* found none"):
        open_data({"parts": source(tmp_path, "parts", "part", class_balance=True)})


def test_class_balance_evens_out_the_classes(tmp_path: Path) -> None:
    def skewed(count: int, first: int = 0) -> list[dict]:
        rows = pets(count, first)
        for number, row in enumerate(rows):
            row["cls"] = b"1" if number % 8 == 0 else b"0"
        return rows

    three_sets(tmp_path, "pets", skewed, 32)
    sources = open_data({"pets": source(tmp_path, "pets", "pet", class_balance=True)})
    labels = torch.cat([batch.labels["pet"] for batch in sources.stream(steps=8)])
    assert labels.bincount().tolist() == [32, 32]


def damaged_pets(folder: Path, damaged: tuple[int, ...]) -> None:
    def make(count: int, first: int = 0) -> list[dict]:
        rows = pets(count, first)
        for number, row in enumerate(rows):
            if number + first in damaged:
                row["png"] = row["png"][:60]
        return rows

    three_sets(folder, "pets", make, 12)


def test_a_damaged_picture_stops_the_run_with_its_place(tmp_path: Path) -> None:
    damaged_pets(tmp_path, (3,))
    sources = open_data({"pets": source(tmp_path, "pets", "pet")})
    with pytest.raises(ShardError, match=r"data\.pets: .*pets-train-0\.tar.* 0003\b.*png.*cannot be decoded"):
        list(sources.stream(steps=2))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_picture_may_be_replaced_by_the_next_row_and_is_counted(
    tmp_path: Path, workers: int
) -> None:
    damaged_pets(tmp_path, (3, 4, 11, 601))
    sources = open_data({"pets": source(tmp_path, "pets", "pet", corrupt="skip")})
    keys, labels = [], []
    for batch in sources.stream(steps=3, workers=workers):  # two epochs of 12 rows
        keys += [int(key[-4:]) for key in batch.keys]
        labels += batch.labels["pet"].tolist()
    expected = [0, 1, 2, 5, 5, 5, 6, 7, 8, 9, 10, 0]
    assert sorted(keys) == sorted(2 * expected)
    assert labels == [key % 3 for key in keys], "the label is the replacement's own"
    assert sources.skipped == {"pets": 3}
    tested = [key[-4:] for batch in sources.labelled("pet", "test", 2) for key in batch.keys]
    assert tested == ["0600", "0602", "0603", "0604"], "an evaluation leaves the row out"
    assert sources.skipped == {"pets": 4}


def test_nothing_but_damaged_pictures_ends_with_an_error(tmp_path: Path) -> None:
    damaged_pets(tmp_path, tuple(range(12)))
    sources = open_data({"pets": source(tmp_path, "pets", "pet", corrupt="skip")})
    with pytest.raises(ShardError, match="not one picture can be decoded"):
        next(iter(sources.stream(steps=1)))


def test_processes_that_index_together_see_the_same_rows(tmp_path: Path) -> None:
    three_sets(tmp_path, "pets", pets, 12)
    data = {"pets": source(tmp_path, "pets", "pet")}
    first = open_sources(DataSettings.of(recipe(data)), KINDS, (8, 8), local=ProcessShare(0, 2))
    second = open_sources(DataSettings.of(recipe(data)), KINDS, (8, 8), local=ProcessShare(1, 2))
    assert [batch.keys for batch in first.stream(steps=3)] == [batch.keys for batch in second.stream(steps=3)]


def test_a_limit_takes_rows_from_everywhere_and_all_classes_that_come_in_turn(tmp_path: Path) -> None:
    shards = write(tmp_path / "pets.tar", pets(300))
    sources = open_data({"pets": {"shards": str(shards), "labels": {"pet": {}}}})
    (batch,) = sources.labelled("pet", None, 200, limit=100)
    numbers = [int(key.rpartition("/")[2]) for key in batch.keys]
    assert all(3 * place <= number < 3 * place + 3 for place, number in enumerate(numbers))
    assert min(torch.bincount(batch.labels["pet"], minlength=3)) > 20


def test_what_rows_carry_is_read_without_their_pictures(tmp_path: Path) -> None:
    three_sets(tmp_path, "pets", pets, 12)
    rows = pets(3, **{"slice.json": b'{"light": "night"}'})
    rows[1]["group"] = b"litter 7\n"
    rows[1]["png"] = b"no picture"
    del rows[2]["slice.json"]
    write(tmp_path / "pets-test.tar", rows)
    sources = open_data({"pets": source(tmp_path, "pets", "pet")})
    assert sources.endings >= {"cls", "png", "slice.json"}
    first, second, third = sources.members("pet", "test", ["slice.json", "cls", "group", "unknown"])
    assert (first.key, first.name, first.source) == ("pets/pets-test/0000", "0000", "pets")
    assert first.members == {"slice.json": b'{"light": "night"}', "cls": rows[0]["cls"]}
    assert second.members["group"] == b"litter 7\n"
    assert third.members == {"cls": rows[2]["cls"]}
    assert list(sources.members("pet", "test", [], sources=["others"])) == []
