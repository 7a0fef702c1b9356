"""MGDA-UB against the two-pass original, and the options of rules on Gramians."""

import math
import sys

import pytest
import torch
from balance_toys import TASKS, Toy, feature_gradients, rows_and_labels, run, task_gradients
from torch import nn

from distill_mtl.balance import MGDAUB, Shared, Weighting, make_rule, solve


def test_one_pass_gives_the_weights_of_the_original_two_passes():
    rule = MGDAUB(normalize="none", scale=1.0)
    weights = run(Toy(), rule)
    stacked = torch.stack([feature_gradients(Toy())[task] for task in TASKS])
    assert list(weights.values()) == pytest.approx(solve(stacked @ stacked.T).weights.tolist(), abs=1e-6)
    assert rule.diagnostics.norm == pytest.approx(
        (torch.tensor(list(weights.values())).double() @ stacked).norm()
    )


def test_cosines_are_those_of_the_features_gradients():
    rule = MGDAUB()
    run(Toy(), rule)
    found = feature_gradients(Toy())
    cosine = nn.functional.cosine_similarity(found["left"], found["part"], dim=0)
    assert rule.diagnostics.cosines["left/part"] == pytest.approx(cosine.item(), abs=1e-6)


@pytest.mark.parametrize("normalize", ["l2", "loss", "loss+"])
def test_normalisation_scales_what_is_combined(normalize):
    rule = MGDAUB(normalize=normalize, scale=1.0)
    weights = run(Toy(), rule)
    gradients = torch.stack([feature_gradients(Toy())[task] for task in TASKS])
    sizes = torch.ones(3).double()
    if "loss" in normalize:
        sizes = sizes * losses_of(Toy())
    if normalize != "loss":
        sizes = sizes * gradients.norm(dim=1)
    share = sizes.log().mean().exp() / sizes
    scaled = gradients * share[:, None]
    solved = solve(scaled @ scaled.T).weights
    direction = torch.tensor([weights[t] for t in TASKS]).double() @ gradients
    torch.testing.assert_close(direction, solved @ scaled, rtol=1e-4, atol=1e-7)
    assert (scaled @ direction > 0).all()


def losses_of(net):
    rows, labels = rows_and_labels()
    features = net.features(rows)
    return torch.stack([net.loss(t, features, labels[t]).detach() for t in TASKS]).double()


@pytest.mark.parametrize("name", ["uniform", "mgda_ub", "mgda", "geometric"])
def test_harm_is_measured_on_request_against_gradients_of_the_parameters(name):
    net, rule = Toy(), make_rule(name, TASKS)
    run(net, rule)
    assert rule.diagnostics.harmed is None
    net.zero_grad()
    rule.measure_harm = True
    run(net, rule, factor=512.0)
    step = torch.cat([p.grad.flatten() for p in net.trunk_parameters()])
    own = task_gradients(net, net.trunk_parameters())
    products = [float(torch.cat([g.flatten() for g in own[task]]) @ step) for task in TASKS]
    assert rule.diagnostics.harmed == pytest.approx(sum(product < 0 for product in products) / 3)


def test_normalised_weights_do_not_depend_on_the_units_of_a_loss():
    torch.manual_seed(0)
    z = torch.randn(4, 5)

    def direction(unit: float) -> torch.Tensor:
        feature = z.clone().requires_grad_()
        shared = Shared(feature, ["a", "b"])
        losses = {"a": shared["a"].square().sum(), "b": unit * (shared["b"] - 3).square().sum()}
        MGDAUB(normalize="l2").backward(losses, shared)
        return nn.functional.normalize(feature.grad, dim=(0, 1))

    torch.testing.assert_close(direction(1.0), direction(1e4), rtol=1e-4, atol=1e-6)


def test_scale_multiplies_the_weights():
    one, many, half = (run(Toy(), MGDAUB(normalize="none", scale=scale)) for scale in (1.0, "tasks", 0.5))
    assert sum(one.values()) == pytest.approx(1)
    assert sum(many.values()) == pytest.approx(3)
    assert sum(half.values()) == pytest.approx(0.5)


