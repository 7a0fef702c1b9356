"""Gradient descent on two problems whose Pareto sets are known."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from distill_mtl.balance import MGDA, MGDAUB, Diagnostics, Rule, Shared

CORNERS = {
    "a": torch.tensor([1.0, 0.0, 0.0]),
    "b": torch.tensor([0.0, 1.0, 0.0]),
    "c": torch.tensor([-1.0, 0.0, 0.0]),
}
STRETCH = torch.tensor([1.0, 2.0, 3.0])


def bowls(point: Tensor) -> dict[str, Tensor]:
    """Quadratics around three corners, of unlike scales; their Pareto set lies in the corners' plane."""
    scales = {"a": 1.0, "b": 20.0, "c": 0.2}
    return {
        task: scales[task] * (STRETCH * (point - corner).square()).sum() for task, corner in CORNERS.items()
    }


def fonseca_fleming(point: Tensor) -> dict[str, Tensor]:
    """Fonseca & Fleming 1995, not convex. The Pareto set is the segment between ±(1, 1, 1) / √3."""
    shift = 3**-0.5
    return {
        "plus": 1 - torch.exp(-(point - shift).square().sum()),
        "minus": 1 - torch.exp(-(point + shift).square().sum()),
    }


def descend(losses, start: Tensor, rate: float, steps: int = 1500):
    """Plain gradient descent by MGDA; yields the point, the losses and the direction's norm at each step."""
    point, rule = nn.Parameter(start.double()), MGDA(scale=1.0)
    for _ in range(steps):
        point.grad = None
        shared = Shared(point, list(losses(start)))
        found = {task: losses(shared[task])[task] for task in shared.tasks}
        rule.backward(found, shared)
        yield point.detach().clone(), {t: v.item() for t, v in found.items()}, rule.diagnostics.norm
        with torch.no_grad():
            point -= rate * point.grad


@pytest.mark.parametrize(
    ("losses", "start", "rate", "curvature"),
    [
        (bowls, torch.tensor([2.0, 3.0, 1.5]), 0.02, 2 * 20 * 3.0),
        (fonseca_fleming, torch.tensor([1.2, -0.4, 0.9]), 0.1, 2.0),
    ],
)
def test_mgda_converges_to_a_stationary_point_and_hurts_no_task_on_the_way(losses, start, rate, curvature):
    path = list(descend(losses, start, rate))
    assert path[-1][2] < 1e-3 * path[0][2]
    for (_, before, norm), (_, after, _) in pairwise(path):
        allowed = 0.5 * curvature * (rate * norm) ** 2 + 1e-9
        assert all(after[task] <= before[task] + allowed for task in before)


def test_the_end_lies_in_the_known_pareto_set():
    *_, (point, _, _) = descend(fonseca_fleming, torch.tensor([1.2, -0.4, 0.9]), 0.1)
    assert point.std() < 1e-3
    assert point.abs().max() <= 3**-0.5 + 1e-3


def train_trunk(rule: Rule, steps: int = 300) -> list[Diagnostics]:
    """A small network towards the three corners at once."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
    rows = torch.randn(32, 4)
    targets = {task: rows[:, :3] * 0.1 + corner for task, corner in CORNERS.items()}
    rule.measure_harm = True
    seen = []
    for _ in range(steps):
        trunk.zero_grad()
        shared = Shared(trunk(rows), list(CORNERS))
        rule.backward(
            {task: (shared[task] - target).square().mean() for task, target in targets.items()}, shared
        )
        seen.append(rule.diagnostics)
        with torch.no_grad():
            for parameter in trunk.parameters():
                parameter -= 0.5 * parameter.grad
    return seen


def test_mgda_harms_no_task_in_parameter_space():
    seen = train_trunk(MGDA(scale=1.0))
    assert seen[-1].norm < 0.02 * seen[0].norm
    assert {step.harmed for step in seen} == {0.0}


def test_mgda_ub_converges_but_promises_no_more():
    seen = train_trunk(MGDAUB(scale=1.0))
    assert seen[-1].norm < 0.1 * seen[0].norm
    # Its guarantee ends at the features: on this toy many steps do raise a task's loss.
    assert max(step.harmed for step in seen) > 0
