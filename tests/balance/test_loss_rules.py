"""The rules that weight losses, each against its paper's formula."""

import math

import pytest
import torch
from balance_toys import TASKS, Toy, run
from torch import nn

from distill_mtl.balance import Geometric, GradNorm, Shared, Uncertainty


def two_losses(feature, scales):
    shared = Shared(feature, list(scales))
    return {t: scale * (shared[t] - k).square().mean() for k, (t, scale) in enumerate(scales.items())}, shared


def test_uncertainty_descends_kendalls_objective():
    rule = Uncertainty(["cls", "reg"], likelihoods={"reg": "gaussian"})
    with torch.no_grad():
        rule.log_variances[0].fill_(0.4)
        rule.log_variances[1].fill_(-0.7)
    feature = torch.randn(5, requires_grad=True)
    losses, shared = two_losses(feature, {"cls": 2.0, "reg": 3.0})
    values = [loss.item() for loss in losses.values()]
    weights = rule.backward(losses, shared)
    assert weights == pytest.approx({"cls": math.exp(-0.4), "reg": 0.5 * math.exp(0.7)})
    # d/ds of c·exp(-s)·L + s/2
    assert rule.log_variances[0].grad.item() == pytest.approx(0.5 - math.exp(-0.4) * values[0])
    assert rule.log_variances[1].grad.item() == pytest.approx(0.5 - 0.5 * math.exp(0.7) * values[1])


def test_uncertainty_settles_where_the_noise_explains_the_loss():
    rule = Uncertainty(["a"], likelihoods={"a": "gaussian"})
    optimizer = torch.optim.Adam(rule.parameters(), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        shared = Shared(torch.zeros(3, requires_grad=True), ["a"])
        rule.backward({"a": (shared["a"] - 2).square().mean()}, shared)
        optimizer.step()
    assert math.exp(rule.log_variances[0].item()) == pytest.approx(4.0, rel=1e-3)


def test_an_absent_tasks_noise_level_is_not_moved_by_momentum():
    rule = Uncertainty(["a", "b"])
    optimizer = torch.optim.Adam(rule.parameters(), lr=0.1)
    for tasks in (["a", "b"], ["a"], ["a"]):
        optimizer.zero_grad()
        losses, shared = two_losses(torch.ones(3, requires_grad=True), {"a": 9.0, "b": 9.0})
        rule.backward({t: losses[t] for t in tasks}, shared)
        before = rule.log_variances[1].item()
        optimizer.step()
        assert (rule.log_variances[1].item() != before) == ("b" in tasks)


def test_an_absent_tasks_gradient_of_an_earlier_micro_batch_stays():
    rule = Uncertainty(["a", "b"])
    losses, shared = two_losses(torch.ones(3, requires_grad=True), {"a": 9.0, "b": 9.0})
    rule.backward(losses, shared)
    kept = rule.log_variances[1].grad.clone()
    losses, shared = two_losses(torch.ones(3, requires_grad=True), {"a": 9.0, "b": 9.0})
    rule.backward({"a": losses["a"]}, shared)
    assert rule.log_variances[1].grad == kept


def test_geometric_descends_the_geometric_mean():
    start = torch.randn(5)
    feature = start.clone().requires_grad_()
    losses, shared = two_losses(feature, {"a": 1e-3, "b": 5.0, "c": 1e4})
    Geometric().backward(losses, shared)
    plain = start.clone().requires_grad_()
    again, _ = two_losses(plain, {"a": 1e-3, "b": 5.0, "c": 1e4})
    values = [scale * (plain - k).square().mean() for k, scale in enumerate((1e-3, 5.0, 1e4))]
    torch.stack(values).log().mean().exp().backward()
    torch.testing.assert_close(feature.grad, plain.grad)
    assert set(again) == {"a", "b", "c"}


def test_geometric_survives_a_loss_of_zero_and_refuses_a_negative_one():
    losses, shared = two_losses(torch.zeros(3, requires_grad=True), {"a": 1.0, "b": 1.0})
    assert losses["a"].item() == 0
    assert all(math.isfinite(weight) for weight in Geometric().backward(losses, shared).values())
    losses, shared = two_losses(torch.ones(3, requires_grad=True), {"a": -1.0})
    with pytest.raises(ValueError, match="negative"):
        Geometric().backward(losses, shared)


def test_gradnorm_brings_gradients_four_decades_apart_to_one_length():
    rule = GradNorm(["a", "b"], alpha=0.0, lr=0.05)
    for _ in range(400):
        feature = torch.tensor([3.0], requires_grad=True)
        shared = Shared(feature, ["a", "b"])
        weights = rule.backward({"a": shared["a"].sum(), "b": 1e4 * shared["b"].sum()}, shared)
        assert sum(weights.values()) == pytest.approx(2, abs=1e-4)
        assert min(weights.values()) > 0
    assert weights["a"] / weights["b"] == pytest.approx(1e4, rel=0.2)


def test_gradnorm_gives_more_to_the_task_that_learns_slower():
    rule = GradNorm(["fast", "slow"], alpha=1.0, warmup=1)
    for step in range(200):
        shared = Shared(torch.zeros(4, requires_grad=True), ["fast", "slow"])
        gradient = 1.0  # the same for both; only the height of the losses differs
        fast = gradient * shared["fast"].sum() + (1.0 if step == 0 else 0.25)
        slow = gradient * shared["slow"].sum() + (1.0 if step == 0 else 0.75)
        weights = rule.backward({"fast": fast, "slow": slow}, shared)
    # alpha = 1: targets are proportional to the relative losses, 0.25 to 0.75
    assert weights["slow"] / weights["fast"] == pytest.approx(3, rel=0.1)


def test_gradnorms_first_losses_are_the_mean_of_the_warmup():
    rule = GradNorm(["a"], warmup=2)
    for value in (2.0, 4.0, 100.0):
        shared = Shared(torch.zeros(1, requires_grad=True), ["a"])
        rule.backward({"a": shared["a"].sum() + value}, shared)
    assert rule.first_losses.tolist() == [3.0]
    assert rule.seen.tolist() == [3]


def test_gradnorm_leaves_an_absent_tasks_weight_alone():
    rule = GradNorm(TASKS)
    run(Toy(), rule)
    before = rule.weights.clone()
    run(Toy(), rule, tasks=("left", "part"))
    assert rule.weights[1] == before[1]
    assert rule.weights[0] != before[0]
    assert rule.weights.sum() == pytest.approx(3)


def test_gradnorm_measures_at_the_last_shared_layer_if_it_is_given():
    torch.manual_seed(0)
    layer = nn.Linear(1, 2, bias=False)
    # Of the features' gradients (1, 0) and (0, 1) the layer sees each times its input.
    rows = torch.tensor([[2.0], [-1.0]])
    rule = GradNorm(["a", "b"], alpha=0.0)
    shared = Shared(layer(rows), ["a", "b"])
    losses = {"a": shared["a"][0, 0], "b": shared["b"][1, 1]}
    rule.backward(losses, shared, parameters=layer.parameters())
    assert rule.weights[0] < 1 < rule.weights[1]
    assert layer.weight.grad.tolist() == [[2.0], [-1.0]]


def test_gradnorm_needs_the_names_of_its_tasks():
    with pytest.raises(ValueError, match="names"):
        GradNorm([])
