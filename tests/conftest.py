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


@pytest.fixture(scope="session", autouse=True)
def _cache() -> Iterator[None]:
    """Generated data goes to a folder of this session, not to the user's cache; child processes share it."""
    folder = tempfile.mkdtemp(prefix="distill_mtl-tests-")
    os.environ["DISTILL_MTL_CACHE"] = folder
    yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
