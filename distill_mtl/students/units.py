"""What joins the columns of a student behind a stage: a unit makes the next state of one column from those of several.

`columns.ColumnNetwork` holds one unit for each column and stage that reads others.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distill_mtl.errors import UserError


@dataclass(frozen=True)
class Place:
    """Where a unit stands.

    Attributes:
        stage: behind which.
        position: of its own column among those that it reads.
        columns: how many it reads.
        channels: of a column's state there.
        dim: of the channels: 1 for maps [B, C, h, w], -1 for tokens [B, N, C] and maps with channels last.
        positive: the stage ends in an activation that gives nothing below 0.
    """

    stage: str
    position: int
    columns: int
    channels: int
    dim: int
    positive: bool


class Unit(nn.Module, ABC):
    """States of several columns, of one shape -> the next state of one of them."""

    @abstractmethod
    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """The state of the unit's column behind it.

        Args:
            states: of the columns that it reads, in their order.
        """


class CrossStitch(Unit):
    """Weighted sum of the same channel of every column (Misra et al. 2016, equation 1).

    Pointwise, so that the order of channels in memory stays as it is; `torch.stack` would lose it.

    Args:
        place: where it stands.
        own: first weight of its own column; the others share the rest equally.
        each: a weight for each channel, or one for all.
    """

    def __init__(self, place: Place, *, own: float, each: str) -> None:
        super().__init__()
        self.position, self.dim = place.position, place.dim
        alpha = torch.full((place.columns, place.channels if each == "channel" else 1), 0.0)
        alpha.fill_((1 - own) / max(1, place.columns - 1))
        alpha[place.position] = own
        self.alpha = nn.Parameter(alpha)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        mine = states[self.position]
        weights = [_along(alpha.to(mine.dtype), mine, self.dim) for alpha in self.alpha]
        mixed = mine * weights[self.position]
        for position, state in enumerate(states):
            if position != self.position:
                mixed = torch.addcmul(mixed, state, weights[position])
        return mixed


class Sluice(Unit):
    """Weighted sum of the subspaces of all columns, for each subspace of its own (Ruder et al. 2017, section 3.1).

    Args:
        place: where it stands.
        own: first weight of a subspace on itself; all others of all columns share the rest equally.
        subspaces: equal parts of the channels.

    Raises:
        UserError: the channels cannot be divided so.
    """

    def __init__(self, place: Place, *, own: float, subspaces: int) -> None:
        super().__init__()
        if place.channels % subspaces:
            raise UserError(
                f"{place.stage} has {place.channels} channels, which are not {subspaces} equal subspaces."
            )
        self.position, self.dim, self.subspaces = place.position, place.dim, subspaces
        alpha = torch.full((subspaces, place.columns, subspaces), 0.0)
        alpha.fill_((1 - own) / max(1, place.columns * subspaces - 1))
        for part in range(subspaces):
            alpha[part, place.position, part] = own
        self.alpha = nn.Parameter(alpha)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        alpha = self.alpha.to(states[0].dtype)
        parts = [state.chunk(self.subspaces, self.dim) for state in states]
        mixed = []
        for mine in range(self.subspaces):
            total = parts[self.position][mine] * alpha[mine, self.position, mine]
            for column, given in enumerate(parts):
                for part, value in enumerate(given):
                    if (column, part) != (self.position, mine):
                        total = torch.addcmul(total, value, alpha[mine, column, part])
            mixed.append(total)
        return torch.cat(mixed, self.dim)


class NDDR(Unit):
    """1x1 convolution over the channels of all columns side by side, normalised (Gao et al. 2019, section 3.2).

    It begins as `CrossStitch` does, with a weight on the same channel of each column (section 3.3: diagonal, 0.9 and
    0.1). The activation of the paper's follows only where the stage ends in one, so that signed states stay signed.

    Args:
        place: where it stands.
        own: first weight of its own column; the others share the rest equally.
    """

    def __init__(self, place: Place, *, own: float) -> None:
        super().__init__()
        self.dim = place.dim
        self.mix = pointwise(place.columns * place.channels, place.channels, place.dim)
        eye, rest = torch.eye(place.channels), (1 - own) / max(1, place.columns - 1)
        start = [own * eye if at == place.position else rest * eye for at in range(place.columns)]
        with torch.no_grad():
            self.mix.weight.copy_(torch.cat(start, 1).view_as(self.mix.weight))
        # The slow average is that of the authors' code.
        norm = nn.BatchNorm2d if place.dim == 1 else nn.BatchNorm1d
        self.norm = norm(place.channels, momentum=0.05)
        self.act = nn.ReLU() if place.positive else nn.Identity()

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        mixed = self.mix(torch.cat(list(states), self.dim))
        if self.dim == 1:
            return self.act(self.norm(mixed))
        return self.act(self.norm(mixed.flatten(0, -2)).view_as(mixed))


class Lateral(Unit):
    """What earlier columns add to a later one (Rusu et al. 2016, equation 2 and section 2.1).

    h + U f(V [a_1 h_1, ..., a_k h_k]), with a scalar for each earlier column, small and random at first, a 1x1
    projection V, and f the ReLU. The paper adds it before the non-linearity of the layer that follows. Here it is added
    to that layer's input, so that any stage can follow: the layer is linear in it, and multiplies U by its weights.

    Args:
        place: where it stands; its own column is the last of those that it reads.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        earlier = place.columns - 1
        self.dim = place.dim
        self.scale = nn.Parameter(0.01 * torch.randn(earlier).abs() + 0.001)
        self.project = pointwise(earlier * place.channels, place.channels, place.dim)
        self.act = nn.ReLU()
        self.add = pointwise(place.channels, place.channels, place.dim)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        *earlier, mine = states
        scaled = [state * scale.to(state.dtype) for state, scale in zip(earlier, self.scale, strict=True)]
        added: Tensor = self.add(self.act(self.project(torch.cat(scaled, self.dim))))
        return mine + added.to(mine.dtype)


def pointwise(inputs: int, outputs: int, dim: int) -> nn.Conv2d | nn.Linear:
    """A matrix over the channels."""
    if dim == 1:
        return nn.Conv2d(inputs, outputs, 1, bias=False)
    return nn.Linear(inputs, outputs, bias=False)


def _along(weights: Tensor, state: Tensor, dim: int) -> Tensor:
    """Weights [C] or [1] in a form that multiplies the channels of a state."""
    return weights if dim == -1 else weights.view(-1, *[1] * (state.ndim - 2))
