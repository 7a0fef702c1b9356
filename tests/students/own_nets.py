"""Networks of a user's own, of a few lines each."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Plain(nn.Module):
    """Three maps, a vector, a classifier; none of timm's methods. In-place ReLUs, as most have."""

    def __init__(self, width: int = 4, classes: int = 5, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 3, padding=1)
        self.layer1 = _block(width, 2 * width)
        self.layer2 = _block(2 * width, 4 * width)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.layer2(self.layer1(F.relu(self.stem(images), inplace=True)))
        return F.log_softmax(self.fc(self.pool(features).flatten(1)), 1)


class LikeTimm(nn.Module):
    """`forward_features` and `forward_head`, as timm's networks have them; no `feature_info`."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem, self.layer1, self.layer2 = _block(3, width), _block(width, width), _block(width, 2 * width)

    def forward_features(self, images: Tensor) -> Tensor:
        return self.layer2(self.layer1(self.stem(images)))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        return features.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))


class Tokens(nn.Module):
    """A transformer with a class token and a linear classifier on it."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.block = nn.TransformerEncoderLayer(width, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = self.block(torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1))
        return self.head(tokens[:, 0])


class Segmenter(nn.Module):
    """A map of classes in a dict, as torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = _block(3, 4), nn.ConvTranspose2d(4, 6, 2, stride=2)
        self.classify = nn.Conv2d(6, 2, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"out": self.classify(self.up(self.down(images)))}


def fails(**args: Any) -> nn.Module:
    raise ValueError("no such width")


def _block(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
        nn.GroupNorm(1, outputs),
        nn.ReLU(inplace=True),
    )
