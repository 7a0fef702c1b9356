"""The order of windows beside the order of rows: benchmarks/stream.py.

Speed: one source of 64 px JPEGs with a class each in SHARDS shards on the local disk, read by this process on one
thread in both orders, in turns, in process CPU time, and the time from the recipe to the first batch.

Bucket: the same shards behind an S3 server on this machine (moto) whose answers come 20 ms late, on 4 lanes, through a
store that holds all of them and one that holds half. Windows from the local disk beside them, in turns, in process CPU
time, fetching included; and the seconds on the clock to the first batch of a store that is empty.

Memory: what a process needs for the order of 500 million rows in 50 thousand shards. The indexes are made up, one when
it is asked for; places, keys and rows are really looked up. Measured in a process of its own, as the growth of its
largest resident set; for the order of rows fewer rows are held, and the figure is in proportion.
"""

import argparse
import logging
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import webdataset
from loader import SIDE, piece
from PIL import Image
from sklearn.datasets import load_sample_images

from distill_mtl import remote_files
from distill_mtl.data import DataSettings, Sources, open_sources
from distill_mtl.data.index import ShardIndex, index_name, index_to_stream
from distill_mtl.data.order import Shuffled
from distill_mtl.data.row_table import HeldRows, RowsOnDemand, RowTable
from distill_mtl.data.windows import Windows
from distill_mtl.recipe.schema import Recipe
from distill_mtl.splits import SPLITS
from distill_mtl.tasks.base import build_kind

SHARDS, ROWS, BATCH, STEPS = 128, 128, 256, 24
LATENCY = 0.02
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


def opened(folder: Path | str, order: str, lanes: int = 64, store: str | None = None) -> Sources:
    """The shards as a source that is read in an order."""
    classes = tuple("abcdefghij")
    section = {
        "shards": f"{folder}/train-{{000..{SHARDS - 1:03d}}}.tar",
        "split": {split: f"{folder}/{split}.tar" for split in ("validation", "test")},
        "store": store,
        "labels": {"letter": {"member": "cls"}},
        "augment": {"crop": None, "flip": False, "color": 0},
        "order": order,
    }
    recipe = Recipe.model_validate(
        {
            "student": {"model": "resnet18"},
            "tasks": {"letter": {"classes": list(classes)}},
            "data": {"letters": section},
            "training": {"batch_size": BATCH, "stream": {"lanes": lanes}},
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


def bucket(rounds: int) -> None:
    """Print a line for each place, and its ratio to windows from the local disk."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name, s3_server() as url:
        folder = Path(name) / "shards"
        folder.mkdir()
        write_shards(folder)
        for shard in sorted(folder.glob("*.tar")):
            index = shard.with_name(index_name(shard.name))
            index.write_bytes(index_to_stream(shard))
            for file in (shard, index):
                remote_files.send(file, f"{url}/{file.name}", "stream.py")
        size = sum(shard.stat().st_size for shard in folder.glob("*.tar"))
        stores = {"local disk": None, "bucket, store of all": size, "bucket, store of half": size // 2}
        pipes, firsts = dict[str, Connection](), dict[str, tuple[float, float]]()
        for what, store in stores.items():
            pipes[what], theirs = context.Pipe()
            place = str(folder) if store is None else url
            kept = None if store is None else f"{store / 1e3:.3f}kB"
            arguments = (theirs, place, kept, f"{name}/cache of {what}")
            context.Process(target=read_in_turns, args=arguments, daemon=True).start()
            firsts[what] = pipes[what].recv()
        rates: dict[str, list[float]] = {what: [] for what in stores}
        for _ in range(rounds):
            for what, pipe in pipes.items():
                pipe.send(STEPS)
                rates[what].append(pipe.recv())
        for pipe in pipes.values():
            pipe.send(0)
            pipe.recv()
    print(
        "| 4 lanes of 4 shards, from | rows/s | of the local disk | seconds to the first batch | of them indexes |"
    )
    print("|---|---:|---:|---:|---:|")
    for what, (indexed, first) in firsts.items():
        ratio = statistics.median(
            ours / local for ours, local in zip(rates[what], rates["local disk"], strict=True)
        )
        print(
            f"| {what} | {statistics.median(rates[what]):,.0f} | {ratio:.3f} | {first:.1f} | {indexed:.1f} |"
        )
    print(
        f"\n{SHARDS} shards, {size / 1e6:.0f} MB; median of {rounds} turns; at least 0.9 of the local disk.\n"
    )


def read_in_turns(pipe: Connection, place: str, store: str | None, cache: str) -> None:
    """Send the seconds to the indexes and to the first batch; after an epoch rows per second of CPU for each turn of so
    many steps. What threads fetch between two turns counts in the later one."""
    torch.set_num_threads(1)
    os.environ["DISTILL_MTL_CACHE"] = cache
    start = time.monotonic()
    sources = opened(place, "windows", 4, store)
    indexed = time.monotonic() - start
    stream = sources.stream(steps=10**6)
    next(stream)
    pipe.send((indexed, time.monotonic() - start))
    for _ in range(SHARDS * ROWS // BATCH):
        next(stream)
    last = time.process_time()
    while steps := pipe.recv():
        for _ in range(steps):
            next(stream)
        pipe.send(steps * BATCH / (time.process_time() - last))
        last = time.process_time()
    del stream  # and with it the threads that fetch
    pipe.send(None)


@contextmanager
def s3_server() -> Iterator[str]:
    """The URL of an empty bucket of a server in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ours.recv()}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    system, path = remote_files.open_system("s3://pets", "stream.py")
    system.mkdir(path)
    try:
        yield "s3://pets"
    finally:
        process.kill()


def serve(port: Connection) -> None:
    """Run moto's server with LATENCY before each answer."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    application = DomainDispatcherApplication(create_backend_app)

    def late(environment: dict[str, object], start: Callable[..., object]) -> object:
        time.sleep(LATENCY)
        return application(environment, start)

    server = make_server("127.0.0.1", 0, late, threaded=True)
    port.send(server.server_port)
    server.serve_forever()


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
    """Print the tables."""
    parser = argparse.ArgumentParser(description="The order of windows beside the order of rows.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", choices=("speed", "bucket", "memory"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.only in (None, "speed"):
        speed(arguments.rounds)
    if arguments.only in (None, "bucket"):
        bucket(arguments.rounds)
    if arguments.only in (None, "memory"):
        memory()


if __name__ == "__main__":
    main()
