"""Two real processes under DistributedDataParallel end where one process with the same global batch does."""

import pytest
import torch
import torch.distributed as dist
from balance_toys import RULES, TASKS, Toy, rows_and_labels, rule_for
from process_toys import forget, in_two_processes, mean_losses, same_on_both
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distill_mtl.balance import Shared, Weighting

ROWS = 12
STEPS = 6
CASES = [*RULES, "mgda without a cut", "random"]

# Tasks that have rows, by step: all; one lacks rows on one process; one is absent.
HAS_ROWS = {
    "left": [range(12), range(12), range(12)],
    "right": [range(4, 12), range(6, 12), range(12)],
    "part": [range(9), range(3, 8), range(0)],
}


class Everything(nn.Module):
    """What goes to DistributedDataParallel: network and rule; the losses are computed inside."""

    def __init__(self, case: str) -> None:
        super().__init__()
        self.net = Toy()
        if case == "random":
            # Unlike seeds must not give unlike weights.
            self.rule = Weighting(lambda gramian: torch.rand(len(gramian)))
        else:
            self.rule = rule_for(case.partition(" ")[0])
        self.cut = "without" not in case

    def forward(self, step: int, rank: int, world: int):
        rows, labels = rows_and_labels(step, ROWS)
        mine = range(rank * ROWS // world, (rank + 1) * ROWS // world)
        features = self.net.features(rows[list(mine)])
        shared = Shared(features, TASKS)
        having = {task: HAS_ROWS[task][step % 3] for task in TASKS}
        seen = shared.__getitem__ if self.cut else lambda task: features
        losses = mean_losses(self.net, seen, labels, having, mine, world)
        return losses, shared


def train(case: str, rank: int, world: int) -> list[dict]:
    torch.manual_seed(rank)
    module = Everything(case)
    wrapped = DistributedDataParallel(module, bucket_cap_mb=0.0005) if world > 1 else module
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.02)
    log = []
    for step in range(STEPS):
        optimizer.zero_grad()
        losses, shared = wrapped(step, rank, world)
        parameters = None if module.cut else module.net.trunk_parameters()
        torch.manual_seed(100 * step + rank)
        weights = module.rule.backward(losses, shared if module.cut else None, parameters=parameters)
        forget(module.net.heads[task] for task in set(TASKS) - set(losses))
        optimizer.step()
        state = {key: value.clone() for key, value in module.state_dict().items()}
        log.append({"weights": weights, "norm": module.rule.diagnostics.norm, "state": state})
    return log


def disagree() -> str:
    """What happens where the processes do not have the same tasks."""
    net = Toy()
    rows, labels = rows_and_labels()
    shared = Shared(net.features(rows), TASKS)
    tasks = TASKS if dist.get_rank() == 0 else TASKS[:2]
    losses = {task: net.loss(task, shared[task], labels[task]) for task in tasks}
    try:
        rule_for("mgda_ub").backward(losses, shared)
    except ValueError as error:
        return str(error)
    return "nothing"


def found(rank: int) -> dict:
    return {case: train(case, rank, 2) for case in CASES} | {"disagreement": disagree()}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return in_two_processes(tmp_path_factory.mktemp("two"), found)


@pytest.mark.parametrize("case", [case for case in CASES if case != "random"])
def test_two_processes_equal_one(two, case):
    for one, first in zip(train(case, 0, 1), two[0][case], strict=True):
        assert first["weights"] == pytest.approx(one["weights"], rel=1e-4, abs=1e-6)
        if one["norm"] is not None:
            assert first["norm"] == pytest.approx(one["norm"], rel=1e-4)
        for key, value in one["state"].items():
            torch.testing.assert_close(first["state"][key], value, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("case", CASES)
def test_both_processes_choose_the_same_weights_and_stay_together(two, case):
    same_on_both(two[0][case], two[1][case])


def test_processes_that_disagree_on_the_tasks_are_stopped(two):
    for found in two:
        assert "'part' has a loss on 1 of 2 processes" in found["disagreement"]
