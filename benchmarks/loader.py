"""Rows per second of our loader against the bare decoding of the same pictures: benchmarks/loader.py.

Three sources of 64 px JPEGs (pieces of scikit-learn's two photographs, quality 92) with a class label each,
mixed in batches of 64, as benchmarks/step_cost.py has them. The loader opens shards by index, reads,
decodes, frames and stacks; the yardstick is torchvision's decoder on payloads that are already in memory.
Both in this process on one thread, in turns, in process CPU time.
"""

import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.io import ImageReadMode, decode_image

from distill_mtl.data import DataSettings, Sources, open_sources
from distill_mtl.recipe.schema import Recipe
from distill_mtl.tasks.base import build_kind

SIDE, BATCH, STEPS = 64, 64, 48
SOURCES = ("left", "middle", "right")
ROWS = {"train": 1024, "validation": 8, "test": 8}
AUGMENT: dict[str, dict[str, Any]] = {
    "as stored": {"crop": None, "flip": False, "color": 0},
    "crop and flip": {},
}


def measure(augment: str = "as stored", *, rounds: int = 9) -> dict[str, float]:
    """Median rows per second of loader and bare decoder, in turns, and the loader's share.

    Args:
        augment: "as stored", or "crop and flip" for the recipe's default augmentation.
        rounds: turns of each.
    """
    with tempfile.TemporaryDirectory() as folder:
        payloads = write_shards(Path(folder))
        sources = open_shards(Path(folder), augment)
        seconds: dict[str, list[float]] = {"loader": [], "decode": []}
        for turn in range(rounds + 1):
            for name, work in (("loader", lambda: load(sources)), ("decode", lambda: decode(payloads))):
                spent = cpu_seconds(work)
                if turn:  # the first one warms up
                    seconds[name].append(spent)
    rates = {name: STEPS * BATCH / statistics.median(spent) for name, spent in seconds.items()}
    return rates | {"share": rates["loader"] / rates["decode"]}


def load(sources: Sources) -> None:
    """Go through STEPS batches."""
    for batch in sources.stream(steps=STEPS):
        assert len(batch) == BATCH


def decode(payloads: list[bytes]) -> None:
    """Decode as many pictures, and drop them."""
    for number in range(STEPS * BATCH):
        encoded = torch.frombuffer(bytearray(payloads[number % len(payloads)]), dtype=torch.uint8)
        decode_image(encoded, ImageReadMode.RGB)


def write_shards(folder: Path) -> list[bytes]:
    """Every source's three shards; returns the pictures of the training rows."""
    random = np.random.RandomState(0)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    payloads = []
    for source in SOURCES:
        for split, rows in ROWS.items():
            with webdataset.TarWriter(str(folder / f"{source}-{split}.tar"), encoder=False) as writer:
                for row in range(rows):
                    payload = piece(photographs[random.randint(2)], random)
                    label = b"%d" % random.randint(10)
                    writer.write({"__key__": f"{row:06d}", "jpg": payload, "cls": label})
                    if split == "train":
                        payloads.append(payload)
    return payloads


def piece(photograph: Image.Image, random: np.random.RandomState) -> bytes:
    """A random square of a quarter of the photograph's height or more, as a JPEG of 64 px."""
    side = random.randint(photograph.height // 4, photograph.height)
    left, top = random.randint(photograph.width - side), random.randint(photograph.height - side)
    square = photograph.crop((left, top, left + side, top + side))
    encoded = io.BytesIO()
    square.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=92)
    return encoded.getvalue()


def open_shards(folder: Path, augment: str) -> Sources:
    """The sources, each labelled for the task of its name."""
    classes = tuple("abcdefghij")
    data = {
        source: {
            "shards": str(folder / f"{source}-train.tar"),
            "split": {split: str(folder / f"{source}-{split}.tar") for split in ("validation", "test")},
            "labels": {source: {"member": "cls"}},
            "augment": AUGMENT[augment],
        }
        for source in SOURCES
    }
    recipe = Recipe.model_validate(
        {
            "student": {"model": "resnet18"},
            "tasks": {source: {"classes": list(classes)} for source in SOURCES},
            "data": data,
            "training": {"batch_size": BATCH},
        }
    )
    kinds = {source: build_kind("classification", classes) for source in SOURCES}
    return open_sources(DataSettings.of(recipe), kinds, (SIDE, SIDE))


def cpu_seconds(work: Callable[[], None]) -> float:
    """CPU time of this process for one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Print one line for each kind of augmentation."""
    torch.set_num_threads(1)
    for augment in AUGMENT:
        rates = measure(augment)
        loader, decoder, share = rates["loader"], rates["decode"], rates["share"]
        print(
            f"{augment:14} loader {loader:6.0f} rows/s   bare decode {decoder:6.0f} rows/s   share {share:.2f}"
        )


if __name__ == "__main__":
    main()