def test_preferences_hold_and_drop_with_an_absent_task():
    rule = MGDAUB(TASKS, normalize="none", prefer=["right >= 2 * left", "right >= part"], scale=1.0)
    weights = run(Toy(), rule)
    assert weights["right"] >= 2 * weights["left"] - 1e-12
    assert weights["right"] >= weights["part"] - 1e-12
    free = run(Toy(), MGDAUB(normalize="none", scale=1.0), tasks=("left", "part"))
    assert run(Toy(), rule, tasks=("left", "part")) == pytest.approx(free)


def test_one_preference_may_stand_without_a_list():
    weights = run(Toy(), MGDAUB(TASKS, normalize="none", prefer="right >= left"))
    assert weights["right"] >= weights["left"] - 1e-12


def test_a_task_at_rest_does_not_stop_the_others():
    feature = torch.randn(3, 4, requires_grad=True)
    shared = Shared(feature, ["done", "a", "b"])
    losses = {
        "done": 0 * shared["done"].sum(),
        "a": shared["a"].square().sum(),
        "b": (shared["b"] - 1).square().sum(),
    }
    weights = MGDAUB(normalize="none", scale=1.0).backward(losses, shared)
    assert weights["done"] == 0
    assert weights["a"] + weights["b"] == pytest.approx(1)
    assert feature.grad.abs().sum() > 0


def test_when_all_tasks_are_at_rest_the_trunk_rests():
    feature = torch.randn(3, 4, requires_grad=True)
    shared = Shared(feature, ["a", "b"])
    rule = MGDAUB()
    weights = rule.backward({t: 0 * shared[t].sum() for t in ("a", "b")}, shared)
    assert weights == {"a": 0, "b": 0}
    assert feature.grad.abs().sum() == 0
    assert rule.diagnostics.norm == 0


def test_a_callable_chooses_from_the_gramian():
    seen = []

    def by_length(gramian):
        seen.append(gramian)
        return 1 / gramian.diagonal().sqrt()

    weights = run(Toy(), Weighting(by_length))
    gradients = feature_gradients(Toy())
    assert weights == pytest.approx({t: 1 / gradients[t].norm().item() for t in TASKS}, rel=1e-4)
    assert seen[0].dtype == torch.float64


@pytest.mark.parametrize("answer", [torch.ones(2), torch.tensor([1.0, math.nan, 1.0])])
def test_a_callable_that_gives_no_weights_is_stopped(answer):
    with pytest.raises(ValueError, match="3 finite numbers"):
        run(Toy(), Weighting(lambda gramian: answer))


def test_torchjd_is_asked_for_by_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(ImportError, match=r"pip install 'distill_mtl\[torchjd\]'"):
        make_rule("torchjd:UPGrad", TASKS)


def test_torchjd_sees_the_gramian_of_the_features():
    from torchjd.aggregation import UPGradWeighting

    weights = run(Toy(), make_rule("torchjd:UPGrad", TASKS))
    stacked = torch.stack([feature_gradients(Toy())[task] for task in TASKS])
    assert list(weights.values()) == pytest.approx(UPGradWeighting()(stacked @ stacked.T).tolist(), rel=1e-3)


@pytest.mark.parametrize("name", ["AlignedMTL", "DualProj", "IMTLG", "MGDA", "PCGrad"])
def test_torchjds_other_weightings_run(name):
    assert set(run(Toy(), make_rule(f"torchjd:{name}", TASKS))) == set(TASKS)


def test_cagrad_runs_where_its_solver_is_installed():
    pytest.importorskip("cvxpy")
    assert set(run(Toy(), make_rule("torchjd:CAGrad", TASKS, c=0.5))) == set(TASKS)


def test_torchjds_options_are_passed_on():
    with pytest.raises(ValueError, match="epsilon"):
        make_rule("torchjd:MGDA", TASKS, epsilon=-1)
