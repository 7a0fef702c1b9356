"""Two real processes under DistributedDataParallel end where one process with the same global batch does."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from balance_toys import RULES, TASKS, Toy, rows_and_labels, rule_for
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
        losses, touched = {}, torch.zeros(())
        for task in TASKS:
            seen = shared[task] if self.cut else features
            having = HAS_ROWS[task][step % 3]
            local = [row for row in having if row in mine]
            nothing = 0 * sum(p.sum() for p in self.net.heads[task].parameters())
            if not having:
                touched = touched + nothing
                continue
            at = [row - mine.start for row in local]
            part = {name: feature[at] for name, feature in seen.items()}
            loss = self.net.loss(task, part, labels[task][local]) * len(local) if local else nothing
            losses[task] = loss * world / len(having)
        first = next(iter(losses))
        losses[first] = losses[first] + touched
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
        for task in set(TASKS) - set(losses):
            for parameter in module.net.heads[task].parameters():
                parameter.grad = None
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


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {case: train(case, rank, 2) for case in CASES}
    found["disagreement"] = disagree()
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


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
    for first, second in zip(two[0][case], two[1][case], strict=True):
        assert first["weights"] == second["weights"]
        for key, value in first["state"].items():
            assert torch.equal(value, second["state"][key]), key


def test_processes_that_disagree_on_the_tasks_are_stopped(two):
    for found in two:
        assert "'part' has a loss on 1 of 2 processes" in found["disagreement"]
