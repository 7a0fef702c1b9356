"""Whether a teacher is heard on a row: far from its own domain it guesses, and a guess teaches nothing.

Off unless a recipe says so. A teacher that is sure of something wrong passes every gate.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Gate:
    """Keeps the rows on which a teacher's softmax at T = 1 is decided enough.

    Attributes:
        by: `entropy`, as a share in [0, 1] of that of an even guess, may be at most `limit`; `confidence`,
            the largest probability, must be at least that. A map's row has the mean over its pixels.
        limit: in [0, 1].
        known: positions of the classes that the teacher knows; None: all.
    """

    by: Literal["entropy", "confidence"]
    limit: float
    known: tuple[int, ...] | None = None

    def hears(self, logits: Tensor) -> Tensor:
        """bool [R] from the teacher's logits [R, classes, ...]."""
        if self.known is not None:
            logits = logits[:, list(self.known)]
        probabilities = logits.float().softmax(1)
        if self.by == "confidence":
            return _by_row(probabilities.amax(1)) >= self.limit
        # A teacher of a single class has no doubt to show.
        even = math.log(max(2, probabilities.shape[1]))
        return _by_row(torch.special.entr(probabilities).sum(1)) / even <= self.limit


def _by_row(values: Tensor) -> Tensor:
    return values if values.ndim == 1 else values.flatten(1).mean(1)
