"""Trees within a budget: all of them compared with a list of all of them."""

import itertools
import random

import pytest

from distill_mtl.training.branching.search import TaskTree, best_trees, lost_by


def partitions(items):
    if not items:
        yield ()
        return
    first, *rest = items
    for part in partitions(rest):
        yield ((first,), *part)
        for k in range(len(part)):
            yield (*part[:k], (first, *part[k]), *part[k + 1 :])


def refines(fine, coarse):
    return all(any(set(a) <= set(b) for b in coarse) for a in fine)


def losses(tasks, depths, seed):
    """A random loss that grows with the group."""
    generator = random.Random(seed)
    pairs = {
        (d, a, b): generator.random() for d in range(depths) for a, b in itertools.combinations(tasks, 2)
    }
    return lambda depth, group: sum(pairs[depth, a, b] for a, b in itertools.combinations(group, 2))


@pytest.mark.parametrize("seed", range(3))
def test_no_tree_within_the_budget_is_better(seed):
    tasks, sizes, budget = "abcd", (2.0, 1.0, 3.0), 2.0
    loss = losses(tasks, 3, seed)
    every = []
    for second, third in itertools.product(list(partitions(tasks)), repeat=2):
        if refines(third, second):
            groups = ((tuple(tasks),), second, third)
            size = sum(s * len(g) for s, g in zip(sizes, groups, strict=True)) / sum(sizes)
            every.append((size, sum(loss(d, g) for d in range(3) for g in groups[d])))
    expected = []
    for size, lost in sorted(every):
        if size <= budget + 1e-9 and (not expected or lost < expected[-1][1] - 1e-12):
            expected.append((size, lost))
    found = best_trees(tasks, sizes, loss, budget)
    assert [(tree.size, tree.loss) for tree in found] == [pytest.approx(pair) for pair in expected]
    for tree in found:
        assert all(refines(fine, coarse) for coarse, fine in itertools.pairwise(tree.groups))
        assert all(sorted(t for g in groups for t in g) == list(tasks) for groups in tree.groups)


def test_a_tree_loses_what_its_groups_lose():
    def loss(depth, group):
        return depth * (len(group) - 1)

    assert lost_by(((("a", "b", "c"),), (("a",), ("b", "c"))), loss) == 1


def test_the_trunk_comes_first_and_separate_networks_behind_the_first_stage_last():
    found = best_trees("abc", (1.0, 1.0), lambda depth, group: len(group) - 1.0, 5)
    assert found[0].groups == ((("a", "b", "c"),),) * 2
    assert found[0].size == 1
    assert found[-1].groups[1] == (("a",), ("b",), ("c",))


def test_of_many_tasks_those_that_are_alike_stay_together():
    tasks = [f"t{k}" for k in range(10)]
    together = {"t0", "t1", "t2"}
    loss = lambda depth, group: 0.0 if set(group) <= together else len(group) - 1.0  # noqa: E731
    last = best_trees(tasks, (1.0, 1.0), loss, 10)[-1]
    assert tuple(sorted(together)) in last.groups[1]
    assert len(last.groups[1]) == 8


def test_eight_tasks_are_searched_whole():
    tasks = "abcdefgh"
    found = best_trees(tasks, (1.0,) * 4, losses(tasks, 4, 0), 2.0)
    assert found[-1].size <= 2


def test_branches_are_named_where_the_groups_change():
    tree = TaskTree(((("a", "b"),), (("a", "b"),), (("a",), ("b",)), (("a",), ("b",))), 1.5, 0.0)
    assert tree.branches(["one", "two", "three", "four"]) == {"three": [["a"], ["b"]]}
