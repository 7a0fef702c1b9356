"""Linear layers on the trunk's pooled vector, the head of kinds that answer once per picture."""

from collections.abc import Mapping

from torch import Tensor, nn

from distill_mtl.errors import UserError
from distill_mtl.tasks.base import HeadShape


class PooledHead(nn.Module):
    """One linear layer unless more are asked for, so that timm's form can hold it (`linear`).

    Args:
        channels: of the pooled vector.
        outputs: numbers that are answered.
        shape: how many layers, and the width of those between; by default as wide as the pooled vector.

    Raises:
        UserError: a width is given, and nothing lies between.
    """

    def __init__(self, channels: int, outputs: int, shape: HeadShape) -> None:
        super().__init__()
        if shape.width is not None and (shape.depth or 1) == 1:
            raise UserError(
                f"head.width is {shape.width}, but the head is a single linear layer, with nothing inside. "
                "Remove it, or add `depth: 2`."
            )
        width, hidden = shape.width or channels, (shape.depth or 1) - 1
        inputs = [channels, *[width] * hidden]
        self.hidden = nn.Sequential(
            *(nn.Sequential(nn.Linear(inputs[place], width), nn.GELU()) for place in range(hidden))
        )
        self.linear = nn.Linear(inputs[-1], outputs)

    @property
    def answer(self) -> nn.Module:
        """The layer that gives the logits."""
        return self.linear

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """[B, outputs] from features["pooled"] [B, channels]."""
        logits: Tensor = self.linear(self.hidden(features["pooled"]))
        return logits
