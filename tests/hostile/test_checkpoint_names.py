"""Checkpoints as people's training scripts write them: names with prefixes, and other tensors beside the network's."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from distill_mtl.errors import UserError
from distill_mtl.networks.runtimes.own_module import load_checkpoint
from distill_mtl.networks.weights import load_exactly

State = dict[str, Tensor]


class Small(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, classes)


def trained() -> State:
    torch.manual_seed(1)
    return {
        name: torch.rand_like(value) if value.is_floating_point() else value
        for name, value in Small().state_dict().items()
    }


def under(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


def without(state: State, *words: str) -> State:
    return {name: value for name, value in state.items() if not any(word in name for word in words)}


ONE = torch.ones(3)


def compiled_inside(state: State) -> State:
    """As one layer of a network that was compiled alone."""
    return {name.replace("conv.", "conv._orig_mod."): value for name, value in state.items()}


@pytest.mark.parametrize(
    "write",
    [
        lambda state: without(state, "num_batches_tracked"),
        lambda state: under(state, "module.") | {"n_averaged": torch.tensor(7)},
        lambda state: under(state, "module.") | {"criterion.weight": ONE},
        lambda state: under(state, "module.module.") | {"n_averaged": torch.tensor(7)},
        lambda state: state | {"n_averaged": torch.tensor(7)},
        lambda state: state | {"criterion.weight": ONE, "val_acc.correct": ONE},
        lambda state: state | {"total_ops": ONE, "conv.total_params": ONE},
        lambda state: {"state_dict": under(state, "model.") | {"loss_fn.weight": ONE}, "epoch": 3},
        lambda state: {"state_dict": under(state, "_orig_mod.module."), "optimizer_states": []},
        lambda state: {"state_dict": under(state, "model._orig_mod.")},
        lambda state: under(state, "student.backbone.") | {"queue": ONE, "center": ONE},
        compiled_inside,
        lambda state: {**state, "epoch": 3, "best": 0.5},
        lambda state: {"ema": {"module": under(state, "module."), "decay": 0.9}},
        lambda state: without(under(state, "net."), "num_batches_tracked") | {"net.total_ops": ONE},
    ],
)
@torch.no_grad()
def test_a_checkpoint_is_matched_as_people_do(tmp_path: Path, write: Callable[[State], object]) -> None:
    torch.save(write(trained()), tmp_path / "n.pth")
    network = Small()
    load_checkpoint(network, tmp_path / "n.pth")
    for name, value in trained().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_averaged_weights_are_taken_from_torchs_own_wrapper(tmp_path: Path) -> None:
    source = Small()
    source.load_state_dict(trained())
    torch.save(AveragedModel(source).state_dict(), tmp_path / "n.pth")
    network = Small()
    load_checkpoint(network, tmp_path / "n.pth")
    assert torch.equal(network.head.weight, source.head.weight)


def changed_head(state: State, change: Callable[[Tensor], Tensor]) -> State:
    return {**state, "head.weight": change(state["head.weight"])}


@pytest.mark.parametrize(
    ("write", "findings"),
    [
        (lambda state: without(state, "bn.weight"), ["missing in the file: bn.weight"]),
        (lambda state: without(state, "running_"), ["missing in the file: bn.running_mean, bn.running_var"]),
        (lambda state: state | {"conv2.weight": ONE}, ["not in the network: conv2.weight"]),
        (lambda state: state | {"head.loss.weight": ONE}, ["not in the network: head.loss.weight"]),
        (
            lambda state: under(without(state, "head.bias"), "module.") | {"module.fc.bias": ONE},
            ["missing in the file: head.bias", "not in the network: fc.bias", "'module.'"],
        ),
        (
            lambda state: state | {"head.weight": torch.ones(9, 6)},
            ["head.weight is [9, 6] in the file, [4, 6]"],
        ),
        (lambda state: {f"a{place}": ONE for place in range(9)}, ["a4 and 4 more", "and 3 more"]),
        (
            lambda state: changed_head(state, lambda weight: weight.to("meta")),
            ["head.weight is without data"],
        ),
        (lambda state: changed_head(state, Tensor.to_sparse), ["head.weight is sparse"]),
        (lambda state: changed_head(state, lambda weight: weight + 1j), ["head.weight is complex"]),
        (
            lambda state: changed_head(
                state, lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)
            ),
            ["head.weight is quantised"],
        ),
        (lambda state: state | {"x\nERROR: y": ONE}, [r"'x\nERROR: y'"]),
        (
            lambda state: under(state, "teacher.") | under(Small().state_dict(), "student."),
            ["'student.'", "'teacher.'", "several"],
        ),
        (
            lambda state: {f"layer{place}.weight": ONE for place in range(12)} | under(state, "a.b."),
            ["do not fit"],
        ),
    ],
)
def test_what_does_not_fit_is_one_line_with_both_sides(
    tmp_path: Path, write: Callable[[State], object], findings: list[str]
) -> None:
    torch.save(write(trained()), tmp_path / "n.pth")
    with pytest.raises(UserError) as caught:
        load_checkpoint(Small(), tmp_path / "n.pth")
    for finding in findings:
        assert finding in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_part_of_the_network_that_is_called_like_a_loss_is_not_left_out() -> None:
    network = nn.ModuleDict({"loss": nn.Linear(2, 2), "out": nn.Linear(2, 2)})
    state = without(network.state_dict(), "loss.")
    with pytest.raises(UserError, match="missing in the file: loss.weight, loss.bias"):
        load_exactly(network, state, "x")
    with pytest.raises(UserError, match="not in the network: loss.scale"):
        load_exactly(network, {**network.state_dict(), "loss.scale": ONE}, "x")
