"""The quickstart's data: real, the same everywhere, and without a leak between its sets."""

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image
from sklearn.datasets import load_digits

from distill_mtl.data.batch import ProcessShare
from distill_mtl.data.shard_files import find_shards
from distill_mtl.demos.multidigits import DIGITS, ROWS, SETS, compose, source_digits
from distill_mtl.errors import ShardError
from distill_mtl.splits import SPLITS

PLACES = list(itertools.product(SETS, SPLITS))


def rows(name: str) -> list[dict]:
    (shard,) = find_shards(f"multidigits:{name}", "data.x.shards")
    return list(webdataset.WebDataset(str(shard.path), shardshuffle=False))


def test_the_pixels_are_the_same_on_every_machine() -> None:
    pixels = hashlib.sha256()
    for name, split in PLACES:
        canvases = compose(name, split)
        assert canvases.images.shape == canvases.masks.shape == (ROWS[split], 32, 32)
        for part in (canvases.images, canvases.masks, canvases.labels.astype("<i8")):
            pixels.update(part.tobytes())
    assert pixels.hexdigest() == "81dbcd87a5e14797a6babddfcb403eb2f481120a076998c27c22dacecb7433af"


def test_no_source_digit_is_in_two_splits_and_each_has_all_classes_in_proportion() -> None:
    digits = source_digits()
    together = np.concatenate(list(digits.values()))
    assert {split: len(part) for split, part in digits.items()} == DIGITS
    assert len(np.unique(together)) == len(together) == 1797
    classes = load_digits().target
    for part in digits.values():
        shares = np.bincount(classes[part]) / len(part)
        np.testing.assert_allclose(shares, np.bincount(classes) / 1797, atol=0.006)


@pytest.mark.parametrize(("name", "split"), PLACES)
def test_canvases_use_the_digits_of_their_split_and_say_their_classes(name: str, split: str) -> None:
    canvases = compose(name, split)
    assert np.isin(canvases.digits, source_digits()[split]).all()
    assert np.array_equal(canvases.labels, load_digits().target[canvases.digits])
    assert len(np.unique(canvases.images.reshape(len(canvases.images), -1), axis=0)) == ROWS[split]


def test_the_three_sets_have_no_canvas_in_common() -> None:
    images = [compose(name, "train").images.reshape(6000, -1) for name in SETS]
    assert len(np.unique(np.concatenate(images), axis=0)) == 18_000


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_pool_shares_its_four_digits_with_no_other(split: str) -> None:
    canvases = compose("left", split)
    members = [set(canvases.digits[canvases.pools == pool].ravel()) for pool in np.unique(canvases.pools)]
    assert len(members) == DIGITS[split] // 4
    assert all(len(pool) == 4 for pool in members)
    assert sum(map(len, members)) == len(set().union(*members)) == DIGITS[split]


def test_masks_say_which_digit_is_where() -> None:
    canvases = compose("segment", "train")
    masks, images = canvases.masks, canvases.images.astype(float)
    assert set(np.unique(masks)) == {0, 1, 2, 3}
    rows, columns = np.indices((32, 32))
    for number, near in ((1, (12, 12)), (2, (19, 19))):
        inside = masks == number
        centre = [(axis * inside).sum() / inside.sum() for axis in (rows, columns)]
        np.testing.assert_allclose(centre, near, atol=3)
    assert images[masks > 0].mean() > images[masks == 0].mean() + 60
    assert 0.005 < (masks == 3).mean() < 0.05, "they overlap, a little"


@pytest.mark.parametrize("name", SETS)
def test_each_set_has_one_kind_of_label_and_its_pixels(name: str) -> None:
    shard = rows(f"{name}-validation")
    canvases = compose(name, "validation")
    label = "seg.png" if name == "segment" else "cls"
    assert len(shard) == 500
    for row, (sample, image, mask, classes, pool) in enumerate(
        zip(shard, canvases.images, canvases.masks, canvases.labels, canvases.pools, strict=True)
    ):
        assert {ending for ending in sample if not ending.startswith("_")} == {"png", label, "group"}
        assert sample["__key__"] == f"{name}-validation-{row:05d}"
        assert sample["group"] == b"validation-pool-%03d" % pool
        assert np.array_equal(decoded(sample["png"]), image)
        if name == "segment":
            assert np.array_equal(decoded(sample["seg.png"]), mask)
        else:
            assert int(sample["cls"]) == classes[SETS.index(name)]


def decoded(payload: bytes) -> np.ndarray:
    import io

    return np.asarray(Image.open(io.BytesIO(payload)))


def test_training_rows_have_no_group() -> None:
    assert all("group" not in sample for sample in rows("left-train")[:50])


def test_a_shard_is_made_once(tmp_path: Path) -> None:
    (first,) = find_shards("multidigits:right-validation", "data.x.shards")
    made = first.path.stat().st_mtime_ns
    (again,) = find_shards("multidigits:right-validation", "data.x.shards", local=ProcessShare(1, 2))
    assert again == first
    assert again.path.stat().st_mtime_ns == made
    assert [shard.name for shard in find_shards("multidigits:{left,right}-validation", "x")] == [
        "left-validation",
        "right-validation",
    ]


def test_an_unknown_set_is_refused_with_the_nearest() -> None:
    with pytest.raises(ShardError, match="Did you mean 'multidigits:segment-train'"):
        find_shards("multidigits:segmnt-train", "data.x.shards")
