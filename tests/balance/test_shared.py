"""The cut between trunk and heads: forms, gradients, Gramian, and the awkward features."""

import pytest
import torch
from torch import nn

from distill_mtl.balance import Shared

TASKS = ["a", "b"]


def test_copies_have_the_form_of_the_features():
    one, other = torch.randn(2, 3), torch.randn(2, 4)
    assert torch.equal(Shared(one, TASKS)["a"], one)
    named = Shared({"stage": one, "last": other}, TASKS)["a"]
    assert list(named) == ["stage", "last"]
    assert torch.equal(named["last"], other)
    listed = Shared([one, other], TASKS)["b"]
    assert isinstance(listed, list)
    assert torch.equal(listed[1], other)


def test_a_task_always_gets_the_same_copies_and_no_other_task_does():
    shared = Shared({"z": torch.randn(2, 3)}, TASKS)
    assert shared["a"] is shared["a"]
    assert shared["a"]["z"] is not shared["b"]["z"]
    assert shared["a"]["z"].requires_grad


def test_what_is_no_feature_or_no_task_is_refused():
    with pytest.raises(ValueError, match="at least one tensor"):
        Shared({}, TASKS)
    with pytest.raises(ValueError, match="must differ"):
        Shared(torch.zeros(1), ["a", "a"])
    with pytest.raises(KeyError, match="none of the tasks"):
        Shared(torch.zeros(1), TASKS)["c"]


def test_a_head_that_writes_into_the_features_is_stopped():
    shared = Shared(torch.randn(2, 3, requires_grad=True) * 1, TASKS)
    with pytest.raises(RuntimeError, match="in-place"):
        torch.relu_(shared["a"])


def two_features():
    torch.manual_seed(0)
    first, second = nn.Linear(3, 4), nn.Linear(4, 5)
    middle = first(torch.randn(6, 3))
    return first, second, {"middle": middle, "last": second(middle)}


def test_the_gramian_is_that_of_the_stacked_gradients_without_the_loss_scale():
    _, _, features = two_features()
    shared = Shared(features, TASKS)
    total = shared["a"]["last"].square().sum() + shared["b"]["last"].sum() + shared["b"]["middle"].cos().sum()
    shared.backward_heads(total, lambda loss: (loss * 1024).backward())
    stacked = torch.stack([torch.cat([g.flatten() for g in shared.gradients(t)]) for t in TASKS]).double()
    assert shared.gramian(TASKS) == pytest.approx(stacked @ stacked.T / 1024**2)
    assert shared.gramian(["b"]).shape == (1, 1)


def test_a_feature_that_a_task_does_not_use_has_a_zero_gradient():
    _, _, features = two_features()
    shared = Shared(features, TASKS)
    shared.backward_heads(shared["a"]["last"].sum(), torch.Tensor.backward)
    assert [g.abs().sum().item() for g in shared.gradients("a")] == [0, 30]
    assert shared.gradients("b")[1].shape == (6, 5)
    assert shared.gramian(TASKS).tolist() == [[30, 0], [0, 0]]


def test_the_trunk_gets_the_weighted_sum_of_the_gradients():
    first, second, features = two_features()
    shared = Shared(features, TASKS)
    total = shared["a"]["last"].square().sum() + 3 * shared["b"]["middle"].sum()
    shared.backward_heads(total, torch.Tensor.backward)
    assert first.weight.grad is None
    shared.backward({"a": 0.25, "b": 2.0})
    found = [p.grad.clone() for p in (*first.parameters(), *second.parameters())]
    first.zero_grad(), second.zero_grad()
    _, _, again = two_features()
    expected = torch.autograd.grad(
        0.25 * features_loss(again, "a") + 2.0 * features_loss(again, "b"),
        list(_parameters(again)),
        allow_unused=True,
    )
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def features_loss(features, task):
    return features["last"].square().sum() if task == "a" else 3 * features["middle"].sum()


def _parameters(features):
    leaves = Shared(features, TASKS).leaves()
    return sorted(leaves, key=lambda p: [(4, 3), (4,), (5, 4), (5,)].index(tuple(p.shape)))


def test_the_leaves_are_the_trunks_parameters():
    first, second, features = two_features()
    expected = {id(p) for p in (*first.parameters(), *second.parameters())}
    assert {id(p) for p in Shared(features, TASKS).leaves()} == expected
    theta = nn.Parameter(torch.zeros(2))
    assert Shared(theta, TASKS).leaves()[0] is theta


def test_features_of_a_frozen_trunk_end_the_backward_pass_there():
    frozen, trained = torch.randn(2, 3), torch.randn(2, 3, requires_grad=True)
    shared = Shared([frozen, trained, torch.arange(2)], TASKS)
    total = sum(shared[t][0].sum() + shared[t][1].sum() for t in TASKS)
    shared.backward_heads(total, torch.Tensor.backward)
    shared.backward({"a": 1.0, "b": 2.0})
    assert trained.grad.tolist() == [[3.0] * 3] * 2
    assert frozen.grad is None
    assert shared.gramian(TASKS).tolist() == [[12, 12], [12, 12]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gradients_do_not_overflow(dtype):
    feature = torch.zeros(100, dtype=dtype, requires_grad=True)
    shared = Shared(feature, TASKS)
    total = (shared["a"] * 30000).float().sum() + (shared["b"] * 2).float().sum()
    shared.backward_heads(total, torch.Tensor.backward)
    large = float(torch.tensor(30000, dtype=dtype))
    assert shared.gramian(TASKS).tolist() == [[100 * large**2, 200 * large], [200 * large, 400]]
    shared.backward({"a": 2 / large, "b": 1.0})
    assert feature.grad.dtype == dtype
    assert feature.grad.tolist() == [4.0] * 100


def test_the_layout_of_memory_does_not_change_the_gramian():
    feature = torch.randn(2, 3, 4, 5, requires_grad=True)
    shared = Shared(feature, TASKS)
    weight = torch.randn(2, 3, 4, 5)
    total = (shared["a"] * weight).sum() + (shared["b"] * weight.to(memory_format=torch.channels_last)).sum()
    shared.backward_heads(total, torch.Tensor.backward)
    assert shared.gramian(TASKS) == pytest.approx(torch.full((2, 2), weight.double().square().sum().item()))


def test_gradients_larger_than_a_block_are_summed_whole(monkeypatch):
    from distill_mtl.balance import gramian

    monkeypatch.setattr(gramian, "BLOCK_IN_CACHE", 14)
    rows = [[torch.randn(5, 5), None], [torch.randn(5, 5), torch.randn(3)]]
    a, b = rows[0][0].double(), rows[1][0].double()
    expected = [
        [(a * a).sum(), (a * b).sum()],
        [(a * b).sum(), (b * b).sum() + rows[1][1].double().square().sum()],
    ]
    assert gramian.gramian(rows) == pytest.approx(torch.tensor(expected))
