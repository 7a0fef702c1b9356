import re
from pathlib import Path

import pytest

from distill_mtl.data.shard_sets import as_patterns, find_sets
from distill_mtl.errors import ShardError


def folder(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_names_of_shards_say_which_set_they_belong_to(tmp_path: Path) -> None:
    here = folder(tmp_path, "pets-train-000.tar", "pets_val.tar", "test/000.tar", "dev.tar.gz", "notes.txt")
    names = {split: [Path(path).name for path in paths] for split, paths in find_sets([str(here)]).items()}
    assert names == {
        "train": ["pets-train-000.tar"],
        "validation": ["dev.tar.gz", "pets_val.tar"],
        "test": ["000.tar"],
    }


@pytest.mark.parametrize(
    "name", ["latest-000.tar", "contest.tar", "pets-000.tar", "invalid.tar", "evaluation.tar"]
)
def test_only_whole_words_count_and_all_else_is_for_training(tmp_path: Path, name: str) -> None:
    assert find_sets([str(folder(tmp_path, name))])["train"] == [str(tmp_path / name)]


def test_the_folders_above_the_one_that_was_named_say_nothing(tmp_path: Path) -> None:
    here = folder(tmp_path / "test", "pets-000.tar")
    assert find_sets([str(here)])["test"] == []
    assert find_sets([str(here / "*.tar")])["test"] == []


def test_braces_and_stars_are_expanded_and_other_places_stay_as_they_are(tmp_path: Path) -> None:
    folder(tmp_path, "a-train-0.tar", "a-train-1.tar", "a-test.tar")
    places = [
        f"{tmp_path}/a-train-*.tar",
        f"{tmp_path}/a-{{test,val}}.tar",
        "multidigits:left-train",
        "s3://b/*.tar",
    ]
    assert find_sets(places) == {
        "train": [
            f"{tmp_path}/a-train-0.tar",
            f"{tmp_path}/a-train-1.tar",
            "multidigits:left-train",
            "s3://b/*.tar",
        ],
        "validation": [f"{tmp_path}/a-val.tar"],
        "test": [f"{tmp_path}/a-test.tar"],
    }


def test_a_folder_without_shards_and_a_pattern_without_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=rf"--data {re.escape(str(tmp_path))}: .*\*\.tar.*folder"):
        find_sets([str(tmp_path)])
    with pytest.raises(ShardError, match=rf"--data .*: .*{re.escape(str(tmp_path))}/\*\.tar"):
        find_sets([f"{tmp_path}/*.tar"])


@pytest.mark.parametrize(
    ("paths", "pattern"),
    [
        (["a-000.tar", "a-001.tar", "a-002.tar"], "a-{000..002}.tar"),
        (["a-000.tar", "a-002.tar"], ["a-000.tar", "a-002.tar"]),
        (["9.tar", "10.tar"], ["9.tar", "10.tar"]),
        (["v2/a-0.tar", "v2/a-1.tar"], "v2/a-{0..1}.tar"),
        (["a-1.tar", "b-2.tar"], ["a-1.tar", "b-2.tar"]),
        (["a.tar"], "a.tar"),
        ([], None),
    ],
)
def test_shards_are_written_in_few_words(paths: list[str], pattern: str | list[str] | None) -> None:
    assert as_patterns(paths) == pattern


def test_the_few_words_stand_for_the_same_shards() -> None:
    paths = [f"a-{number:03d}.tar" for number in (*range(8, 13), 20, 21)]
    words = as_patterns(paths)
    assert isinstance(words, list)
    assert find_sets(words)["train"] == paths
