"""Preferences between tasks: against Clarabel, and what is refused."""

import clarabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from distill_mtl.balance import solve
from distill_mtl.balance.preferences import Bound, among, parse_preferences

SETTINGS = settings(max_examples=60, deadline=None)


@st.composite
def problems(draw, per_task: int, largest: int = 8):
    """A Gramian and acyclic bounds, at most `per_task` for each task."""
    tasks = draw(st.integers(2, largest))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    gradients = rng.standard_normal((tasks, draw(st.sampled_from([3, 3 * tasks])))) + 0.3
    gradients *= 10 ** rng.uniform(-1, 1, (tasks, 1))
    order = rng.permutation(tasks)
    bounds = []
    for k in range(1, tasks):
        for other in rng.choice(k, min(k, int(rng.integers(0, per_task + 1))), replace=False):
            bounds.append((int(order[k]), float(rng.choice([0.5, 1.0, 2.0, 3.0])), int(order[other])))
    return gradients, bounds


def reference_norm(gradients: np.ndarray, bounds) -> float:
    """An interior point method on the gradients' second-order cone, not on their products."""
    tasks = len(gradients)
    scale = np.linalg.norm(gradients, axis=1).max()
    rows = [-np.eye(tasks)[i] + c * np.eye(tasks)[j] for i, c, j in bounds] + list(-np.eye(tasks))
    size = gradients.shape[1]
    # min t subject to |Gᵀλ| ≤ t, Σλ = 1, rows·λ ≤ 0
    equal = np.hstack([np.ones((1, tasks)), np.zeros((1, 1))])
    below = np.hstack([np.array(rows), np.zeros((len(rows), 1))])
    cone = np.vstack([np.eye(tasks + 1)[-1:] * -1, np.hstack([-(gradients / scale).T, np.zeros((size, 1))])])
    settings_ = clarabel.DefaultSettings()
    settings_.verbose = False
    settings_.tol_gap_abs = settings_.tol_gap_rel = settings_.tol_feas = 1e-12
    answer = clarabel.DefaultSolver(
        sparse.csc_matrix((tasks + 1, tasks + 1)),
        np.eye(tasks + 1)[-1],
        sparse.csc_matrix(np.vstack([equal, below, cone])),
        np.concatenate([[1.0], np.zeros(len(rows) + size + 1)]),
        [clarabel.ZeroConeT(1), clarabel.NonnegativeConeT(len(rows)), clarabel.SecondOrderConeT(size + 1)],
        settings_,
    ).solve()
    return answer.obj_val * scale


def check(gradients, bounds):
    found = solve(gradients @ gradients.T, preferences=bounds)
    weights = found.weights.numpy()
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1)
    for i, factor, j in bounds:
        assert weights[i] >= factor * weights[j] * (1 - 1e-9) - 1e-12
    largest = np.linalg.norm(gradients, axis=1).max()
    assert np.linalg.norm(weights @ gradients) == pytest.approx(
        reference_norm(gradients, bounds), rel=1e-5, abs=1e-6 * largest
    )
    if found.norm > 1e-2 * largest:
        assert found.residual <= 1e-9


@given(problems(per_task=1))
@SETTINGS
def test_one_bound_per_task_agrees_with_clarabel(problem):
    check(*problem)


@given(problems(per_task=3))
@SETTINGS
def test_several_bounds_per_task_agree_with_clarabel(problem):
    check(*problem)


def test_a_bound_that_already_holds_changes_nothing():
    products = np.diag([1.0, 4.0])
    free, bound = solve(products), solve(products, preferences=[(0, 2.0, 1)])
    assert bound.weights.tolist() == pytest.approx(free.weights.tolist())


def test_bounds_hold_for_frank_wolfe_too():
    products = np.diag([4.0, 1.0, 1.0])
    exact = solve(products, preferences=[(0, 2.0, 1)])
    for method in ("frank_wolfe", "pairwise"):
        found = solve(products, preferences=[(0, 2.0, 1)], method=method, warm_start=exact.weights)
        assert found.weights.tolist() == pytest.approx(exact.weights.tolist(), abs=1e-6)


def test_frank_wolfe_refuses_bounds_without_few_corners():
    with pytest.raises(ValueError, match="exact"):
        solve(np.eye(3), preferences=[(0, 1.0, 1), (0, 1.0, 2)], method="frank_wolfe")


def test_a_cycle_of_product_one_ties_its_tasks():
    products = np.diag([9.0, 1.0, 4.0])
    weights = solve(products, preferences=[(0, 2.0, 1), (1, 0.5, 0)]).weights.numpy()
    assert weights[0] == pytest.approx(2 * weights[1])
    # v = 2a·s + b·s + c·u, with s = (1 - u) / 3: minimised by hand.
    tied = (4 * 9.0 + 1.0) / 9
    assert weights[2] == pytest.approx(tied / (tied + 4.0))


def test_a_cycle_below_one_leaves_a_range():
    weights = solve(np.diag([9.0, 1.0]), preferences=[(0, 0.5, 1), (1, 0.5, 0)]).weights.numpy()
    assert weights == pytest.approx([1 / 3, 2 / 3])


def test_a_bound_that_follows_from_a_chain_is_not_counted_twice():
    chain = [(0, 2.0, 1), (1, 2.0, 2)]
    products = np.diag([9.0, 4.0, 1.0])
    assert solve(products, preferences=[*chain, (0, 3.0, 2)], method="pairwise").norm == pytest.approx(
        solve(products, preferences=chain).norm, rel=1e-6
    )


def test_a_cycle_above_one_is_refused_by_name():
    with pytest.raises(ValueError, match="seg >= depth >= normal") as caught:
        parse_preferences(
            ["seg >= 2 * depth", "depth >= normal", "normal >= 0.6 * seg"], ["seg", "depth", "normal"]
        )
    assert "1.2 times itself" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("seg > depth", "write it like"),
        ("seg >= two * depth", "write it like"),
        ("seg >= 2 * dpeth", "dpeth"),
        ("seg >= 0 * depth", "above 0"),
        ("seg >= 2 * seg", "times itself"),
    ],
)
def test_a_preference_that_makes_no_sense_is_refused(line, word):
    with pytest.raises(ValueError, match=word):
        parse_preferences([line], ["seg", "depth"])


def test_preferences_are_read_by_name():
    tasks = ["left-eye", "right_eye", "c3"]
    lines = ["left-eye >= 2 * right_eye", "c3>=right_eye", " c3 >= 1e-1*left-eye "]
    assert parse_preferences(lines, tasks) == [(0, 2.0, 1), (2, 1.0, 1), (2, 0.1, 0)]


def test_a_bound_that_names_an_absent_task_drops():
    bounds = [Bound(0, 2.0, 1), Bound(2, 3.0, 0)]
    assert among(bounds, [0, 2]) == [(1, 3.0, 0)]


def test_a_bound_that_follows_through_absent_tasks_stays():
    bounds = [Bound(0, 2.0, 1), Bound(1, 3.0, 2), Bound(2, 5.0, 3), Bound(0, 7.0, 3), Bound(3, 0.01, 0)]
    assert among(bounds, [0, 3]) == [(0, 30.0, 1), (1, 0.01, 0)]
    assert among(bounds, [3, 0]) == [(1, 30.0, 0), (0, 0.01, 1)]


def test_an_index_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="outside"):
        solve(np.eye(2), preferences=[(0, 1.0, 2)])
