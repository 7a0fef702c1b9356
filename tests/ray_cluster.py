"""A small Ray cluster, and networks that its processes can open: they do not know the toys."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from buckets import Bucket, running_bucket

from distill_mtl.students.families.timm_trunks import TimmTrunk
from distill_mtl.students.student import Student
from distill_mtl.students.student_folder import save_student
from distill_mtl.tasks.base import TaskKind

SIZE = (32, 32)
CORES, STORE = 2, 100_000_000


def settle() -> None:
    """Before the first node starts: no statistics for Ray's makers, and processes that other tests do not starve."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")


@contextmanager
def running() -> Iterator[None]:
    """One node of two cores, which this process is connected to and which ends with the block."""
    settle()
    import ray

    ray.init(
        address="local",
        num_cpus=CORES,
        object_store_memory=STORE,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


@contextmanager
def beside_bucket() -> Iterator[Bucket]:
    """The same with a bucket, which its processes find in the environment."""
    with running_bucket() as bucket, running():
        yield bucket


def timm_student(folder: Path, kinds: Mapping[str, TaskKind], *, seed: int) -> Path:
    """The folder of a small network of timm with random weights, in place of what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        save_student(Student(TimmTrunk.create("test_resnet", {}, SIZE, pretrained=False), kinds), folder)
    return folder
