"""A tree of nodes under two real processes ends where one process with the same global batch does."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tree_toys import TREES, Net, rows_and_labels

from distill_mtl.balance import Tree, make_rule

ROWS, STEPS = 8, 4
RULES = ("mgda_ub", "mgda", "uniform", "gradnorm")

# Tasks that have rows, by step: all; some lack rows on one process; branch C, of d and e, has none at all.
HAS_ROWS = {
    "a": [range(8), range(4, 8)],
    "b": [range(8), range(3, 8)],
    "c": [range(8), range(8)],
    "d": [range(2, 8), range(0)],
    "e": [range(8), range(0)],
}


class Everything(nn.Module):
    """What goes to DistributedDataParallel: network and rule; the losses are computed inside."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.net = Net(next(iter(TREES.values())))
        self.rule = make_rule(name, self.net.tasks)

    def forward(self, step: int, rank: int, world: int):
        images, labels = rows_and_labels(step, ROWS)
        mine = range(rank * ROWS // world, (rank + 1) * ROWS // world)
        tree = self.net.tree(images[mine.start : mine.stop])
        losses, touched = {}, torch.zeros(())
        for task in self.net.tasks:
            having = HAS_ROWS[task][step % 2]
            local = [row for row in having if row in mine]
            nothing = 0 * sum(p.sum() for p in self.net.heads[task].parameters())
            if not having:
                touched = touched + nothing
                continue
            part = {
                name: feature[[row - mine.start for row in local]] for name, feature in tree[task].items()
            }
            loss = self.net.loss(task, part, labels[task][local]) * len(local) if local else nothing
            losses[task] = loss * world / len(having)
        first = next(iter(losses))
        losses[first] = losses[first] + touched
        return losses, tree


def train(name: str, rank: int, world: int) -> list[dict]:
    torch.manual_seed(rank)
    module = Everything(name)
    wrapped = DistributedDataParallel(module, bucket_cap_mb=0.0005) if world > 1 else module
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.02)
    log = []
    for step in range(STEPS):
        optimizer.zero_grad()
        losses, tree = wrapped(step, rank, world)
        assert isinstance(tree, Tree)
        weights = module.rule.backward(losses, tree)
        if "d" not in losses:
            for part in (module.net.nodes["C"], module.net.heads["d"], module.net.heads["e"]):
                for parameter in part.parameters():
                    parameter.grad = None
        optimizer.step()
        state = {key: value.clone() for key, value in module.state_dict().items()}
        log.append({"weights": weights, "cosines": module.rule.diagnostics.cosines, "state": state})
    return log


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save({name: train(name, rank, 2) for name in RULES}, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("name", RULES)
def test_two_processes_equal_one(two, name):
    for one, first in zip(train(name, 0, 1), two[0][name], strict=True):
        assert first["weights"] == pytest.approx(one["weights"], rel=1e-4, abs=1e-6)
        assert first["cosines"] == pytest.approx(one["cosines"], rel=1e-3, abs=1e-5)
        for key, value in one["state"].items():
            torch.testing.assert_close(first["state"][key], value, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", RULES)
def test_both_processes_choose_the_same_weights_and_stay_together(two, name):
    for first, second in zip(two[0][name], two[1][name], strict=True):
        assert first["weights"] == second["weights"]
        for key, value in first["state"].items():
            assert torch.equal(value, second["state"][key]), key
