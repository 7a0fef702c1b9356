import copy

import pytest
import torch
from torch import Tensor, nn

from distill_mtl.errors import UserError
from distill_mtl.networks.taps import Taps


class Overwriting(nn.Module):
    """Its ReLU writes into the output of the normalisation before it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, 4)
        self.act = nn.ReLU(inplace=True)
        self.spare = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.act(self.norm(images))


def tapped(module: nn.Module, layers: list[str], images: Tensor) -> Taps:
    taps = Taps(module, layers)
    with torch.no_grad():
        taps.dry_run(lambda: module(images))
    return taps


def test_a_tap_holds_what_the_layer_gave() -> None:
    network, images = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU()), torch.rand(2, 3, 8, 8)
    taps = tapped(network, ["0"], images)
    network(images)
    assert torch.equal(taps.read()["0"], network[0](images))


def test_an_output_that_is_overwritten_in_place_is_read_as_it_was() -> None:
    network, images = Overwriting(), torch.randn(2, 4, 5, 5)
    before = network.norm(images).detach()
    assert before.min() < 0
    taps = Taps(network, ["norm", "act"])
    with torch.no_grad():
        dry = taps.dry_run(lambda: network(images))
    network(images)
    read = taps.read()
    assert torch.equal(dry["norm"], before)
    assert torch.equal(read["norm"], before)
    assert torch.equal(read["act"], before.relu())


def test_gradients_flow_through_a_tap_that_had_to_be_copied() -> None:
    network, images = Overwriting(), torch.randn(2, 4, 5, 5)
    taps = tapped(network, ["norm"], images)
    network(images)
    taps.read()["norm"].square().sum().backward()
    assert network.norm.weight.grad is not None
    assert network.norm.weight.grad.abs().sum() > 0


def test_an_output_that_nobody_overwrites_is_not_copied() -> None:
    network, images = Overwriting(), torch.randn(2, 4, 5, 5)
    taps = tapped(network, ["act"], images)
    output = network(images)
    assert taps.read()["act"] is output


def test_a_module_called_twice_keeps_its_last_call() -> None:
    layer = nn.Linear(3, 3)
    network, vectors = nn.Sequential(layer, layer), torch.rand(2, 3)
    taps = tapped(network, ["0"], vectors)
    output = network(vectors)
    assert torch.equal(taps.read()["0"], output)


def test_reading_forgets() -> None:
    network, vectors = nn.Sequential(nn.Linear(3, 3)), torch.rand(2, 3)
    taps = tapped(network, ["0"], vectors)
    network(vectors)
    assert set(taps.read()) == {"0"}
    assert taps.read() == {}


def test_a_deep_copy_reads_its_own_layers() -> None:
    network = nn.Sequential(nn.Linear(3, 3))
    vectors = torch.rand(2, 3)
    original = (network, tapped(network, ["0"], vectors))
    twin, twin_taps = copy.deepcopy(original)
    nn.init.zeros_(twin[0].weight)
    network(vectors)
    assert twin_taps.read() == {}
    twin(vectors)
    assert torch.equal(twin_taps.read()["0"], twin[0](vectors))
    assert torch.equal(original[1].read()["0"], network[0](vectors))


def test_removed_taps_hear_nothing() -> None:
    network, vectors = nn.Sequential(nn.Linear(3, 3)), torch.rand(2, 3)
    taps = tapped(network, ["0"], vectors)
    taps.remove()
    network(vectors)
    assert taps.read() == {}


def test_an_unknown_layer_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no layer 'nrm'.* 'norm'.*norm, act, spare"):
        Taps(Overwriting(), ["nrm"])


def test_a_layer_that_never_runs_is_refused() -> None:
    with pytest.raises(UserError, match="'spare' is not used"):
        tapped(Overwriting(), ["spare"], torch.randn(2, 4, 5, 5))


def test_a_layer_of_several_outputs_is_refused() -> None:
    network = nn.Sequential(nn.LSTM(3, 3))
    with pytest.raises(UserError, match="'0'.* tuple"):
        tapped(network, ["0"], torch.rand(2, 4, 3))
