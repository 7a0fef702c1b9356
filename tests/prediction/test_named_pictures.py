from pathlib import Path

import pytest
from prediction_world import picture, png, shard

from distill_mtl.errors import UserError
from distill_mtl.picture_bytes import PICTURE_ENDINGS
from distill_mtl.prediction.named_pictures import find_pictures


def keys(*places: Path | str, **how: str) -> list[str]:
    return [each.key for each in find_pictures([str(place) for place in places], **how).pictures]


def test_a_folder_is_searched_at_any_depth_in_an_order_of_names_and_what_is_no_picture_is_counted(
    tmp_path: Path,
) -> None:
    for name in ("b.png", "a/z.jpg", "a/deep/er.webp", "c.bmp", "d.gif"):
        picture(tmp_path / name, 0)
    (tmp_path / "notes.txt").write_text("no picture")
    found = find_pictures([str(tmp_path)])
    assert [each.key for each in found.pictures] == ["a/deep/er.webp", "a/z.jpg", "b.png", "c.bmp", "d.gif"]
    assert found.left_out == {"files that are not pictures (.txt)": 1}


def test_files_and_patterns_keep_the_order_of_the_command(tmp_path: Path) -> None:
    for name in ("x2.png", "x1.png", "y.png"):
        picture(tmp_path / name, 0)
    assert keys(tmp_path / "y.png", tmp_path / "x?.png") == ["y.png", "x1.png", "x2.png"]
    assert keys(tmp_path / "x{2,1}.png") == ["x1.png", "x2.png"]


def test_rows_of_shards_are_called_by_source_shard_and_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (0, 1):
        shard(tmp_path / "pets" / f"p-{number}.tar", {"b": png(0), "a": png(1)})
    wanted = ["pets/p-0/b", "pets/p-0/a", "pets/p-1/b", "pets/p-1/a"]
    assert keys(tmp_path / "pets") == wanted
    assert keys(tmp_path / "pets" / "p-{0..1}.tar") == wanted
    monkeypatch.chdir(tmp_path / "pets")
    assert keys(".") == keys("./p-?.tar") == keys("p-?.tar") == wanted
    assert find_pictures([str(tmp_path / "pets")]).pictures[1].read() == png(1)


def test_a_row_without_a_picture_says_what_the_shard_has(tmp_path: Path) -> None:
    path = shard(tmp_path / "p.tar", {"a": png(0), "b": None})
    broken = find_pictures([str(path)]).pictures[1]
    with pytest.raises(ValueError, match=r"no picture.*jpg;jpeg;png;webp.*members.*: cls, png"):
        broken.read()
    with pytest.raises(ValueError, match="no picture"):
        find_pictures([str(path)], "jpg").pictures[0].read()


def test_a_folder_of_shards_and_pictures_is_not_guessed_at(tmp_path: Path) -> None:
    shard(tmp_path / "p.tar", {"a": png(0)})
    picture(tmp_path / "loose.png", 0)
    with pytest.raises(UserError, match=r"holds shards .*p\.tar.* and pictures .*loose\.png"):
        keys(tmp_path)


def test_nothing_there_is_a_clear_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.jpg: there is no such picture, folder or shard"):
        keys(tmp_path / "absent.jpg")
    with pytest.raises(UserError, match="missing"):
        keys(tmp_path / "absent.tar")
    with pytest.raises(UserError, match="no file fits"):
        keys(tmp_path)


def test_every_usual_format_is_a_picture_and_programs_are_not() -> None:
    assert {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "ppm", "tga", "jp2"} <= set(
        PICTURE_ENDINGS
    )
    assert not {"mpg", "eps", "h5", "txt"} & set(PICTURE_ENDINGS)
