import gc
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator

import pytest
import torch

# Two processes of a test on two cores must not fight for them; and sums then have one order everywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
# A suite that a shell started with `&` ignores Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

CACHE = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Generated data goes to a folder of this session, not to the user's cache.

    Workers and the processes that tests start inherit the variable, so each set is made once.
    """
    if not hasattr(config, "workerinput"):
        config.stash[CACHE] = os.environ["DISTILL_MTL_CACHE"] = tempfile.mkdtemp(prefix="distill_mtl-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if folder := config.stash.get(CACHE, None):
        shutil.rmtree(folder, ignore_errors=True)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """As many as this process may use cores, but one file's tests need no worker beside this process."""
    files = {argument.partition("::")[0] for argument in config.args}
    if len(files) == 1 and next(iter(files)).endswith(".py"):
        return 0
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pytest_collection_finish() -> None:
    """What is imported by now stays: a run's own `gc.collect()` need not look at it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")
def short_runs() -> Iterator[None]:
    """Runs of this module leave out what other tests look at (`short_runs.py`)."""
    from short_runs import shorten

    with pytest.MonkeyPatch.context() as patch:
        shorten(patch.setattr)
        yield


@pytest.fixture(scope="session", autouse=True)
def _the_same_on_every_processor() -> Iterator[None]:
    """Runs in this process train in fp32 where their recipes do not say otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distill_mtl.networks.bf16.cpu_has_bf16", lambda: False)
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
