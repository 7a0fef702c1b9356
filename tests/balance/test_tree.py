"""A tree of nodes against brute force, and what the rules do on it."""

import pytest
import torch
from torch import nn
from tree_toys import (
    TREES,
    Net,
    brute_gradients,
    brute_gramians,
    by_node,
    rows_and_labels,
    run,
)

from distill_mtl.balance import MGDA, MGDAUB, GradNorm, Shared, Tree, Uniform, make_rule, solve

SHAPES = list(TREES.values())
NAMES = list(TREES)


@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
def test_gramians_are_those_of_brute_force_bit_for_bit(shape):
    net = Net(shape)
    images, labels = rows_and_labels()
    tree = net.tree(images)
    total = torch.stack([net.loss(t, tree[t], labels[t]) for t in net.tasks]).sum()
    tree.backward_heads(total, lambda loss: loss.backward())
    found, expected = tree.gramians(net.tasks), brute_gramians(net)
    assert list(found) == list(expected)
    for name, products in expected.items():
        assert torch.equal(found[name], products), name


@pytest.mark.parametrize("prefer", [[], ["a >= 2 * c", "c >= 2 * b"]], ids=["equal", "preferences"])
@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
def test_mgda_ub_gives_the_gradients_of_brute_force_bit_for_bit(shape, prefer):
    net = Net(shape)
    rule = MGDAUB(net.tasks, prefer=prefer)
    weights = by_node(run(net, rule))
    assert {name: "".join(chosen) for name, chosen in weights.items()} == net.inner()
    expected = brute_gradients(net, weights)
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter.grad, expected[name]), name


@pytest.mark.parametrize("shape", SHAPES, ids=NAMES)
def test_at_no_node_a_task_is_hurt(shape):
    net = Net(shape)
    weights = by_node(run(net, MGDAUB(normalize="none", scale=1.0)))
    for name, products in brute_gramians(net).items():
        chosen = torch.tensor(list(weights[name].values()), dtype=torch.float64)
        assert (products @ chosen >= chosen @ products @ chosen * (1 - 1e-6)).all(), name


def test_a_nodes_weights_do_not_depend_on_tasks_of_other_branches():
    shape = SHAPES[0]
    weights = by_node(run(Net(shape), MGDAUB()))
    without = by_node(run(Net(shape), MGDAUB(), tasks="abde"))
    assert weights["A"] == without["A"]
    assert weights["C"] == without["C"]
    assert set(without["B"]) == {"d", "e"}


@pytest.mark.parametrize("name", ["mgda_ub", "mgda"])
def test_scale_tasks_is_the_number_of_tasks_at_the_node(name):
    net = Net(SHAPES[0])
    weights = by_node(run(net, make_rule(name, net.tasks, normalize="none")))
    assert {n: sum(chosen.values()) for n, chosen in weights.items()} == pytest.approx(
        {n: len(tasks) for n, tasks in net.inner().items()}
    )


@pytest.mark.parametrize("rule", [MGDAUB, MGDA])
def test_preferences_hold_at_a_node_through_a_task_of_another_branch(rule):
    net = Net(SHAPES[0])
    chosen = by_node(
        run(net, rule(net.tasks, prefer=["a >= 5 * c", "c >= 4 * b"], normalize="none", scale=1.0))
    )
    assert chosen["A"]["a"] >= 20 * chosen["A"]["b"] * (1 - 1e-9)


def test_full_mgda_decides_at_every_node_on_gradients_in_its_parameters():
    net = Net(SHAPES[0])
    images, labels = rows_and_labels()
    weights = by_node(run(net, MGDA(normalize="none", scale=1.0)))
    features = net.uncut(images)
    for name, tasks in net.inner().items():
        mine = list(net.nodes[name].parameters())
        own = {}
        for task in tasks:
            path = {key: value for node in net.path(task) for key, value in features[node].items()}
            found = torch.autograd.grad(net.loss(task, path, labels[task]), mine, retain_graph=True)
            own[task] = torch.cat([g.flatten() for g in found]).double()
        stacked = torch.stack(list(own.values()))
        assert list(weights[name].values()) == pytest.approx(
            solve(stacked @ stacked.T).weights.tolist(), abs=1e-4
        )
        mixture = sum(weights[name][task] * own[task] for task in tasks)
        step = torch.cat([p.grad.flatten() for p in mine]).double()
        torch.testing.assert_close(step, mixture, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["uniform", "fixed", "uncertainty", "geometric", "gradnorm"])
