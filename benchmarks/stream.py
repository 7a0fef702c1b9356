"""The order of windows beside the order of rows: benchmarks/stream.py.

Speed: one source of 64 px JPEGs with a class each in SHARDS shards on the local disk, read by this process on one
thread in both orders, in turns, in process CPU time, and the time from the recipe to the first batch.

Memory: what a process needs for the order of 500 million rows in 50 thousand shards. The indexes are made up, one when
it is asked for; places, keys and rows are really looked up. Measured in a process of its own, as the growth of its
largest resident set; for the order of rows fewer rows are held, and the figure is in proportion.
"""

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import webdataset
from loader import SIDE, piece
from PIL import Image
from sklearn.datasets import load_sample_images

from distill_mtl.data import DataSettings, Sources, open_sources
from distill_mtl.data.index import ShardIndex
from distill_mtl.data.order import Shuffled
from distill_mtl.data.row_table import HeldRows, RowsOnDemand, RowTable
from distill_mtl.data.windows import Windows
from distill_mtl.recipe.schema import Recipe
from distill_mtl.splits import SPLITS
from distill_mtl.tasks.base import build_kind

SHARDS, ROWS, BATCH, STEPS = 128, 128, 256, 24
MANY_SHARDS, MANY_ROWS = 50_000, 10_000
HELD_SHARDS = 200
MEMBERS = ("jpg", "cls", "group")


def write_shards(folder: Path) -> None:
    """The training shards, and one each of the other sets."""
    random = np.random.RandomState(0)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    pictures = [piece(photographs[random.randint(2)], random) for _ in range(512)]
    names = [*(f"train-{shard:03d}" for shard in range(SHARDS)), "validation", "test"]
    for name in names:
        with webdataset.TarWriter(str(folder / f"{name}.tar"), encoder=False) as writer:
            for row in range(ROWS if name.startswith("train") else 8):
                label = b"%d" % random.randint(10)
                picture = pictures[random.randint(len(pictures))]
                writer.write({"__key__": f"{name}-{row:06d}", "jpg": picture, "cls": label})


def opened(folder: Path, order: str) -> Sources:
    """The shards as a source that is read in an order."""
    classes = tuple("abcdefghij")
    section = {
        "shards": str(folder / f"train-{{000..{SHARDS - 1:03d}}}.tar"),
        "split": {split: str(folder / f"{split}.tar") for split in ("validation", "test")},
        "labels": {"letter": {"member": "cls"}},
        "augment": {"crop": None, "flip": False, "color": 0},
        "order": order,
    }
    recipe = Recipe.model_validate(
        {
            "student": {"model": "resnet18"},
            "tasks": {"letter": {"classes": list(classes)}},
            "data": {"letters": section},
            "training": {"batch_size": BATCH},
        }
    )
    kinds = {"letter": build_kind("classification", classes)}
    return open_sources(DataSettings.of(recipe), kinds, (SIDE, SIDE))


def speed(rounds: int) -> None:
    """Print a line for each order, and their ratio."""
    rates, firsts = dict[str, list[float]](), dict[str, list[float]]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder)
        streams: dict[str, Iterator[object]] = {}
        opened(folder, "rows")  # makes the indexes
        for turn in range(rounds + 1):
            for order in ("rows", "windows"):
                start = time.process_time()
                stream = opened(folder, order).stream(steps=10**6)
                next(stream)
                if turn:
                    firsts.setdefault(order, []).append(time.process_time() - start)
                stream = streams.setdefault(order, stream)
                start = time.process_time()
                for _ in range(STEPS):
                    next(stream)
                if turn:  # the first turn warms up
                    rates.setdefault(order, []).append(STEPS * BATCH / (time.process_time() - start))
    print("| order | rows/s | CPU seconds to the first batch |\n|---|---:|---:|")
    for order in rates:
        print(
            f"| {order} | {statistics.median(rates[order]):,.0f} | {statistics.median(firsts[order]):.2f} |"
        )
    ratios = [ours / theirs for ours, theirs in zip(rates["windows"], rates["rows"], strict=True)]
    print(f"\nWindows / rows: {statistics.median(ratios):.3f} (median of {rounds} turns; at least 0.95).\n")


