"""The DETR family: a fixed number of queries, each with the logits of the classes and a box."""

from dataclasses import replace
from typing import ClassVar

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
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


@BOX_FORMS.register("detr")
class Detr(BoxForm):
    """Logits [R, Q, C + 1] and boxes [R, Q, 4], no suppression: the training lets one query find an object.

    With a background the score is that of the softmax's best class, one for each query (DETR: Carion et al. 2020,
    arXiv:2005.12872, "no object" last). Without one (`background: none`) each class has its sigmoid, as in Deformable
    DETR, DINO and RT-DETR. The number of classes tells which, else a trial on noise: a softmax says "no object", and
    sigmoids are low for all classes.
    """

    words = "DETR family: logits [B, Q, classes + 1] or [B, Q, classes], and boxes [B, Q, 4]"
    roles: ClassVar = {"boxes": 3, "logits": 3}
    corners = "cxcywh"
    unit = "shares"
    background = "last"
    mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    @classmethod
    def match(cls, raw: Raw, size: Size, classes: int | None) -> dict[str, str] | None:
        three = {name: value for name, value in raw.items() if value.ndim == 3}
        boxes = [name for name, value in three.items() if value.shape[2] == 4 and are_shares(value)]
        for place in boxes:
            for name, value in three.items():
                beside = name != place and value.shape[1] == three[place].shape[1] and value.shape[2] > 1
                of_classes = "logits" in name or (len(three) == 2 and not are_shares(value))
                if beside and of_classes:
                    return {"boxes": place, "logits": name}
        return None

    @classmethod
    def refined(cls, raw: Raw, reading: BoxReading, classes: int | None) -> BoxReading:
        logits = raw["logits"]
        if classes is not None:
            background: Background = "none" if logits.shape[2] == classes else "last"
        else:
            # Half way from no class in particular to certainly the last one.
            nothing = float(logits.softmax(2)[..., -1].mean())
            background = "last" if nothing > (1 + 1 / logits.shape[2]) / 2 else "none"
        return replace(reading, background=background, found=(*reading.found, "background"))

    @classmethod
    def read(cls, raw: Raw, reading: BoxReading) -> tuple[Tensor, Tensor, Tensor | None]:
        logits = raw["logits"]
        if reading.background == "none":
            return raw["boxes"], logits.sigmoid(), None
        scores = class_scores(logits.softmax(2), reading.background)
        return raw["boxes"], scores * (scores == scores.amax(2, keepdim=True)), None
