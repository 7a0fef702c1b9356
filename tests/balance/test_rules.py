"""What holds for every rule."""

import copy

import pytest
import torch
from balance_toys import RULES, TASKS, Toy, gradients, rows_and_labels, rule_for, run
from torch import nn
from torch.utils.checkpoint import checkpoint

from distill_mtl.balance import Shared, make_rule, rule_class, rule_names
from distill_mtl.balance.rule import Diagnostics

every_rule = pytest.mark.parametrize("name", RULES)
LOSS_RULES = ("uniform", "fixed", "gradnorm", "uncertainty", "geometric")


def test_every_rule_is_tested_here():
    assert {name.partition(":")[0] for name in RULES} == {name.rstrip(":") for name in rule_names()}


@every_rule
def test_weights_come_by_name_and_every_gradient_is_filled(name):
    net, rule = Toy(), rule_for(name)
    weights = run(net, rule)
    assert set(weights) == set(TASKS)
    assert all(weight >= 0 for weight in weights.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@every_rule
def test_a_head_keeps_its_own_gradient_unless_the_rule_weights_losses(name):
    net, rule = Toy(), rule_for(name)
    weights = run(net, rule)
    plain = Toy()
    rows, labels = rows_and_labels()
    for task in TASKS:
        plain.loss(task, plain.features(rows), labels[task]).backward()
        factor = weights[task] if name in LOSS_RULES else 1.0
        for found, own in zip(net.heads[task].parameters(), plain.heads[task].parameters(), strict=True):
            torch.testing.assert_close(found.grad, factor * own.grad)


@every_rule
def test_the_trunk_gets_the_weighted_sum_of_the_tasks_gradients(name):
    net, rule = Toy(), rule_for(name)
    weights = run(net, rule)
    plain = Toy()
    rows, labels = rows_and_labels()
    features = plain.features(rows)
    total = sum(weights[task] * plain.loss(task, features, labels[task]) for task in TASKS)
    expected = torch.autograd.grad(total, plain.trunk_parameters())
    for found, own in zip(net.trunk_parameters(), expected, strict=True):
        torch.testing.assert_close(found.grad, own, rtol=1e-4, atol=1e-7)


@every_rule
def test_an_absent_task_is_as_if_it_did_not_exist(name):
    net, rule = Toy(), rule_for(name)
    weights = run(net, rule, tasks=("left", "part"))
    smaller, options = Toy(), dict(RULES[name])
    if name == "fixed":
        options["weights"] = {"left": 1.0, "part": 2.0}
    alone = make_rule(name, ["left", "part"], **options)
    rows, labels = rows_and_labels()
    shared = Shared(smaller.features(rows), ["left", "part"])
    losses = {task: smaller.loss(task, shared[task], labels[task]) for task in ("left", "part")}
    assert weights == pytest.approx(alone.backward(losses, shared))
    assert all(p.grad is None for p in net.heads["right"].parameters())
    if name == "uncertainty":
        assert [log.grad is None for log in rule.log_variances] == [False, True, False]
    for found, own in zip(net.trunk_parameters(), smaller.trunk_parameters(), strict=True):
        torch.testing.assert_close(found.grad, own.grad)


@every_rule
def test_a_gradient_scalers_factor_changes_no_weight(name):
    plain, scaled = Toy(), Toy()
    rules = rule_for(name), rule_for(name)
    for seed in (1, 2, 3):
        assert run(scaled, rules[1], seed, factor=65536.0) == pytest.approx(run(plain, rules[0], seed))
    for one, other in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(65536 * one.grad, other.grad)
    assert rules[0].diagnostics.norm == pytest.approx(rules[1].diagnostics.norm)


@every_rule
def test_gradients_accumulate(name):
    net, rule = Toy(), rule_for(name)
    run(net, rule, seed=1)
    first = gradients(net)
    net.zero_grad()
    run(net, rule, seed=2)
    second = gradients(net)
    net.zero_grad()
    fresh = rule_for(name)
    run(net, fresh, seed=1)
    run(net, fresh, seed=2)
    for key, value in gradients(net).items():
        torch.testing.assert_close(value, first[key] + second[key])


@every_rule
def test_diagnostics_have_the_cosines_and_the_norm_of_the_direction(name):
    net, rule = Toy(), rule_for(name)
    run(net, rule)
    assert set(rule.diagnostics.cosines) == {"left/right", "left/part", "right/part"}
    assert all(-1 <= cosine <= 1 for cosine in rule.diagnostics.cosines.values())
    assert rule.diagnostics.norm > 0


@every_rule
def test_a_step_without_diagnostics_is_the_same_step(name):
    nets, rules = (Toy(), Toy()), (rule_for(name), rule_for(name))
    rules[1].diagnose = False
    weights = [run(net, rule) for net, rule in zip(nets, rules, strict=True)]
    assert weights[0] == weights[1]
    assert rules[1].diagnostics == Diagnostics()
    assert all(map(torch.equal, gradients(nets[0]).values(), gradients(nets[1]).values()))


@every_rule
def test_activation_checkpointing_changes_nothing(name):
    class Checkpointed(Toy):
        def features(self, rows):
            middle = checkpoint(self.first, rows, use_reentrant=False)
            return {"middle": middle, "last": checkpoint(self.second, middle, use_reentrant=False)}

    plain, saved = Toy(), Checkpointed()
    assert run(saved, rule_for(name)) == pytest.approx(run(plain, rule_for(name)))
    for one, other in zip(plain.parameters(), saved.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@every_rule
def test_a_run_that_is_cut_and_resumed_ends_bit_identical(name, tmp_path):
    def start():
        net, rule = Toy(), rule_for(name)
        both = nn.ModuleDict({"net": net, "rule": rule})
        return both, torch.optim.Adam(both.parameters(), lr=0.01)

    def steps(both, optimizer, seeds):
        for seed in seeds:
            optimizer.zero_grad()
            run(both["net"], both["rule"], seed)
            optimizer.step()

    whole, optimizer = start()
    steps(whole, optimizer, range(12))
    cut, optimizer = start()
    steps(cut, optimizer, range(6))
    torch.save((cut.state_dict(), optimizer.state_dict()), tmp_path / "state")
    resumed, optimizer = start()
    network, moments = torch.load(tmp_path / "state", weights_only=True)
    resumed.load_state_dict(network)
    optimizer.load_state_dict(moments)
    steps(resumed, optimizer, range(6, 12))
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


@every_rule
def test_gradients_that_overflow_give_finite_weights(name):
    net, rule = Toy(), rule_for(name)
    run(net, rule)
    before = copy.deepcopy(rule.state_dict())
    weights = run(net, rule, factor=float("inf"))
    assert all(0 <= weight < float("inf") for weight in weights.values())
    assert rule.diagnostics.norm is None
    assert rule.diagnostics.cosines == {}
    assert all(torch.equal(value, before[key]) for key, value in rule.state_dict().items())


@every_rule
def test_losses_of_one_element_are_scalars_enough(name):
    net = Toy()
    rows, labels = rows_and_labels()
    shared = Shared(net.features(rows), TASKS)
    losses = {task: net.loss(task, shared[task], labels[task]).reshape(1) for task in TASKS}
    assert set(rule_for(name).backward(losses, shared)) == set(TASKS)


@every_rule
def test_a_single_task_is_trained_as_by_itself(name):
    net = Toy()
    rows, labels = rows_and_labels()
    shared = Shared(net.features(rows), ["left"])
    options = {"weights": {"left": 1.0}} if name == "fixed" else {}
    rule = make_rule(name, ["left"], **options)
    weights = rule.backward({"left": net.loss("left", shared["left"], labels["left"])}, shared)
    assert weights == {"left": pytest.approx(1.0)}
    assert rule.diagnostics.cosines == {}


@every_rule
def test_no_losses_and_unknown_tasks_are_refused(name):
    net, rule = Toy(), rule_for(name)
    shared = Shared(net.features(rows_and_labels()[0]), TASKS)
    with pytest.raises(ValueError, match="no task has a loss"):
        rule.backward({}, shared)
    with pytest.raises(ValueError, match="depth"):
        rule.backward({"depth": torch.zeros(())}, shared)


@pytest.mark.parametrize("name", ["uniform", "fixed", "uncertainty", "geometric"])
def test_loss_rules_do_without_a_cut(name):
    net, cut, rule = Toy(), Toy(), rule_for(name)
    rows, labels = rows_and_labels()
    features = net.features(rows)
    weights = rule.backward({task: net.loss(task, features, labels[task]) for task in TASKS}, None)
    assert weights == pytest.approx(run(cut, rule_for(name)))
    assert rule.diagnostics.norm is None
    for one, other in zip(net.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("name", ["mgda_ub", "gradnorm", "torchjd:UPGrad"])
def test_rules_that_need_a_cut_say_so(name):
    with pytest.raises(ValueError, match="shared"):
        rule_for(name).backward({"left": torch.zeros((), requires_grad=True)}, None)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("mgda-ub", {}, "Did you mean 'mgda_ub'"),
        ("no such rule", {}, "Known: fixed, geometric"),
        ("torchjd:UPGard", {}, "Did you mean 'torchjd:UPGrad'"),
        ("torchjd:GradVac", {}, "Known: AlignedMTL"),
        ("torchjd:", {}, "unknown balancing rule"),
        ("torchjd:UPGrad", {"nrm": 1}, "nrm"),
        ("mgda_ub", {"normalise": "l2"}, "Did you mean 'normalize'"),
        ("mgda_ub", {"normalize": "l3"}, "normalize is one of"),
        ("mgda_ub", {"scale": 0}, "scale"),
        ("mgda", {"method": "newton"}, "method is one of"),
        ("mgda", {"prefer": ["left >= 2 * depth"]}, "depth"),
        ("fixed", {}, "weights"),
        ("fixed", {"weights": {"left": 1, "right": 1}}, r"without a weight: \['part'\]"),
        ("fixed", {"weights": {"left": 1, "right": 1, "part": -1}}, "not negative"),
        ("gradnorm", {"lr": 2}, "lr"),
        ("uncertainty", {"likelihoods": {"depth": "gaussian"}}, "depth"),
        ("uncertainty", {"likelihoods": {"part": "poisson"}}, "poisson"),
    ],
)
def test_an_unknown_name_or_a_wrong_option_is_refused(name, options, words):
    with pytest.raises(ValueError, match=words):
        make_rule(name, TASKS, **options)


def test_what_a_rule_needs_is_known_before_it_is_made():
    assert rule_class("mgda_ub").needs_coverage
    assert rule_class("torchjd:CAGrad").needs_coverage
    assert not rule_class("mgda").needs_coverage
