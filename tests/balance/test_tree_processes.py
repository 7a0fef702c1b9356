"""A tree of nodes under two real processes ends where one process with the same global batch does."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from process_toys import forget, in_two_processes, mean_losses, same_on_both
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
        having = {task: HAS_ROWS[task][step % 2] for task in self.net.tasks}
        losses = mean_losses(self.net, tree.__getitem__, labels, having, mine, world)
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
        with counting_collectives() as sent:
            weights = module.rule.backward(losses, tree)
        if "d" not in losses:
            forget((module.net.nodes["C"], module.net.heads["d"], module.net.heads["e"]))
        optimizer.step()
        state = {key: value.clone() for key, value in module.state_dict().items()}
        cosines = module.rule.diagnostics.cosines
        log.append({"weights": weights, "cosines": cosines, "state": state, "sent": sent})
    return log


@contextmanager
def counting_collectives() -> Iterator[list[torch.Size]]:
    """Shapes of what is summed over the processes in the block, DistributedDataParallel's own left out."""
    sent, whole = [], torch.distributed.all_reduce

    def counted(tensor: torch.Tensor, *arguments, **options):
        sent.append(tensor.shape)
        return whole(tensor, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "all_reduce", counted)
        yield sent


def found(rank: int) -> dict:
    return {name: train(name, rank, 2) for name in RULES}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return in_two_processes(tmp_path_factory.mktemp("two"), found)


@pytest.mark.parametrize("name", RULES)
def test_two_processes_equal_one(two, name):
    for one, first in zip(train(name, 0, 1), two[0][name], strict=True):
        assert first["weights"] == pytest.approx(one["weights"], rel=1e-4, abs=1e-6)
        assert first["cosines"] == pytest.approx(one["cosines"], rel=1e-3, abs=1e-5)
        for key, value in one["state"].items():
            torch.testing.assert_close(first["state"][key], value, rtol=1e-4, atol=2e-5)


def test_all_gramians_go_in_one_collective(two):
    assert [len(step["sent"]) for step in two[0]["mgda_ub"]] == [1] * STEPS


@pytest.mark.parametrize("name", RULES)
def test_both_processes_choose_the_same_weights_and_stay_together(two, name):
    same_on_both(two[0][name], two[1][name])
