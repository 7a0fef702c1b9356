"""A shard that tarfile would end without a word is refused, with its name."""

import tarfile
from pathlib import Path

import pytest
from data_shards import pets, write

from distill_mtl.data.walk import walk_shard
from distill_mtl.errors import ShardError


def members(path: Path) -> list[tarfile.TarInfo]:
    with tarfile.open(path) as archive:
        return archive.getmembers()


def truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x01
    path.write_bytes(content)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write(tmp_path / "pets-000.tar", pets(6))


def refuse(shard: Path) -> str:
    with pytest.raises(ShardError) as caught:
        walk_shard(shard)
    assert str(shard) in str(caught.value)
    return str(caught.value)


def test_a_whole_shard_gives_its_rows_and_members(shard: Path) -> None:
    rows = walk_shard(shard)
    assert [row.key for row in rows] == [f"{number:04d}" for number in range(6)]
    content = shard.read_bytes()
    for row, written in zip(rows, pets(6), strict=True):
        found = {ending: content[offset : offset + size] for ending, (offset, size) in row.members.items()}
        assert found == {"png": written["png"], "cls": written["cls"]}


def test_a_cut_at_a_members_border_is_refused(shard: Path) -> None:
    truncate(shard, members(shard)[4].offset)
    with tarfile.open(shard) as archive:
        assert len(archive.getmembers()) == 4, "tarfile itself notices nothing"
    assert "without an end-of-archive mark after 4 members" in refuse(shard)


def test_a_cut_inside_a_header_is_refused(shard: Path) -> None:
    truncate(shard, members(shard)[5].offset + 300)
    with tarfile.open(shard) as archive:
        assert len(archive.getmembers()) == 5, "tarfile itself notices nothing"
    assert "cut or damaged" in refuse(shard)


def test_a_cut_inside_a_payload_is_refused(shard: Path) -> None:
    truncate(shard, members(shard)[3].offset_data + 1)
    assert "cut or damaged" in refuse(shard)


@pytest.mark.parametrize("place", [0, 130, 150, 156])  # name, size, checksum, type
def test_one_flipped_bit_in_any_header_is_refused(shard: Path, place: int) -> None:
    whole = shard.read_bytes()
    for member in members(shard):
        shard.write_bytes(whole)
        flip(shard, member.offset + place)
        assert "cut or damaged" in refuse(shard)


def test_rows_after_the_end_of_the_archive_are_not_lost_in_silence(shard: Path, tmp_path: Path) -> None:
    second = write(tmp_path / "second.tar", pets(3, first=50))
    shard.write_bytes(shard.read_bytes() + second.read_bytes())
    assert "more data follows" in refuse(shard)


def test_a_key_that_comes_again_is_refused_by_name(shard: Path, tmp_path: Path) -> None:
    twice = write(tmp_path / "twice.tar", [*pets(2), *pets(1)])
    assert "first 0000" in refuse(twice)
    neighbours = write(tmp_path / "neighbours.tar", [*pets(1), *pets(1)])
    assert "0000.cls occurs twice" in refuse(neighbours)


def test_a_shard_without_rows_is_refused(tmp_path: Path) -> None:
    assert "no rows" in refuse(write(tmp_path / "empty.tar", []))
    nothing = tmp_path / "nothing.tar"
    nothing.touch()
    assert "cut or damaged" in refuse(nothing)


def test_the_key_ends_at_the_first_dot_and_endings_are_lower_case(tmp_path: Path) -> None:
    shard = write(
        tmp_path / "names.tar",
        [
            {"__key__": "v1.0/street.day/a", "PNG": b"x", "Seg.PNG": b"y"},
            {"__key__": "b", "left.cls": b"1"},
        ],
    )
    assert [(row.key, sorted(row.members)) for row in walk_shard(shard)] == [
        ("v1.0/street.day/a", ["png", "seg.png"]),
        ("b", ["left.cls"]),
    ]
