"""The solver against an independent one, by its own certificate, and by the symmetries it must have."""

import numpy as np
import pytest
import quadprog
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_mtl.balance import min_norm, solve

SETTINGS = settings(max_examples=60, deadline=None)


@st.composite
def jacobians(draw, largest: int = 16, decades: float = 6.0) -> np.ndarray:
    """Gradients [T, N] of unlike norms, conflicting or not, in few or many dimensions, some repeated."""
    tasks = draw(st.integers(1, largest))
    width = draw(st.sampled_from([2, tasks, 4 * tasks + 4]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    gradients = rng.standard_normal((tasks, width))
    gradients += draw(st.sampled_from([0.0, 0.5, 3.0])) * rng.standard_normal(width)
    gradients *= 10 ** rng.uniform(-0.5, 0.5, (tasks, 1) if draw(st.booleans()) else ()) ** 1.0
    gradients *= 10 ** (rng.uniform(-0.5, 0.5, (tasks, 1)) * draw(st.floats(0, decades)))
    if draw(st.booleans()):
        gradients[rng.integers(tasks)] = gradients[rng.integers(tasks)] * draw(st.sampled_from([1.0, 2.0]))
    return gradients


def gramian(gradients: np.ndarray) -> np.ndarray:
    return gradients @ gradients.T


def reference_norm(gradients: np.ndarray) -> float:
    """Goldfarb & Idnani's method on the scaled programme min |Σ x_t ĝ_t|² + (Σ x_t / |g_t| - 1)²."""
    norms = np.linalg.norm(gradients, axis=1)
    sizes = norms.min() / norms
    units = np.vstack([(gradients / norms[:, None]).T, sizes])
    matrix = units.T @ units + 1e-13 * np.eye(len(norms))
    x = quadprog.solve_qp(matrix, sizes, np.eye(len(norms)), np.zeros(len(norms)))[0].clip(0)
    weights = x * sizes / (x @ sizes)
    return float(np.linalg.norm(weights @ gradients))


@given(jacobians())
@SETTINGS
def test_the_norm_is_that_of_quadprog(gradients):
    found = solve(gramian(gradients))
    shortest = np.linalg.norm(gradients, axis=1).min()
    assert np.linalg.norm(found.weights.numpy() @ gradients) == pytest.approx(
        reference_norm(gradients), rel=1e-6, abs=1e-6 * shortest
    )


@given(jacobians(largest=64, decades=12.0))
@SETTINGS
def test_the_certificate_holds_away_from_stationarity(gradients):
    found = solve(gramian(gradients))
    assert found.weights.min() >= 0
    assert float(found.weights.sum()) == pytest.approx(1, abs=1e-14)
    if found.norm > 1e-2 * np.linalg.norm(gradients, axis=1).min():
        assert found.residual <= 1e-12


@given(jacobians(largest=32))
@SETTINGS
def test_the_direction_hurts_no_task(gradients):
    products = gramian(gradients)
    found = solve(products)
    lengths = np.sqrt(products.diagonal())
    if found.norm > 1e-2 * lengths.min():
        assert ((products @ found.weights.numpy()) > -1e-13 * lengths * found.norm).all()


@given(jacobians(), st.integers(0, 2**32 - 1))
@SETTINGS
def test_the_order_of_tasks_does_not_matter(gradients, seed):
    order = np.random.default_rng(seed).permutation(len(gradients))
    shortest = np.linalg.norm(gradients, axis=1).min()
    assert solve(gramian(gradients[order])).norm == pytest.approx(
        solve(gramian(gradients)).norm, rel=1e-6, abs=1e-6 * shortest
    )


@given(jacobians(), st.sampled_from([1e-6, 2.0**-20, 65536.0, 1e6 * 65536.0]))
@SETTINGS
def test_a_loss_scale_changes_no_weight(gradients, factor):
    exact = 2.0 ** round(np.log2(factor))
    assert torch.equal(solve(gramian(gradients * exact)).weights, solve(gramian(gradients)).weights)


@given(jacobians(largest=8))
@SETTINGS
def test_a_repeated_task_does_not_move_the_point(gradients):
    again = np.vstack([gradients, gradients])
    found, doubled = solve(gramian(gradients)), solve(gramian(again))
    shortest = np.linalg.norm(gradients, axis=1).min()
    assert doubled.norm == pytest.approx(found.norm, rel=1e-6, abs=1e-6 * shortest)


@given(jacobians(largest=12))
@SETTINGS
def test_a_warm_start_changes_no_result(gradients):
    products = gramian(gradients)
    cold = solve(products)
    start = np.random.default_rng(0).dirichlet(np.ones(len(gradients)))
    for warm in (cold.weights, start):
        shortest = np.sqrt(products.diagonal().min())
        assert solve(products, warm_start=warm).norm == pytest.approx(
            cold.norm, rel=1e-9, abs=1e-6 * shortest
        )


@pytest.mark.parametrize("method", ["frank_wolfe", "pairwise"])
@pytest.mark.parametrize("tasks", [1, 2, 3, 8])
def test_frank_wolfe_stops_at_a_small_duality_gap(method, tasks):
    gradients = np.random.default_rng(tasks).standard_normal((tasks, 40)) + 0.5
    products = gramian(gradients)
    weights = solve(products, method=method).weights.numpy()
    square, least = weights @ products @ weights, (products @ weights).min()
    # The plain method converges slowly; the pairwise one must reach its gap.
    assert square - least <= (1e-8 if method == "pairwise" else 1e-2) * square
    assert square**0.5 == pytest.approx(solve(products).norm, rel=1e-3)


def test_frank_wolfe_goes_on_from_a_warm_start():
    gradients = np.random.default_rng(0).standard_normal((8, 40)) * np.logspace(-1, 1, 8)[:, None]
    products = gramian(gradients)
    exact = solve(products)
    again = solve(products, method="frank_wolfe", warm_start=exact.weights)
    assert again.norm == pytest.approx(exact.norm, rel=1e-8)


def test_one_task_takes_all_the_weight():
    found = solve([[4.0]])
    assert found.weights.tolist() == [1.0]
    assert (found.norm, found.residual, found.active) == (2.0, 0.0, (0,))


def test_opposite_gradients_are_stationary():
    found = solve(gramian(np.array([[1.0, 0.0], [-3.0, 0.0]])))
    assert found.weights.tolist() == pytest.approx([0.75, 0.25])
    assert found.norm == pytest.approx(0, abs=1e-7)
    assert found.residual == 0


def test_of_collinear_gradients_the_shortest_counts():
    found = solve(gramian(np.array([[2.0, 1.0], [4.0, 2.0], [1.0, 0.5]])))
    assert found.weights.tolist() == [0, 0, 1]


def test_zero_gradients_share_all_the_weight():
    found = solve(gramian(np.array([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])))
    assert found.weights.tolist() == [0, 0.5, 0.5]
    assert (found.norm, found.residual) == (0, 0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_where_the_gramian_is_not_finite_weights_are_even(bad):
    found = solve(torch.tensor([[1.0, 0.0], [0.0, bad]]))
    assert found.weights.tolist() == [0.5, 0.5]
    assert np.isnan(found.norm)
    assert np.isnan(found.residual)


def test_many_tasks_in_few_dimensions_reach_the_floor_of_the_gramian():
    gradients = np.random.default_rng(0).standard_normal((64, 3))
    found = solve(gramian(gradients))
    assert np.linalg.norm(found.weights.numpy() @ gradients) < 1e-7


@pytest.mark.parametrize("wrong", [np.ones((2, 3)), np.ones(3), np.zeros((0, 0)), -np.eye(2)])
def test_what_is_no_gramian_is_refused(wrong):
    with pytest.raises(ValueError, match="Gramian"):
        solve(wrong)


@pytest.mark.parametrize("decades", [150, 300])
def test_norms_at_the_ends_of_double_precision_are_solved(decades):
    products = np.diag(10.0 ** np.array([-decades, 0, decades]))
    found = solve(products)
    assert found.weights.tolist() == pytest.approx([1, 0, 0])
    assert found.residual < 1e-12


def test_rounding_of_near_duplicates_does_no_harm():
    gradients = torch.randn(20, 3) * 1e3
    doubled = torch.cat([gradients, gradients * (1 + 1e-7)])
    found = solve(doubled @ doubled.T)
    assert found.weights.isfinite().all()
    assert (found.weights @ doubled.double()).norm() < 1.0


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="exact"):
        solve(np.eye(2), method="newton")


def test_a_warm_start_that_is_no_set_of_weights_is_refused():
    with pytest.raises(ValueError, match="warm_start"):
        solve(np.eye(2), warm_start=[1.0, -1.0])


def test_both_ways_to_solve_the_complementarity_problem_agree():
    from distill_mtl.balance import complementarity

    rng = np.random.default_rng(3)
    for tasks in (2, 5, 12):
        gradients = rng.standard_normal((tasks, 2 * tasks)) + 0.3
        matrix, target = gramian(gradients) / tasks + 1, np.ones(tasks)
        one = complementarity._pivot(matrix, target, np.array([0]))
        other = complementarity._lawson_hanson(matrix, target)
        assert one == pytest.approx(other, abs=1e-10)


def test_single_precision_gramians_are_accepted():
    gradients = torch.randn(6, 50)
    found = min_norm.solve(gradients @ gradients.T)
    assert found.weights.dtype == torch.float64
    assert found.residual < 1e-12
