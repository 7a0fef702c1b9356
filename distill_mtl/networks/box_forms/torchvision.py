"""torchvision's detectors: lists of boxes, labels and scores, from the network itself or from an exported graph."""

from typing import ClassVar

from torch import Tensor

from distill_mtl.geometry.views import Size
from distill_mtl.networks.box_form import BOX_FORMS, BoxForm, BoxReading, Raw


@BOX_FORMS.register("torchvision")
class Torchvision(BoxForm):
    """Boxes [R, N, 4] in pixels, labels int64 [R, N] that begin at 1 (0 is the background), scores [R, N].

    They are sorted out already. An exported graph of one picture leaves out the batch's axis. The networks normalise
    by themselves, so their pixels are in [0, 1].
    """

    words = "torchvision's detectors: boxes [N, 4], labels [N], scores [N] of one picture"
    roles: ClassVar = {"boxes": 3, "labels": 2, "scores": 2}
    numbers_classes = True
    background = "first"

    @classmethod
    def match(cls, raw: Raw, size: Size, classes: int | None) -> dict[str, str] | None:
        boxes = [name for name, value in raw.items() if value.ndim == 3 and value.shape[2] == 4]
        lists = {name: value for name, value in raw.items() if value.ndim == 2}
        labels = [name for name, value in lists.items() if not value.is_floating_point()]
        scores = [name for name, value in lists.items() if value.is_floating_point()]
        if not len(boxes) == len(labels) == len(scores) == 1 or any(
            value.ndim == 1 for value in raw.values()
        ):
            return None
        if len({raw[name].shape[1] for name in (*boxes, *lists)}) > 1:
            return None
        return {"boxes": boxes[0], "labels": labels[0], "scores": scores[0]}

    @classmethod
    def read(cls, raw: Raw, reading: BoxReading) -> tuple[Tensor, Tensor, Tensor | None]:
        return raw["boxes"], raw["scores"], raw["labels"].long()

    @classmethod
    def possible(cls, key: str) -> tuple[str, ...]:
        return ("none", "first") if key == "background" else super().possible(key)
