"""What the stages of a trunk cost, where `branch` weighs trees against each other."""

import pytest
import torch

from distill_mtl.networks.flops import flop_counter
from distill_mtl.networks.modes import evaluating
from distill_mtl.students.student import FAMILIES
from distill_mtl.training.branching.depths import depths_of


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_the_stages_cost_together_what_the_trunk_costs(model: str) -> None:
    trunk = FAMILIES["timm"].create(model, {}, (32, 32), pretrained=False)
    _, depths = depths_of(trunk)
    with torch.no_grad(), evaluating(trunk), flop_counter() as counter:
        trunk(torch.zeros(1, 3, *trunk.inputs.size))
    assert sum(depth.size for depth in depths) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_a_stage_of_several_maps_is_compared_by_the_first() -> None:
    trunk = FAMILIES["timm"].create("hrnet_w18_small", {}, (32, 32), pretrained=False)
    _, depths = depths_of(trunk)
    assert [depth.layer for depth in depths][-2:] == ["stage3[0]", "stage4[0]"]
    trunk.tap([depth.layer for depth in depths])
    assert all(depth.shape == trunk.shapes[depth.layer] for depth in depths)
