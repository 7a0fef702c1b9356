"""YOLO v3 to v7 and YOLOX before suppression: a box, whether there is an object, and which class it is then."""

from typing import ClassVar

from torch import Tensor

from distill_mtl.geometry.views import Size
from distill_mtl.networks.box_form import BOX_FORMS, BoxForm, BoxReading, Raw, are_shares, cells, class_scores


@BOX_FORMS.register("yolov5")
class YoloV5(BoxForm):
    """One output [R, N, 5 + C]; a class's score is its probability times that of an object, column 4.

    Recognised by N, which follows from the input's size (three boxes in each cell, or one), or by the number of classes
    where it is known.
    """

    words = "YOLO v3 to v7 and YOLOX without NMS: one output [B, N, 5 + classes]"
    roles: ClassVar = {"output": 3}
    tells_corners = True
    corners = "cxcywh"
    overlap = 0.45
    pad = 114

    @classmethod
    def match(cls, raw: Raw, size: Size, classes: int | None) -> dict[str, str] | None:
        places = {count * boxes for count in cells(size) for boxes in (1, 3)}
        for name, value in raw.items():
            if value.ndim != 3 or value.shape[2] < 6 or not are_shares(value[..., 4:]):
                continue
            if value.shape[2] == 5 + classes if classes is not None else value.shape[1] in places:
                return {"output": name}
        return None

    @classmethod
    def read(cls, raw: Raw, reading: BoxReading) -> tuple[Tensor, Tensor, Tensor | None]:
        output = raw["output"]
        return (
            output[..., :4],
            class_scores(output[..., 5:] * output[..., 4:5], reading.background),
            None,
        )
