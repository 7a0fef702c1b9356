"""`smooth`, `when` and `scale: sum` of rules on Gramians: properties, over a bank of Gramians."""

import numpy as np
import pytest
import torch
from balance_toys import TASKS, Toy, run
from torch import Tensor

from distill_mtl.balance import MGDAUB, Uniform, make_rule


def gramian(seed: int, tasks: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(tasks, 6, generator=generator, dtype=torch.float64) * torch.rand(
        tasks, 1, generator=generator, dtype=torch.float64
    )
    return gradients @ gradients.T


def losses(*tasks: str) -> dict[str, Tensor]:
    return dict.fromkeys(tasks or TASKS, torch.ones(()))


def weights_of(rule: MGDAUB, products: Tensor, *tasks: str) -> np.ndarray:
    return np.array(list(rule.weigh(products, losses(*tasks)).values()))


@pytest.mark.parametrize("seed", range(5))
def test_a_constant_gramian_is_its_own_running_mean_from_the_first_pass(seed: int) -> None:
    smooth, plain = MGDAUB(TASKS, smooth=0.9), MGDAUB(TASKS)
    for _ in range(3):
        assert weights_of(smooth, gramian(seed)) == pytest.approx(weights_of(plain, gramian(seed)), rel=1e-6)


def test_weights_from_a_running_mean_vary_less() -> None:
    spread = {}
    for smooth in (0.0, 0.9):
        rule = MGDAUB(TASKS, smooth=smooth)
        found = np.stack([weights_of(rule, gramian(seed)) for seed in range(60)])[20:]
        spread[smooth] = np.log(found.clip(1e-3)).std(0).mean()
    assert spread[0.9] < spread[0.0] / 2


def test_an_absent_task_keeps_its_mean_and_the_mean_is_saved() -> None:
    rule = MGDAUB(TASKS, smooth=0.5)
    weights_of(rule, gramian(0))
    weights_of(rule, gramian(1)[:2, :2], "left", "right")
    again = MGDAUB(TASKS, smooth=0.5)
    again.load_state_dict(rule.state_dict())
    for other in (rule, again):
        assert np.isfinite(weights_of(other, gramian(2))).all()
    assert weights_of(again, gramian(3)).tolist() == weights_of(rule, gramian(3)).tolist()
    assert not MGDAUB(TASKS).state_dict(), "without it a rule has nothing to keep"


def test_a_gramian_that_is_not_finite_is_kept_out_of_the_mean() -> None:
    rule = MGDAUB(TASKS, smooth=0.9)
    before = weights_of(rule, gramian(0))
    broken = gramian(0)
    broken[0, 1] = torch.nan
    assert weights_of(rule, broken).tolist() == [1.0, 1.0, 1.0]
    assert weights_of(rule, gramian(0)) == pytest.approx(before, rel=1e-6)


@pytest.mark.parametrize("cosine", [-0.5, -0.01, 0.0, 0.01, 0.5])
def test_tasks_that_do_not_conflict_get_the_plain_sum(cosine: float) -> None:
    products = torch.tensor([[1.0, 3 * cosine], [3 * cosine, 9.0]], dtype=torch.float64)
    found = weights_of(MGDAUB(TASKS, when="conflict"), products, "left", "right")
    chosen = weights_of(MGDAUB(TASKS), products, "left", "right")
    assert found.tolist() == ([1.0, 1.0] if cosine >= 0 else chosen.tolist())


def test_the_plain_sum_is_uniform_s_step() -> None:
    nets = [Toy(), Toy()]
    for net, rule in zip(nets, (MGDAUB(TASKS, when="conflict"), Uniform(TASKS)), strict=True):
        if isinstance(rule, MGDAUB):
            rule.running = _Agreeing()  # type: ignore[assignment]
        run(net, rule)
    for one, other in zip(nets[0].trunk_parameters(), nets[1].trunk_parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


class _Agreeing(torch.nn.Module):
    """In place of a running mean: all gradients are the same."""

    def update(self, node: str, products: np.ndarray, tasks: object) -> np.ndarray:
        return np.ones_like(products)


@pytest.mark.parametrize("name", ["mgda", "mgda_ub"])
@pytest.mark.parametrize("normalize", ["none", "l2"])
def test_scale_sum_makes_the_step_as_long_as_the_plain_sum(name: str, normalize: str) -> None:
    rule, one = (make_rule(name, TASKS, scale=scale, normalize=normalize) for scale in ("sum", 1.0))
    for seed in range(5):
        products = gramian(seed)
        found, direction = weights_of(rule, products), weights_of(one, products)
        matrix = products.numpy()
        assert found @ matrix @ found == pytest.approx(matrix.sum(), rel=1e-9)
        assert found / found.sum() == pytest.approx(direction / direction.sum(), rel=1e-9)


def test_gradients_that_cancel_make_no_step_without_bound() -> None:
    against = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    found = weights_of(MGDAUB(TASKS, scale="sum"), against, "left", "right")
    assert np.isfinite(found).all()
    assert found.max() <= 20


@pytest.mark.parametrize(
    "options",
    [{"smooth": 1.0}, {"smooth": -0.1}, {"smooth": float("nan")}, {"when": "never"}, {"scale": "sums"}],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        make_rule("mgda_ub", TASKS, **options)
