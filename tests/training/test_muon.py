"""Muon's steps beside timm's, whatever the memory order of a weight, and its state."""

import copy

import pytest
import timm
import torch
from timm.optim import Muon as TimmMuon
from timm.optim.muon import zeropower_via_newtonschulz
from torch import Tensor, nn

from distill_mtl.training import muon
from distill_mtl.training.muon import COEFFICIENTS, EPS, Muon, orthogonalisers

OPTIONS = {"lr": 0.02, "momentum": 0.95, "betas": (0.9, 0.999)}


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(16, 20)
    )


def _groups(network: nn.Module) -> list[dict]:
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim == 1]
    return [
        {"params": matrices, "weight_decay": 0.05, "use_fallback": False},
        {"params": others, "weight_decay": 0.0, "use_fallback": True},
    ]


def _train(network: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[Tensor]:
    for step in steps:
        images = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        network(images).square().mean().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in network.parameters()]


def _orthogonal(xs: list[Tensor]) -> list[Tensor]:
    found = dict(orthogonalisers(xs))
    return [found[place] @ x for place, x in enumerate(xs)]


def test_the_orthogonal_parts_are_those_of_newton_and_schulz_in_double_precision() -> None:
    chance = torch.Generator().manual_seed(1)
    shapes = [(4, 30), (16, 16), (1, 5), (4, 4), (4, 30), (1, 5)]
    xs = [torch.randn(shape, generator=chance) for shape in shapes]
    for x, found in zip(xs, _orthogonal(xs), strict=True):
        expected = zeropower_via_newtonschulz(x.double(), 5, COEFFICIENTS, dtype=torch.float64)
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)


def test_large_matrices_of_one_size_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, products = [], muon._orthogonalisers
    monkeypatch.setattr(muon, "_orthogonalisers", lambda xs: sizes.append(len(xs)) or products(xs))
    monkeypatch.setattr(muon, "TOGETHER", 2 * 5**2)
    xs = [torch.randn(5, 7) for _ in range(5)] + [torch.randn(9, 9)] + [torch.randn(5, 7).double()]
    for x, found in zip(xs, _orthogonal(xs), strict=True):
        torch.testing.assert_close(found, *_orthogonal([x]), rtol=1e-3, atol=1e-4)
    assert sizes[:5] == [2, 2, 1, 1, 1]


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_gradients_of_any_size_give_finite_steps(scale: float) -> None:
    for found in _orthogonal([scale * torch.randn(4, 9), torch.zeros(4, 9)]):
        assert found.isfinite().all()


def _norm_and_head() -> nn.Module:
    """Without a bias before the norm, whose gradient is nothing but rounding."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(24, 5))


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_what_is_no_matrix_steps_as_with_timms_nadamw(decay: float) -> None:
    found = []
    for kind in (Muon, TimmMuon):
        network = _norm_and_head()
        one, *others = network.parameters()
        groups = [
            {"params": [one], "weight_decay": 0.0, "use_fallback": True},
            {"params": others, "weight_decay": decay, "use_fallback": True},
        ]
        timms = {"nesterov": True, "eps": EPS} if kind is TimmMuon else {}
        found.append(_train(network, kind(groups, **OPTIONS, **timms), range(4)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fallback", [True, False])
def test_each_group_has_its_own_rate(fallback: bool) -> None:
    network = _norm_and_head()
    first, last = network[0].weight, network[3].weight
    before = first.detach().clone(), last.detach().clone()
    groups = [
        {"params": [first], "use_fallback": fallback, "lr": 0.0},
        {"params": [last], "use_fallback": fallback},
    ]
    _train(network, Muon(groups, **OPTIONS), range(1))
    assert torch.equal(first, before[0])
    assert not torch.equal(last, before[1])


def test_steps_are_those_of_timm_but_for_its_half_precision() -> None:
    ours, theirs = _network(), _network()
    before = [parameter.detach().clone() for parameter in ours.parameters() if parameter.ndim > 1]
    timms = TimmMuon(_groups(theirs), nesterov=True, ns_coefficients=COEFFICIENTS, **OPTIONS)
    _train(ours, Muon(_groups(ours), **OPTIONS), range(1))
    _train(theirs, timms, range(1))
    matrices = [[p.detach() for p in network.parameters() if p.ndim > 1] for network in (ours, theirs)]
    for start, mine, other in zip(before, *matrices, strict=True):
        assert (mine - other).norm() < 0.1 * (other - start).norm()


def test_the_memory_order_of_a_weight_does_not_matter() -> None:
    plain, last = _network(), _network().to(memory_format=torch.channels_last)
    found = [_train(network, Muon(_groups(network), **OPTIONS), range(1)) for network in (plain, last)]
    for one, other in zip(*found, strict=True):
        if one.ndim > 1:  # a bias before a norm has a gradient of nothing but rounding
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_copy_of_the_state_goes_on_to_the_bit() -> None:
    whole = _network()
    expected = _train(whole, Muon(_groups(whole), **OPTIONS), range(6))
    half = _network()
    optimizer = Muon(_groups(half), **OPTIONS)
    _train(half, optimizer, range(3))
    resumed = copy.deepcopy(half)
    other = Muon(_groups(resumed), **OPTIONS)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert all(map(torch.equal, _train(resumed, other, range(3, 6)), expected))


def test_a_state_of_timms_optimizer_goes_on() -> None:
    network = timm.create_model("test_resnet", num_classes=3)
    theirs, ours = (kind(_groups(network), **OPTIONS) for kind in (TimmMuon, Muon))
    _train(network, theirs, range(2))
    ours.load_state_dict(theirs.state_dict())
    assert all(value.isfinite().all() for value in _train(network, ours, range(2, 3)))


def test_what_has_no_gradient_does_not_move() -> None:
    network = _network()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    Muon(_groups(network), **OPTIONS).step()
    assert all(map(torch.equal, before, network.parameters()))
