import pytest
import torch

from distill_mtl.networks.features import FeatureShape
from distill_mtl.training.branching.depths import Depth
from distill_mtl.training.branching.floor import DepthFeatures


def stage(seen, channels, sensitivity=None):
    depth = Depth("layer1", "layer1", 0, 1, FeatureShape(channels, (2, 2)), 1.0)
    even = {task: torch.eye(places.shape[1], dtype=torch.float64) for task, places in seen.items()}
    return DepthFeatures(depth, seen, sensitivity or even)


def places(seed, width=10, count=400):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator)
    return torch.randn(count, width, generator=generator) @ mix + 5


def test_what_two_teachers_have_in_common_is_shared_for_nothing():
    first = places(0)
    seen = {"a": first, "b": 3 * first.flip(1) + 1}
    assert stage(seen, 10).error(("a", "b"), seen) == pytest.approx(0, abs=1e-9)


def test_a_stage_that_is_wide_enough_for_both_loses_nothing():
    seen = {"a": places(0), "b": places(1)}
    assert stage(seen, 20).error(("a", "b"), seen) == pytest.approx(0, abs=1e-9)
    assert stage(seen, 10).error(("a", "b"), seen) > 0.01


def test_no_other_shared_stage_of_the_width_loses_less():
    seen = {"a": places(0), "b": places(1)}
    at = stage(seen, 6)
    best = at.error(("a", "b"), seen)
    stacked = torch.cat([at.standardised(task, seen[task]) for task in "ab"], 1)
    total = stacked.pow(2).sum()
    for seed in range(20):
        read = torch.linalg.qr(torch.randn(20, 6, generator=torch.Generator().manual_seed(seed)).double()).Q
        code = stacked @ read
        write = torch.linalg.lstsq(code, stacked).solution
        assert (stacked - code @ write).pow(2).sum() / total >= best - 1e-9


@pytest.mark.parametrize("group", ["ab", "abcde"])
def test_a_wide_stage_loses_what_lies_outside_the_first_components_of_all_features_side_by_side(group):
    """Of five tasks, whose directions are more than the stage has channels."""
    seen = {task: places(seed, width=90, count=600) for seed, task in enumerate("abcde")}
    at = stage(seen, 80)
    stacked = torch.cat([at.standardised(task, seen[task]) for task in group], 1)
    values = torch.linalg.eigvalsh(stacked.T @ stacked)
    expected = values[:-80].sum() / values.sum()
    assert at.error(tuple(group), seen) == pytest.approx(float(expected))
    alone = sum(at.error((task,), seen) for task in group) / len(group)
    assert expected > 2 * alone


def test_standardised_features_come_back():
    seen = {"a": places(0)}
    weights = torch.randn(10, 10, generator=torch.Generator().manual_seed(3)).double()
    at = stage(seen, 10, {"a": weights @ weights.T})
    torch.testing.assert_close(
        at.restored("a", at.standardised("a", seen["a"])), seen["a"], rtol=1e-4, atol=1e-4
    )


def test_directions_that_no_answer_depends_on_are_given_up_first():
    seen = {"a": places(0)}
    only_first = torch.zeros(10, 10, dtype=torch.float64)
    only_first[0, 0] = 1
    plain, weighted = stage(seen, 1), stage(seen, 1, {"a": only_first})
    lost = []
    for at in (plain, weighted):
        features = {"a": at.standardised("a", seen["a"])}
        back = at.restored("a", at.through(at.shared(("a",)), features)["a"])
        lost.append((back - seen["a"])[:, 0].pow(2).mean())
    assert lost[1] < 0.2 * lost[0]
