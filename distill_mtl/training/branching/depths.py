"""The depths at which tasks may leave a student's trunk, and the teachers' layers that stand for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from distill_mtl.errors import UserError
from distill_mtl.networks.features import FeatureShape
from distill_mtl.networks.flops import flop_counter
from distill_mtl.networks.modes import evaluating
from distill_mtl.networks.stages import Chain, find_chain
from distill_mtl.networks.task_network import BackboneNetwork
from distill_mtl.students.student import Trunk
from distill_mtl.teachers.teacher import Teacher

MOST = 6
"""Depths that are told apart; of more stages, as transformers have them, neighbours count as one depth."""


@dataclass(frozen=True)
class Depth:
    """A stage of the trunk, or several that follow each other.

    Attributes:
        name: of its first step: where a branch begins, as `student.branch` names it.
        layer: of its last stage, whose output is compared.
        start, stop: positions of its steps in the trunk's chain.
        shape: of the layer's output.
        size: multiply-adds of one image, times two.
    """

    name: str
    layer: str
    start: int
    stop: int
    shape: FeatureShape
    size: float


def depths_of(trunk: Trunk) -> tuple[Chain, list[Depth]]:
    """The trunk as a chain, and its depths.

    Raises:
        UserError: the trunk cannot be cut into stages, or has only one.
    """
    chain = find_chain(trunk.model, trunk.inputs.size, name=trunk.name)
    starts = chain.depths(trunk.model)
    stages = list(starts)
    every = -(-len(stages) // MOST)
    firsts, lasts = stages[::every], [*stages[every - 1 :: every]]
    if len(lasts) < len(firsts):
        lasts.append(stages[-1])
    if len(firsts) < 2:
        raise UserError(
            f"student.branch: {trunk.name} has one stage, so tasks cannot leave it anywhere. Take another architecture."
        )
    borders = [0, *(starts[stage] for stage in firsts[1:]), len(chain)]
    sizes = _sizes(trunk, chain, borders)
    return chain, [
        Depth(chain.names[borders[k]], layer, borders[k], borders[k + 1], trunk.shapes[layer], sizes[k])
        for k, layer in enumerate(_one_map(trunk, last) for last in lasts)
    ]


def layers_at(teacher: Teacher, depths: Sequence[Depth]) -> list[str] | None:
    """The teacher's layer for each depth of the student: the stage that is as far along its own way.

    None for a network that does not give its stages, not each as one map, or not each as what one of its layers gives,
    as a student with soft order.
    """
    network = teacher.network
    if not isinstance(network, BackboneNetwork):
        return None
    stages = network.backbone.layers_of_stages
    if len(stages) < 2 or not set(stages) <= {name for name, _ in network.backbone.model.named_modules()}:
        return None
    return [stages[max(0, round((k + 1) / len(depths) * len(stages)) - 1)] for k in range(len(depths))]


def _one_map(trunk: Trunk, stage: str) -> str:
    """The stage's output; the first one of several, as HRNet's have them."""
    return next(name for name in trunk.stages if name == stage or name.startswith(f"{stage}["))


@torch.no_grad()
def _sizes(trunk: Trunk, chain: Chain, borders: Sequence[int]) -> list[float]:
    sizes = []
    with evaluating(trunk):
        state = trunk.preprocess(torch.zeros(1, 3, *trunk.inputs.size))
        for start, stop in pairwise(borders):
            with flop_counter() as counter:
                state = chain.run(trunk.model, state, start, stop)
            sizes.append(float(counter.get_total_flops()))
    return sizes
