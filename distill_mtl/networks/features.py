"""The shape of a network's inner feature, in the one layout that the rest of the program uses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class FeatureShape:
    """A tapped feature: a map [B, channels, height, width], or a vector [B, channels] (size None).

    Attributes:
        channels: width of the feature.
        size: height and width of the map at the network's own input size; None for a vector.
        pyramid: the feature is a stage output of the trunk, for heads that want several scales.
    """

    channels: int
    size: tuple[int, int] | None
    pyramid: bool = False

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "FeatureShape":
        """From what `dataclasses.asdict` gave, once through JSON. Raises KeyError or TypeError for anything else."""
        size = entry["size"]
        return cls(entry["channels"], None if size is None else (size[0], size[1]), entry["pyramid"])

    @classmethod
    def of(cls, feature: Tensor, *, pyramid: bool = False) -> "FeatureShape":
        """The shape of a feature in the one layout: [B, C, h, w] or [B, C]."""
        size = (feature.shape[2], feature.shape[3]) if feature.ndim == 4 else None
        return cls(feature.shape[1], size, pyramid and size is not None)