@pytest.mark.parametrize("shape", SHAPES[:2], ids=NAMES[:2])
def test_loss_rules_take_the_gradient_of_their_weighted_sum(name, shape):
    net = Net(shape)
    options = {"weights": dict(zip("abcde", (1.0, 0.5, 2.0, 1.0, 3.0), strict=False))}
    options["weights"] = {t: w for t, w in options["weights"].items() if t in net.tasks}
    rule = make_rule(name, net.tasks, **(options if name == "fixed" else {}))
    weights = run(net, rule)
    assert set(weights) == set(net.tasks)
    images, labels = rows_and_labels()
    features = net.uncut(images)
    total = sum(
        weights[t] * net.loss(t, {k: v for n in net.path(t) for k, v in features[n].items()}, labels[t])
        for t in net.tasks
    )
    expected = torch.autograd.grad(total, list(net.parameters()))
    for parameter, gradient in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


def passes(net: Net, rule) -> dict[str, int]:
    """Backward passes through the last layer of each node in one step of `rule`."""
    counts = dict.fromkeys(net.nodes, 0)

    def count(name):
        def hook(module, inputs, output):
            output.register_hook(lambda gradient: counts.update({name: counts[name] + 1}))

        return hook

    handles = [module[1][0].register_forward_hook(count(name)) for name, module in net.nodes.items()]
    run(net, rule)
    for handle in handles:
        handle.remove()
    return counts


def test_the_first_node_and_nodes_of_one_task_take_no_extra_pass():
    assert passes(Net(SHAPES[1]), MGDAUB()) == {"root": 1, "a": 1, "b": 1, "b2": 1}
    assert passes(Net(SHAPES[0]), MGDAUB()) == {"root": 1, "A": 3, "B": 4, "C": 3}
    assert passes(Net(SHAPES[0]), Uniform()) == {"root": 1, "A": 1, "B": 1, "C": 1}


def test_diagnostics_are_by_node_and_harm_is_that_of_the_whole_step():
    net, rule = Net(SHAPES[0]), Uniform()
    rule.measure_harm = True
    run(net, rule, factor=256.0)
    products = brute_gramians(net)["C"]
    cosine = products[0, 1] / (products[0, 0] * products[1, 1]).sqrt()
    assert rule.diagnostics.cosines["C/d/e"] == pytest.approx(cosine.item(), abs=1e-6)
    assert set(rule.diagnostics.cosines) >= {"root/a/b", "A/a/b", "B/c/d", "C/d/e"}
    images, labels = rows_and_labels()
    features = net.uncut(images)
    shared = [p for name in net.inner() for p in net.nodes[name].parameters()]
    hurt = 0
    for task in net.tasks:
        path = {key: value for node in net.path(task) for key, value in features[node].items()}
        own = torch.autograd.grad(
            net.loss(task, path, labels[task]), shared, retain_graph=True, allow_unused=True
        )
        along = sum((p.grad * g).sum() for p, g in zip(shared, own, strict=True) if g is not None)
        hurt += bool(along < 0)
    assert rule.diagnostics.harmed == pytest.approx(hurt / len(net.tasks))


def test_a_rule_that_weights_losses_knows_cosines_where_they_cost_nothing():
    net, rule = Net(SHAPES[0]), Uniform()
    run(net, rule)
    assert set(rule.diagnostics.cosines) == {"A/a/b", "C/d/e"}
    assert rule.diagnostics.norm is None


def test_weights_do_not_depend_on_the_loss_scale():
    first, second = (run(Net(SHAPES[0]), MGDAUB(), factor=factor) for factor in (1.0, 1024.0))
    assert first == second


