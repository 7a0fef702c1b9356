"""Labels and shards of depth and surface normals, for the tests of both."""

import io
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image
from torch import Tensor

from distill_mtl.data import DataSettings, open_sources
from distill_mtl.recipe.schema import Recipe
from distill_mtl.tasks.base import TaskKind

SIDE = 8


def png(pixels: np.ndarray, form: str = "PNG") -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, form)
    return encoded.getvalue()


def npy(array: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    np.save(encoded, array)
    return encoded.getvalue()


def directions(*shape: int, seed: int = 0) -> Tensor:
    """Unit vectors along dim 1."""
    return torch.nn.functional.normalize(
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=1
    )


def facing(colors: Tensor) -> Tensor:
    """What the toy label of normals says of a picture [..., 3, h, w] in [0, 1]: its colours as directions."""
    return torch.nn.functional.normalize(2 * colors - 1, dim=-3)


def shards(folder: Path, *members: str, rows: int = 12) -> Path:
    """Shards of train, validation and test, of pictures whose labels follow from their pixels.

    Red grows to the right and green downwards, so that a cropped and resized picture still tells the label of
    each of its pixels, and whether it is mirrored. Depth is 1 plus red in metres, normals are `facing`.
    """
    generator = np.random.default_rng(0)
    folder.mkdir(exist_ok=True, parents=True)
    for split in ("train", "validation", "test"):
        with webdataset.TarWriter(str(folder / f"{split}.tar"), encoder=False) as writer:
            for row in range(rows):
                writer.write(_row(f"{split}-{row:03d}", generator, members))
    return folder


def _row(key: str, generator: np.random.Generator, members: tuple[str, ...]) -> dict[str, str | bytes]:
    slope = np.linspace(0, 255, 3 * SIDE)
    blue = np.full_like(slope, generator.integers(150, 256))
    pixels = np.stack(np.broadcast_arrays(slope, slope[:, None], blue), -1).round().astype(np.uint8)
    depth = 1 + pixels[..., 0] / 255
    towards = facing(torch.from_numpy(pixels).permute(2, 0, 1) / 255).permute(1, 2, 0).numpy()
    labels = {
        "depth.png": png((depth * 1000).round().astype(np.uint16)),
        "depth.npy": npy(depth.astype(np.float32)),
        "normals.png": png(((towards + 1) * 127.5).round().astype(np.uint8)),
        "normals.npy": npy(towards),
    }
    return {"__key__": key, "png": png(pixels)} | {member: labels[member] for member in members}


def seen_in_training(folder: Path, kind: TaskKind) -> tuple[Tensor, Tensor, Tensor]:
    """What two epochs show of such shards under random crops and flips.

    Returns:
        images [N, 3, h, w] in [0, 1], labels, and bool [N], which rows are mirrored.
    """
    data = {
        "shards": str(folder / "train.tar"),
        "split": {split: str(folder / f"{split}.tar") for split in ("validation", "test")},
        "labels": {"map": {}},
        "augment": {"crop": [0.5, 1.0], "flip": True},
    }
    recipe = Recipe.model_validate(
        {
            "student": {"model": "resnet18"},
            "tasks": {"map": {"kind": kind.name}},
            "data": {"scenes": data},
            "training": {"batch_size": 12},
        }
    )
    batches = list(open_sources(DataSettings.of(recipe), {"map": kind}, (SIDE, SIDE)).stream(steps=2))
    assert all(batch.labelled["map"].all() for batch in batches)
    images = torch.cat([batch.images for batch in batches]).float() / 255
    labels = torch.cat([batch.labels["map"] for batch in batches])
    return images, labels, images[:, 0, :, 0].mean(1) > images[:, 0, :, -1].mean(1)
