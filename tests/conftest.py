import os

import pytest
import torch

# Two processes of a test on two cores must not fight for them; and sums then have one order everywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