def test_a_branch_without_present_tasks_has_no_gradient():
    net = Net(SHAPES[0])
    weights = by_node(run(net, MGDAUB(), tasks="abc"))
    assert set(weights) == {"root", "A", "B"}
    assert all(p.grad is None for p in net.nodes["C"].parameters())


def test_a_trunk_is_a_tree_of_one_node():
    body, heads = nn.Linear(3, 4), nn.ModuleDict({t: nn.Linear(4, 1) for t in "ab"})
    images = torch.randn(6, 3)
    found = []
    for cut in (Shared(body(images), "ab"), one_node(body, images)):
        body.zero_grad()
        read = {t: cut[t] if isinstance(cut, Shared) else cut[t]["root"] for t in "ab"}
        weights = MGDAUB().backward({t: heads[t](read[t]).square().sum() for t in "ab"}, cut)
        found.append(([*weights.values()], body.weight.grad.clone()))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def one_node(body, images) -> Tree:
    tree = Tree("ab")
    tree.add("root", "ab", body, inputs=images)
    return tree


def test_nothing_is_passed_on_to_a_node_that_does_not_train():
    net = Net(SHAPES[0])
    net.nodes["root"].requires_grad_(False)
    weights = by_node(run(net, MGDAUB()))
    assert set(weights) == {"A", "B", "C"}
    assert all(p.grad is not None for p in net.nodes["C"].parameters())


def test_a_node_that_does_not_train_passes_gradients_on():
    net, other = Net(SHAPES[0]), Net(SHAPES[0])
    other.nodes["B"].requires_grad_(False)
    run(net, MGDAUB())
    run(other, MGDAUB())
    for one, two in zip(net.nodes["root"].parameters(), other.nodes["root"].parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)


def columns() -> Tree:
    tree = Tree("ab")
    for task in "ab":
        tree.add(task, task, nn.Linear(3, 4), inputs=torch.ones(2, 3))
    return tree


def test_rules_that_compare_features_refuse_tasks_that_read_no_common_one():
    for rule, words in ((MGDAUB(), "no two tasks"), (GradNorm("ab"), "all tasks read")):
        tree = columns()
        with pytest.raises(ValueError, match=words):
            rule.backward({t: tree[t][t].sum() for t in "ab"}, tree)
    tree = columns()
    assert set(Uniform().backward({t: tree[t][t].sum() for t in "ab"}, tree)) == {"a", "b"}


def test_full_mgda_balances_common_parameters_of_separate_passes():
    common, tree = nn.Linear(3, 4), Tree("ab")
    for task in "ab":
        tree.add(task, task, common, inputs=torch.randn(2, 3))
    losses = {t: tree[t][t].square().sum() for t in "ab"}
    weights = MGDA("ab").backward(losses, tree, parameters=common.parameters())
    assert set(weights) == {"a", "b"}
    assert common.weight.grad is not None


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (("root", "ab", None), "two nodes named"),
        (("x", "ab", "nowhere"), "not computed yet"),
        (("x", "", "root"), "may have those"),
        (("x", "ad", "root"), "may have those"),
        (("x", "abc", "root"), "one node"),
        (("x", "bc", "root"), "runs through"),
    ],
)
def test_a_node_that_makes_no_tree_is_refused(node, words):
    tree = Tree("abcd")
    tree.add("root", "abc", nn.Linear(3, 4), inputs=torch.ones(2, 3))
    tree.add("own", "ab", nn.Linear(4, 4), parent="root")
    name, tasks, parent = node
    with pytest.raises(ValueError, match=words):
        tree.add(name, tasks, nn.Linear(4, 4), parent=parent, inputs=torch.ones(2, 3))


def test_two_features_of_one_name_on_a_path_are_refused():
    tree = Tree("ab")
    tree.add("root", "ab", lambda x: {"map": x}, inputs=torch.ones(2, 3))
    tree.add("own", "a", lambda f: {"map": f["map"] * 2}, parent="root")
    with pytest.raises(ValueError, match="a feature named 'map'"):
        tree["a"]
