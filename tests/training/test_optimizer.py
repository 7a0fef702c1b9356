from hypothesis import given
from hypothesis import strategies as st

from distill_mtl.training.optimizer import rate_factor


@given(st.integers(1, 5000), st.floats(0, 0.9), st.floats(0, 1))
def test_the_rate_rises_then_falls_and_stays_in_its_bounds(steps: int, warmup: float, floor: float) -> None:
    factors = [rate_factor(step, steps, warmup=warmup, floor=floor) for step in range(steps)]
    warm = round(warmup * steps)
    assert all(0 < factor <= 1 for factor in factors) or floor == 0
    assert factors[:warm] == sorted(factors[:warm])
    assert factors[warm:] == sorted(factors[warm:], reverse=True)
    if warm < steps:
        assert factors[warm] == 1
