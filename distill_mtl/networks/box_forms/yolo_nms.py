"""YOLO with its suppression inside (`nms=True`, and the versions that need none): a list of boxes."""

from typing import ClassVar

from torch import Tensor

from distill_mtl.geometry.views import Size
from distill_mtl.networks.box_form import BOX_FORMS, BoxForm, BoxReading, Raw, is_list

_MOST = 1000  # boxes: YOLO's own limit is 300


@BOX_FORMS.register("yolo_nms")
class YoloNms(BoxForm):
    """One output [R, N, 6]: left, top, right, bottom, score, number of the class; empty slots have the score 0."""

    words = "YOLO with NMS inside: one output [B, N, 6], box, score, class"
    roles: ClassVar = {"output": 3}
    numbers_classes = True
    pad = 114

    @classmethod
    def match(cls, raw: Raw, size: Size, classes: int | None) -> dict[str, str] | None:
        for name, value in raw.items():
            if value.ndim == 3 and value.shape[2] == 6 and value.shape[1] <= _MOST and is_list(value, size):
                return {"output": name}
        return None

    @classmethod
    def read(cls, raw: Raw, reading: BoxReading) -> tuple[Tensor, Tensor, Tensor | None]:
        output = raw["output"]
        return output[..., :4], output[..., 4], output[..., 5].long()
