"""Classes that change places in a mirrored picture do so in the reader, and nowhere else."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from data_shards import png, recipe, write

from distill_mtl.data import Batch, DataSettings, Sources, open_sources
from distill_mtl.tasks.base import TaskKind, build_kind

HANDS = ("left", "right", "none")
PARTS = ("ground", "left_wing", "right_wing")


def rows() -> list[dict[str, Any]]:
    """The bright half of a picture is where its class says; wings lie on both sides."""
    made = []
    for number in range(24):
        pixels = np.zeros((8, 8, 3), np.uint8)
        if HANDS[number % 3] != "none":
            pixels[:, slice(0, 4) if HANDS[number % 3] == "left" else slice(4, 8)] = 250
        mask = np.zeros((8, 8), np.uint8)
        mask[2:6, :4], mask[2:6, 4:], mask[0] = 1, 2, 255
        made.append(
            {
                "__key__": f"{number:03d}",
                "png": png(pixels),
                "cls": b"%d" % (number % 3),
                "seg.png": png(mask),
            }
        )
    return made


def opened(folder: Path, mirrored: bool) -> Sources:
    shards = [str(write(folder / f"{split}.tar", rows())) for split in ("train", "validation", "test")]
    pairs = {"hand": [["left", "right"]], "wing": [["right_wing", "left_wing"]]} if mirrored else {}
    kinds: dict[str, TaskKind] = {
        "hand": build_kind("classification", HANDS, mirrored=pairs.get("hand", [])),
        "wing": build_kind("segmentation", PARTS, mirrored=pairs.get("wing", [])),
    }
    section = {
        "shards": shards[0],
        "split": {"validation": shards[1], "test": shards[2]},
        "labels": {"hand": {"member": "cls"}, "wing": {"member": "seg.png"}},
        "augment": {"crop": None, "flip": True, "color": 0},
    }
    wanted = recipe({"hands": section}, batch_size=24)
    wanted = wanted.model_copy(update={"tasks": {"hand": wanted.tasks["pet"], "wing": wanted.tasks["part"]}})
    return open_sources(DataSettings.of(wanted), kinds, (8, 8))


def sides(batch: Batch) -> torch.Tensor:
    """0, 1 or 2 for a picture that is bright on its left, on its right, or nowhere."""
    left, right = (batch.images[:, 0, 3, column] > 128 for column in (0, 7))
    return torch.where(left, 0, torch.where(right, 1, 2))


def test_the_label_says_where_the_mirrored_picture_is_bright(tmp_path: Path) -> None:
    (batch,) = opened(tmp_path, mirrored=True).stream(steps=1)
    assert torch.equal(batch.labels["hand"], sides(batch))
    # Each side of every mask, mirrored or not, holds the wing of that side; ignored pixels stay ignored.
    masks = batch.labels["wing"]
    assert (masks[:, 2:6, :4] == 1).all()
    assert (masks[:, 2:6, 4:] == 2).all()
    assert (masks[:, 0] == 255).all()
    assert (masks[:, 6:] == 0).all()


def test_without_pairs_classes_stay_what_they_are(tmp_path: Path) -> None:
    (batch,) = opened(tmp_path, mirrored=False).stream(steps=1)
    wrong = batch.labels["hand"] != sides(batch)
    assert 0 < wrong.sum() < (sides(batch) != 2).sum()  # some views are mirrored, others are not
    assert (batch.labels["wing"][:, 2:6, :4] == 2).any()


def test_plain_views_keep_the_label_on_disk(tmp_path: Path) -> None:
    sources = opened(tmp_path, mirrored=True)
    for batch in sources.labelled("hand", "test", 24):
        assert torch.equal(batch.labels["hand"], sides(batch))