def made_up_index(shard: int) -> ShardIndex:
    """A shard of MANY_ROWS pictures of about 100 kB with a class."""
    starts = np.arange(MANY_ROWS, dtype=np.int64) * 102_400
    offsets = np.stack([starts + 512, starts + 101_888], axis=1)
    sizes = np.stack([np.full(MANY_ROWS, 100_000), np.full(MANY_ROWS, 3)], axis=1)
    keys = [b"%05d-%06d" % (shard, row) for row in range(MANY_ROWS)]
    ends = np.cumsum([len(key) for key in keys], dtype=np.int64)
    return ShardIndex(Path(), ("jpg", "cls"), offsets, sizes, np.full_like(sizes, -1), b"".join(keys), ends)


def look_up(table: RowTable, order: Windows | Shuffled, position: int, steps: int) -> None:
    """Draw some steps from a position on, and find the rows as a batch does."""
    for step in range(steps):
        first = position + step * BATCH
        _, rows = order(np.arange(first, first + BATCH))
        for member in MEMBERS:
            assert len(list(table.spans(member, rows))) == BATCH
        assert len(set(table.keys(rows))) == BATCH


def in_windows(lanes: int, window: int, shards: int) -> tuple[float, float]:
    """Megabytes that the order of windows grows a process by, and seconds of CPU to the first step."""
    before, start = peak(), time.process_time()
    lengths = np.full(shards, MANY_ROWS, np.int64)
    in_sets = np.stack([lengths, *[np.zeros_like(lengths)] * (len(SPLITS) - 1)], axis=1)
    table = RowsOnDemand(made_up_index, lengths, in_sets, all_train, MEMBERS, lanes * (window + 1))
    order = Windows(0, "many", table.by_shard("train"), window=window, lanes=lanes)
    look_up(table, order, 0, 1)
    seconds = time.process_time() - start
    # Far apart, so that every window is left and another one entered, and one epoch for the next.
    for place in range(4):
        look_up(table, order, int(lengths.sum()) * (place + 1) // 3, 20)
    return peak() - before, seconds


def in_rows(shards: int) -> float:
    """Megabytes that the order of rows grows a process by for so many shards."""
    before, numbers = peak(), range(shards)
    indexes = [made_up_index(shard) for shard in numbers]
    table = HeldRows(indexes, [all_train(shard, indexes[shard]) for shard in numbers], MEMBERS)
    look_up(table, Shuffled(0, "many", table.rows("train")), 0, 20)
    return peak() - before


def all_train(shard: int, index: ShardIndex) -> np.ndarray:
    """Every row is a training row."""
    return np.zeros(len(index), np.int8)


def peak() -> float:
    """Largest resident set of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory() -> None:
    """Print a line for each order."""
    context = multiprocessing.get_context("spawn")
    print("| order of 500,000,000 rows in 50,000 shards | MB |\n|---|---:|")
    with context.Pool(1) as pool:
        grown, seconds = pool.apply(in_windows, (64, 4, MANY_SHARDS))
    print(f"| windows, 64 lanes of 4 shards | {grown:,.0f} |")
    with context.Pool(1) as pool:
        grown = pool.apply(in_rows, (HELD_SHARDS,))
    print(f"| rows, from {HELD_SHARDS} shards | {grown * MANY_SHARDS / HELD_SHARDS:,.0f} |")
    print(f"\n{seconds:.1f} s of CPU to the rows of the first step, making up the indexes included.")


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description="The order of windows beside the order of rows.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=("speed", "memory"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.only != "memory":
        speed(arguments.rounds)
    if arguments.only != "speed":
        memory()


if __name__ == "__main__":
    main()
