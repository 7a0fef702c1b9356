"""Full MGDA against gradients taken one task at a time, with and without a cut."""

import pytest
import torch
from balance_toys import TASKS, Toy, gradients, rows_and_labels, run, task_gradients
from torch import nn

from distill_mtl.balance import MGDA, Shared, solve


def flat(parts):
    return torch.cat([part.flatten() for part in parts]).double()


def reference(net):
    found = task_gradients(net, net.trunk_parameters())
    stacked = torch.stack([flat(found[task]) for task in TASKS])
    return stacked, solve(stacked @ stacked.T)


def test_the_direction_is_the_shortest_in_the_hull_of_the_parameters_gradients():
    net, rule = Toy(), MGDA(normalize="none", scale=1.0)
    weights = run(net, rule)
    stacked, expected = reference(Toy())
    assert list(weights.values()) == pytest.approx(expected.weights.tolist(), abs=1e-6)
    direction = flat([p.grad for p in net.trunk_parameters()])
    assert rule.diagnostics.norm == pytest.approx(expected.norm, rel=1e-5)
    assert direction.norm() == pytest.approx(expected.norm, rel=1e-5)
    assert ((stacked @ direction) > -1e-6 * stacked.norm(dim=1) * direction.norm()).all()


def test_without_a_cut_the_result_is_the_same():
    cut, whole, rule = Toy(), Toy(), MGDA()
    expected = run(cut, MGDA())
    rows, labels = rows_and_labels()
    features = whole.features(rows)
    losses = {task: whole.loss(task, features, labels[task]) for task in TASKS}
    found = rule.backward(losses, None, parameters=whole.trunk_parameters())
    assert found == pytest.approx(expected, rel=1e-4)
    for one, other in zip(cut.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-7)


def test_without_a_cut_gradients_accumulate_under_a_scaler():
    net = Toy()

    def step(seed, factor):
        rows, labels = rows_and_labels(seed)
        features = net.features(rows)
        losses = {task: net.loss(task, features, labels[task]) for task in TASKS}
        MGDA().backward(
            losses, None, lambda loss: (loss * factor).backward(), parameters=net.trunk_parameters()
        )

    step(1, 1.0)
    first = gradients(net)
    net.zero_grad()
    step(2, 1.0)
    second = gradients(net)
    net.zero_grad()
    step(1, 1024.0)
    step(2, 1024.0)
    for key, value in gradients(net).items():
        torch.testing.assert_close(value / 1024, first[key] + second[key])


class CrossStitch(nn.Module):
    """Two towers that exchange their features: no representation is shared, but all towers are."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.towers = nn.ModuleList(nn.Linear(6, 8) for _ in range(2))
        self.stitch = nn.Parameter(torch.eye(2) * 0.9 + 0.05)
        self.heads = nn.ModuleList(nn.Linear(8, 1) for _ in range(2))

    def forward(self, rows):
        mixed = torch.einsum("ij,jbc->ibc", self.stitch, torch.stack([t(rows).tanh() for t in self.towers]))
        return {
            "a": self.heads[0](mixed[0]).square().mean(),
            "b": (self.heads[1](mixed[1]) - 1).square().mean(),
        }


def test_a_network_without_one_shared_representation_is_balanced_by_its_parameters():
    net, rows = CrossStitch(), torch.randn(16, 6)
    common = [*net.towers.parameters(), net.stitch]
    rule = MGDA(normalize="none", scale=1.0)
    weights = rule.backward(net(rows), None, parameters=common)
    losses = net(rows)
    stacked = torch.stack(
        [flat(torch.autograd.grad(loss, common, retain_graph=True)) for loss in losses.values()]
    )
    expected = solve(stacked @ stacked.T)
    assert list(weights.values()) == pytest.approx(expected.weights.tolist(), abs=1e-5)
    torch.testing.assert_close(
        flat([p.grad for p in common]), expected.weights @ stacked, rtol=1e-4, atol=1e-8
    )


def test_without_a_cut_the_parameters_must_be_named():
    loss = nn.Parameter(torch.ones(())).square()
    with pytest.raises(ValueError, match="parameters="):
        MGDA().backward({"a": loss}, None)
    with pytest.raises(ValueError, match="trainable"):
        MGDA().backward({"a": loss}, None, parameters=[])


def test_only_named_parameters_are_balanced_with_a_cut():
    net = Toy()
    rows, labels = rows_and_labels()
    shared = Shared(net.features(rows), TASKS)
    losses = {task: net.loss(task, shared[task], labels[task]) for task in TASKS}
    MGDA().backward(losses, shared, parameters=net.second.parameters())
    assert net.first[0].weight.grad is None
    assert net.second[0].weight.grad is not None


def test_a_frozen_trunk_is_left_alone():
    net = Toy()
    for parameter in net.trunk_parameters():
        parameter.requires_grad_(False)
    assert set(run(net, MGDA())) == set(TASKS)
    assert all(p.grad is not None for p in net.heads.parameters())
    assert all(p.grad is None for p in net.trunk_parameters())
