"""A network as somebody else deployed it: a program in a file."""

from pathlib import Path

import torch
from torch import Tensor, nn


class Deployed(nn.Module):
    """Images [B, 3, 8, 8] -> a map and, second, the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(images)
        return features, self.head(features.mean((2, 3)))


def save(path: Path) -> Path:
    torch.manual_seed(0)
    free = {0: torch.export.Dim("batch")}
    program = torch.export.export(Deployed().eval(), (torch.rand(2, 3, 8, 8),), dynamic_shapes=(free,))
    torch.export.save(program, path)
    return path
