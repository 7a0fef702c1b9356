import os
from pathlib import Path
from typing import BinaryIO

import pytest

from distill_mtl.files import (
    atomic_file,
    atomic_files,
    atomic_folder,
    half_made,
    remove_abandoned,
    write_text,
)


def stopping(file: BinaryIO) -> None:
    """What Ctrl-C does in the middle of writing."""
    with file:
        file.write(b"half")
    raise KeyboardInterrupt


def everything_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_file_appears_when_all_of_it_is_written(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.bin"
    with atomic_file(target, durable=True) as file:
        file.write(b"content")
        assert not target.exists()
        assert half_made(target.parent, "*.bin")
    assert target.read_bytes() == b"content"
    assert everything_in(tmp_path) == ["new", "new/a.bin"]


def test_a_write_that_fails_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "earlier")
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "a.txt") as file:
        stopping(file)
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "new" / "b.txt") as file:
        stopping(file)
    assert everything_in(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "earlier"


def test_a_folder_takes_the_place_of_the_earlier_one_as_a_whole(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with atomic_folder(tmp_path / "net", durable=True) as made:
            assert made.name == "net"
            (made / f"{content}.txt").write_text(content)
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "net") as made:
        stopping((made / "half.txt").open("wb"))
    assert everything_in(tmp_path) == ["net", "net/second.txt"]


def test_a_file_and_what_belongs_to_it_appear_together(tmp_path: Path) -> None:
    with atomic_files(tmp_path / "model.onnx") as made:
        (made / "model.onnx").write_text("graph")
        (made / "model.onnx.parity.json").write_text("{}")
    assert everything_in(tmp_path) == ["model.onnx", "model.onnx.parity.json"]


def test_what_a_kill_left_is_removed_and_what_is_being_written_stays(tmp_path: Path) -> None:
    killed, other = (tmp_path / f".{name}.7-0123abcd.part" for name in ("net", "nets.bin"))
    killed.mkdir()
    (killed / "half").write_text("half")
    other.write_text("half")
    os.utime(other, (0, 0))
    assert set(half_made(tmp_path, "net*")) == {killed, other}
    with atomic_file(tmp_path / "a.bin") as file, atomic_folder(tmp_path / "folder") as made:
        file.write(b"content")
        file.flush()
        for path in half_made(tmp_path, "*"):
            os.utime(path, (0, 0))
        remove_abandoned(tmp_path)
        assert (other.exists(), made.exists()) == (False, True)
    with atomic_folder(tmp_path / "net"):
        pass
    assert everything_in(tmp_path) == ["a.bin", "folder", "net"]
