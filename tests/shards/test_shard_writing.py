"""Shards are a function of rows and options alone; what stops a command costs no finished shard."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from people_data import animals, digests, members, save_mask, save_picture

from distill_mtl.errors import ShardError, Stopped
from distill_mtl.shards import folder_rows, pair_rows, write_shards
from distill_mtl.shards.listed_rows import FileRows, RowContent


def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    folder = animals(tmp_path / "photos", 30)
    for workers in (0, 1, 2):
        write_shards(
            folder_rows(folder), tmp_path / str(workers), name="s", rows_per_shard=7, workers=workers
        )
    first, *others = (digests(tmp_path / str(workers)) for workers in (0, 1, 2))
    assert len(first) == 5
    assert others == [first, first]


def test_rows_are_shuffled_by_their_seed(tmp_path: Path) -> None:
    folder = animals(tmp_path / "photos", 30)
    orders = {
        seed: list(members(write_shards(folder_rows(folder), tmp_path / str(seed), shuffle=seed).shards))
        for seed in (None, 0, 1)
    }
    assert orders[None] == sorted(orders[None])
    assert orders[0] != orders[1] != orders[None] != orders[0]
    assert sorted(orders[0]) == sorted(orders[1]) == orders[None]


def test_parts_of_the_order_are_disjoint_and_whole(tmp_path: Path) -> None:
    rows = folder_rows(animals(tmp_path / "photos", 30))
    parts = [slice(None, 24), slice(24, None)]
    train, rest = (
        members(write_shards(rows, tmp_path / "s", name=name, take=take).shards)
        for name, take in zip(("train", "val"), parts, strict=True)
    )
    assert (len(train), len(rest)) == (24, 6)
    assert not train.keys() & rest.keys()


def test_a_stopped_command_goes_on_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = animals(tmp_path / "photos", 30)
    write_shards(folder_rows(folder), tmp_path / "whole", name="s", rows_per_shard=7)
    with monkeypatch.context() as patch:
        patch.setattr(FileRows, "read", stopping_after(17))
        with pytest.raises(Stopped, match="2 shards with 14 of 30 rows are finished"):
            write_shards(folder_rows(folder), tmp_path / "cut", name="s", rows_per_shard=7, workers=0)
    assert names(tmp_path / "cut") == [*with_checksums("s-000000.tar", "s-000001.tar"), "s.plan.jsonl"]
    first = times(tmp_path / "cut")
    written = write_shards(folder_rows(folder), tmp_path / "cut", name="s", rows_per_shard=7)
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")
    assert (written.kept, written.counts.rows, written.counts.labels["cls"].counts["rows"]["cat"]) == (
        2,
        30,
        10,
    )
    assert first.items() <= times(tmp_path / "cut").items()


def test_what_a_killed_command_left_is_not_believed(tmp_path: Path) -> None:
    folder, to = animals(tmp_path / "photos", 30), tmp_path / "s"
    write_shards(folder_rows(folder), to, rows_per_shard=7)
    whole = digests(to)
    plan = to / "s.plan.jsonl"
    plan.write_text(plan.read_text()[:-40])  # killed while it noted the last shard
    (to / "s-000002.tar").write_bytes(b"cut")
    (to / ".s-000004.tar.123-0123abcd.part").write_bytes(b"half a shard")
    assert write_shards(folder_rows(folder), to, rows_per_shard=7).kept == 2
    assert digests(to) == whole
    assert names(to) == [*with_checksums(*whole), "s.plan.jsonl"]


def test_a_finished_command_does_nothing_again_and_tells_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = folder_rows(animals(tmp_path / "photos", 9))
    first = write_shards(rows, tmp_path / "s", rows_per_shard=4)
    monkeypatch.setattr(FileRows, "read", stopping_after(0))
    again = write_shards(rows, tmp_path / "s", rows_per_shard=4, workers=0)
    assert again == replace(first, kept=3)


def test_shards_of_another_plan_are_not_mixed_in(tmp_path: Path) -> None:
    folder, to = animals(tmp_path / "photos", 9), tmp_path / "s"
    write_shards(folder_rows(folder), to, rows_per_shard=4)
    with pytest.raises(ShardError, match="another plan: other rows per shard. Choose .* --overwrite"):
        write_shards(folder_rows(folder), to, rows_per_shard=5)
    save_picture(folder / "cat" / "new.png", 77)
    with pytest.raises(ShardError, match="another plan: other files or labels, rows"):
        write_shards(folder_rows(folder), to, rows_per_shard=4)
    assert len(write_shards(folder_rows(folder), to, rows_per_shard=5, overwrite=True).shards) == 2
    assert names(to) == [*with_checksums("s-000000.tar", "s-000001.tar"), "s.plan.jsonl"]


def test_a_plan_of_which_nothing_was_written_is_no_hindrance(tmp_path: Path) -> None:
    folder, to = animals(tmp_path / "photos", 9), tmp_path / "s"
    (folder / "cat" / "photo.01.png").write_bytes(b"")
    with pytest.raises(ShardError, match="photo.01.png: the picture cannot be decoded"):
        write_shards(folder_rows(folder), to)
    (folder / "cat" / "photo.01.png").unlink()
    assert write_shards(folder_rows(folder), to).counts.rows == 8


def test_shards_that_somebody_else_wrote_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "s-000000.tar").write_bytes(b"mine")
    with pytest.raises(ShardError, match="without a plan"):
        write_shards(folder_rows(animals(tmp_path / "photos", 3)), tmp_path / "s")
    assert (tmp_path / "s" / "s-000000.tar").read_bytes() == b"mine"


def test_every_corrupt_picture_is_named_and_no_half_shard_left(tmp_path: Path) -> None:
    folder = animals(tmp_path / "photos", 30)
    broken = [folder / "cat" / "photo.04.png", folder / "dog" / "photo.29.png"]
    for path in broken:
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ShardError, match="2 rows cannot be written") as error:
        write_shards(folder_rows(folder), tmp_path / "s", rows_per_shard=7, workers=2)
    assert all(str(path) in str(error.value) for path in broken)
    assert "--skip-corrupt" in str(error.value)
    assert not list((tmp_path / "s").glob("*.part"))
    written = write_shards(folder_rows(folder), tmp_path / "s", rows_per_shard=7, skip_corrupt=True)
    assert sorted(written.skipped) == sorted(map(str, broken))
    assert written.counts.rows == len(members(written.shards)) == 28
    assert len(written.shards) == 4
    fresh = write_shards(
        folder_rows(folder), tmp_path / "fresh", name="s", rows_per_shard=7, skip_corrupt=True
    )
    assert digests(tmp_path / "s") == digests(fresh.shards[0].parent)


def test_a_wrong_label_is_never_skipped(tmp_path: Path) -> None:
    for number in range(3):
        save_picture(tmp_path / "img" / f"{number}.png", number)
        save_mask(tmp_path / "ids" / f"{number}.png", number, width=8 - number)
    with pytest.raises(ShardError, match="2 rows cannot be written") as error:
        write_shards(pair_rows(tmp_path / "img", tmp_path / "ids"), tmp_path / "s", skip_corrupt=True)
    assert "the label has 7x6 pixels, its picture 8x6" in str(error.value)
    assert "--skip-corrupt" not in str(error.value)


def stopping_after(count: int) -> Callable[[FileRows, int], RowContent]:
    """`FileRows.read` with somebody who presses Ctrl-C after some rows."""
    read, done = FileRows.read, [0]

    def stopping(rows: FileRows, number: int) -> RowContent:
        done[0] += 1
        if done[0] > count:
            raise KeyboardInterrupt
        return read(rows, number)

    return stopping


def with_checksums(*shards: str) -> list[str]:
    return [name for shard in shards for name in (shard, f"{shard}.crc32")]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
