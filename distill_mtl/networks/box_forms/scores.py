"""Boxes and, beside them, the probabilities of each class before suppression: SSD and its line as an exported graph."""

from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from distill_mtl.geometry.views import Size
from distill_mtl.networks.box_form import (
    BOX_FORMS,
    Background,
    BoxForm,
    BoxReading,
    Raw,
    are_shares,
    class_scores,
)


@BOX_FORMS.register("scores")
class Scores(BoxForm):
    """Boxes [R, N, 4] and probabilities [R, N, C + 1], the background first where they sum to 1, or [R, N, C]."""

    words = "SSD's line without NMS: boxes [B, N, 4] and probabilities [B, N, background + classes]"
    roles: ClassVar = {"boxes": 3, "scores": 3}
    tells_corners = True
    unit = "shares"
    background = "first"
    overlap = 0.45
    mean, std = (0.5,) * 3, (0.5,) * 3

    @classmethod
    def match(cls, raw: Raw, size: Size, classes: int | None) -> dict[str, str] | None:
        three = {name: value for name, value in raw.items() if value.ndim == 3}
        if len(three) != 2:
            return None
        for place, name in (tuple(three), tuple(three)[::-1]):
            boxes, scores = three[place], three[name]
            if boxes.shape[2] == 4 and scores.shape[1] == boxes.shape[1] and are_shares(scores):
                return {"boxes": place, "scores": name}
        return None

    @classmethod
    def refined(cls, raw: Raw, reading: BoxReading, classes: int | None) -> BoxReading:
        scores = raw["scores"]
        if classes is not None:
            background: Background = "first" if scores.shape[2] == classes + 1 else "none"
        else:
            background = "first" if bool((scores.sum(2) - 1).abs().max() < 1e-2) else "none"
        return replace(reading, background=background, found=(*reading.found, "background"))

    @classmethod
    def read(cls, raw: Raw, reading: BoxReading) -> tuple[Tensor, Tensor, Tensor | None]:
        return raw["boxes"], class_scores(raw["scores"], reading.background), None
