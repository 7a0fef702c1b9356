"""What a network costs."""

import pytest
import torch
import toys
from torch import Tensor, nn

from distill_mtl.evaluation.cost import cost_of, head_costs
from distill_mtl.students.folder import DeployedStudent


class Tied(nn.Module):
    """One convolution under two names, two buffers, and a count of the passes in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.second = self.first
        self.register_buffer("mean", torch.zeros(5, dtype=torch.float64))
        self.register_buffer("steps", torch.zeros(2, dtype=torch.int64))
        self.trained = 0

    def forward(self, images: Tensor) -> Tensor:
        self.trained += self.training
        return self.second(self.first(images))


def test_parameters_flops_and_bytes_by_hand() -> None:
    network = Tied()
    cost = cost_of(network, (10, 12))
    weights = 3 * 3 * 3 * 3
    assert cost.parameters == weights
    assert cost.flops == 2 * (2 * weights * 10 * 12)  # two passes, a multiplication and an addition each
    assert cost.bytes == 4 * weights + 4 * 5 + 8 * 2
    assert cost.latency_ms > 0


def test_cost_is_that_of_the_network_in_use_and_leaves_its_mode() -> None:
    network = Tied().train()
    cost_of(network, (4, 4))
    assert network.trained == 0
    assert network.training


def test_attention_is_counted() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 4, 4)
            self.query = nn.Linear(8, 24)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.patches(images).flatten(2).mT
            query, key, value = self.query(tokens)[:, None].chunk(3, dim=-1)
            return nn.functional.scaled_dot_product_attention(query, key, value)

    patches, tokens = 2 * 8 * 48 * 16, 16
    products = 2 * tokens * 8 * 24 + 2 * (2 * tokens * tokens * 8)
    assert cost_of(Tokens(), (16, 16)).flops == patches + products


def test_what_another_runtime_runs_is_not_counted_as_nothing() -> None:
    """Its parameters are what it says; FLOPs that nobody counts are unknown, and so are sums with them."""

    class Foreign(nn.Module):
        parameter_count = 1000

        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

    foreign = cost_of(Foreign(), (8, 8))
    assert (foreign.parameters, foreign.bytes, foreign.flops) == (1000, 4000, None)
    own = cost_of(nn.Conv2d(3, 4, 3), (8, 8))
    both = own + foreign
    assert both.flops is None
    assert both.parameters == 1112


@pytest.mark.parametrize("deployed", [False, True])
def test_what_a_head_takes_is_counted_by_hand(deployed: bool) -> None:
    """The toy student at 8 px: a linear layer from 12 to 3, and a decoder over 4 x 4 and 2 x 2 pixels."""
    student = toys.toy_student({"hue": toys.classification(3), "shape": toys.segmentation(2)})
    network = DeployedStudent(student) if deployed else student
    heads = head_costs(network, (8, 8))
    assert list(heads) == ["hue", "shape"]
    assert (heads["hue"].parameters, heads["hue"].flops) == (3 * 13, 2 * 3 * 12)
    fine, coarse = 2 * 16 * 24, 2 * 4 * 24
    laterals = fine * 6 + coarse * 12
    assert heads["shape"].flops == laterals + fine * 24 * 9 + fine * 2
    assert heads["shape"].parameters == sum(p.numel() for p in student.heads["shape"].parameters())
    trunk = 2 * 16 * 6 * 27 + 2 * 4 * 12 * 6 * 9
    assert cost_of(network, (8, 8)).flops == trunk + sum(head.flops for head in heads.values())


def test_a_network_without_heads_by_name_has_none() -> None:
    assert head_costs(Tied(), (8, 8)) == {}
