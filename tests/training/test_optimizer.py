from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill_mtl.recipe.schema import OptimizerSection
from distill_mtl.training.optimizer import START, rate_factor

SCHEDULES = ("cosine", "one_cycle")


def _section(schedule: Literal["cosine", "one_cycle"], warmup: float, floor: float) -> OptimizerSection:
    return OptimizerSection(schedule=schedule, warmup=warmup, min_lr=floor)


@given(st.sampled_from(SCHEDULES), st.integers(1, 5000), st.floats(0, 0.9), st.floats(0, 1))
def test_the_rate_rises_then_falls_and_stays_in_its_bounds(
    schedule: Literal["cosine", "one_cycle"], steps: int, warmup: float, floor: float
) -> None:
    section = _section(schedule, warmup, floor)
    factors = [rate_factor(step, steps, section) for step in range(steps)]
    warm = round(warmup * steps)
    assert all(0 < factor <= 1 for factor in factors) or floor == 0
    assert factors[:warm] == sorted(factors[:warm])
    assert factors[warm:] == sorted(factors[warm:], reverse=True)
    if warm < steps:
        assert factors[warm] == 1


def test_one_cycle_is_pytorchs() -> None:
    import torch

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=1001, pct_start=0.3, cycle_momentum=False
    )
    section = _section("one_cycle", 0.3, 0.0)
    for step in range(1000):
        assert rate_factor(step, 1000, section) == pytest.approx(optimizer.param_groups[0]["lr"], abs=5e-3)
        optimizer.step()
        theirs.step()
    assert rate_factor(0, 1000, section) == START
