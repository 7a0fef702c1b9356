"""SSD and EfficientDet with TensorFlow's postprocessing inside: boxes, classes, scores, and how many there are."""

from typing import ClassVar

import torch
from torch import Tensor

from distill_mtl.geometry.views import Size
from distill_mtl.networks.box_form import BOX_FORMS, BoxForm, BoxReading, Raw, are_shares, are_whole

_OF_CLASSES, _OF_SCORES = ("class", "label"), ("score", "conf")


@BOX_FORMS.register("ssd")
class Ssd(BoxForm):
    """Boxes [R, N, 4] (top, left, bottom, right as shares), classes [R, N], scores [R, N], and their number [R].

    Which of the two lists holds the classes is told by the names, else by the numbers, else by the order of
    `TFLite_Detection_PostProcess`: boxes, classes, scores, number.
    """

    words = "SSD and EfficientDet with NMS inside: boxes [B, N, 4], classes [B, N], scores [B, N], number [B]"
    roles: ClassVar = {"boxes": 3, "labels": 2, "scores": 2}
    numbers_classes = True
    corners = "yxyx"
    unit = "shares"
    mean, std = (0.5,) * 3, (0.5,) * 3

    @classmethod
    def match(cls, raw: Raw, size: Size, classes: int | None) -> dict[str, str] | None:
        boxes = [name for name, value in raw.items() if value.ndim == 3 and value.shape[2] == 4]
        counts = [name for name, value in raw.items() if value.shape[1:] in ((), (1,)) and value.ndim < 3]
        lists = [name for name, value in raw.items() if value.ndim == 2 and name not in counts]
        if len(boxes) != 1 or len(lists) != 2 or len(counts) > 1:
            return None
        if any(raw[name].shape[1] != raw[boxes[0]].shape[1] for name in lists):
            return None
        labels, scores = _sorted(raw, lists)
        if not are_whole(raw[labels]) or not are_shares(raw[scores]):
            return None
        if not counts and not raw[labels].is_floating_point():
            return None  # torchvision's
        count = {"count": counts[0]} if counts else {}
        return {"boxes": boxes[0], "labels": labels, "scores": scores, **count}

    @classmethod
    def read(cls, raw: Raw, reading: BoxReading) -> tuple[Tensor, Tensor, Tensor | None]:
        scores = raw["scores"]
        if "count" in raw:
            place = torch.arange(scores.shape[1], device=scores.device)
            scores = scores * (place < raw["count"].reshape(-1, 1))
        return raw["boxes"], scores, raw["labels"].round().long()

    @classmethod
    def possible(cls, key: str) -> tuple[str, ...]:
        return ("none", "first") if key == "background" else super().possible(key)


def _sorted(raw: Raw, lists: list[str]) -> tuple[str, str]:
    """The names of the classes and of the scores."""
    for one, other in (lists, lists[::-1]):
        if any(word in one.lower() for word in _OF_CLASSES) or any(
            word in other.lower() for word in _OF_SCORES
        ):
            return one, other
    first, second = (raw[name] for name in lists)
    swapped = are_whole(second) and not are_whole(first) and are_shares(first)
    return (lists[1], lists[0]) if swapped else (lists[0], lists[1])
