"""YOLO v8 to v11 before suppression: for each place four numbers of a box and one score of each class."""

from typing import ClassVar

from torch import Tensor

from distill_mtl.geometry.views import Size
from distill_mtl.networks.box_form import (
    BOX_FORMS,
    BoxForm,
    BoxReading,
    Raw,
    are_shares,
    cells,
    class_scores,
    is_list,
)


@BOX_FORMS.register("yolo")
class Yolo(BoxForm):
    """One output [R, 4 + C, N] or [R, N, 4 + C], N being the longer axis; scores in [0, 1].

    Recognised by N, which follows from the input's size, or by the number of classes where it is known. RT-DETR as
    YOLO's own tools export it has this form too, with N = 300 and shares of the sides.
    """

    words = "YOLO v8 to v11 without NMS: one output [B, 4 + classes, N]"
    roles: ClassVar = {"output": 3}
    tells_corners = True
    corners = "cxcywh"
    overlap = 0.7
    pad = 114

    @classmethod
    def match(cls, raw: Raw, size: Size, classes: int | None) -> dict[str, str] | None:
        for name, value in raw.items():
            if value.ndim != 3 or (value.shape[2] == 6 and is_list(value, size)):
                continue
            channels, places = sorted(value.shape[1:])
            first = value.shape[1] == channels
            told = channels == 4 + classes if classes is not None else first and places in cells(size)
            if told and channels >= 5 and are_shares(_rows(value)[..., 4:]):
                return {"output": name}
        return None

    @classmethod
    def read(cls, raw: Raw, reading: BoxReading) -> tuple[Tensor, Tensor, Tensor | None]:
        rows = _rows(raw["output"])
        return rows[..., :4], class_scores(rows[..., 4:], reading.background), None


def _rows(output: Tensor) -> Tensor:
    """[R, N, 4 + C]"""
    return output.transpose(1, 2) if output.shape[1] < output.shape[2] else output
