"""Forms of boxes: how a detector's raw outputs are read as scored boxes. One file per form in `box_forms/`.

`box_recognition.find_reading` finds the form from names, shapes and the numbers of a trial; `read_boxes` reads any
outputs by it:

    reading = find_reading(raw, contract.size)
    boxes = read_boxes(raw, reading, contract, classes=80, view=(480, 640))
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torchvision.ops import box_convert

from distill_mtl.geometry.views import Size
from distill_mtl.networks.boxes import ScoredBoxes, in_view, strongest
from distill_mtl.networks.inputs import InputContract
from distill_mtl.registry import Registry

Corners = Literal["xyxy", "yxyx", "cxcywh", "xywh"]
Unit = Literal["pixels", "shares"]
Background = Literal["none", "first", "last"]
Raw = Mapping[str, Tensor]
"""Outputs of a network by name, or the part of them that a form reads by role, first dimension R."""

BOX_FORMS: Registry[type["BoxForm"]] = Registry("form of boxes", "distill_mtl.networks.box_forms")
KEYS = ("corners", "unit", "background", "overlap")
"""What a recipe may say of boxes besides their form."""
_LISTED = (100, 300)  # lengths of lists that exporters give


@dataclass(frozen=True)
class BoxReading:
    """How raw outputs become boxes.

    Attributes:
        form: name of the form.
        outputs: role -> name of the output that has it.
        corners: what the four numbers of a box are: two corners (xyxy, yxyx), its centre and sides (cxcywh), or its
            left upper corner and sides (xywh).
        unit: pixels of the network's input, or shares of its sides.
        background: where a class of "nothing" stands among the network's classes: before ours, behind them, or
            nowhere. Before them, the first label is 1.
        overlap: intersection over union from which the weaker of two boxes of a class goes; None: the network has
            sorted them out itself.
        found: keys that a trial told; the others are the recipe's, or the form's own.
    """

    form: str
    outputs: Mapping[str, str]
    corners: Corners
    unit: Unit
    background: Background
    overlap: float | None
    found: tuple[str, ...] = ()

    @property
    def kind(self) -> type["BoxForm"]:
        """The form."""
        return BOX_FORMS[self.form]

    def described(self) -> dict[str, Any]:
        """The keys of a recipe's `output` that say the same."""
        said = {key: getattr(self, key) for key in KEYS}
        return {"gives": "boxes", "form": self.form} | {
            key: value for key, value in said.items() if value is not None
        }

    def others(self) -> Iterator[tuple[str, str, "BoxReading"]]:
        """Other readings of the same outputs: what the network then does, as a clause; the recipe's keys; the
        reading. The commonest mistakes come first."""
        for key, values in (("unit", Unit), ("corners", Corners), ("background", Background)):
            for value in get_args(values):
                if value != getattr(self, key) and value in self.kind.possible(key):
                    yield _CLAUSES[key, value], f"{key}: {value}", replace(self, **{key: value})


_CLAUSES = {
    ("unit", "pixels"): "it gives its boxes in pixels of its input, not in shares of the sides",
    ("unit", "shares"): "it gives its boxes in shares of the sides, not in pixels of its input",
    ("corners", "xyxy"): "its boxes are left, top, right, bottom",
    ("corners", "yxyx"): "its boxes are top, left, bottom, right: x and y are swapped",
    ("corners", "cxcywh"): "its boxes are the centre's x and y, width, height",
    ("corners", "xywh"): "its boxes are left, top, width, height",
    ("background", "none"): "none of its classes is a background",
    ("background", "first"): "its first class is a background, so its labels are one higher than the classes",
    ("background", "last"): "its last class is a background",
}


class BoxForm(ABC):
    """A form of boxes, registered under the name that a recipe uses. Its class attributes are what a file of this
    form usually does; a trial and the recipe may say otherwise.

    Attributes:
        words: the form, for people.
        roles: what it reads -> how many axes that has, those of the batch and of the boxes included.
        numbers_classes: boxes come with the number of their class, so that nothing says how many classes there are.
        tells_corners: its boxes cover the whole picture, so that a trial tells two corners from centre and sides.
        corners, unit, background, overlap: as in `BoxReading`.
        mean, std: of the pixels that its networks are usually trained with, white being 1.
        pad: what lies beside a letterboxed picture, from 0 (black) to 255.
    """

    words: ClassVar[str]
    roles: ClassVar[Mapping[str, int]]
    numbers_classes: ClassVar[bool] = False
    tells_corners: ClassVar[bool] = False
    corners: ClassVar[Corners] = "xyxy"
    unit: ClassVar[Unit] = "pixels"
    background: ClassVar[Background] = "none"
    overlap: ClassVar[float | None] = None
    mean: ClassVar[tuple[float, ...]] = (0.0,) * 3
    std: ClassVar[tuple[float, ...]] = (1.0,) * 3
    pad: ClassVar[int] = 0

    @classmethod
    @abstractmethod
    def match(cls, raw: Raw, size: Size, classes: int | None) -> dict[str, str] | None:
        """The outputs that have the roles; None where these are not outputs of this form.

        Args:
            raw: all outputs of a trial on random pictures, with a batch's axis.
            size: of the network's input.
            classes: how many are known; None: it is not known.
        """

    @classmethod
    def fits(cls, raw: Raw) -> dict[str, str] | None:
        """As `match`, by the least that is needed, for a form that the recipe names: the first outputs with the
        axes of the roles."""
        taken: dict[str, str] = {}
        for role, axes in cls.roles.items():
            names = [
                name
                for name, value in raw.items()
                if value.ndim == axes
                and name not in taken.values()
                and (role != "boxes" or value.shape[-1] == 4)
            ]
            named = [name for name in names if role in name.lower()]
            if not names:
                return None
            taken[role] = (named or names)[0]
        return taken

    @classmethod
    @abstractmethod
    def read(cls, raw: Raw, reading: BoxReading) -> tuple[Tensor, Tensor, Tensor | None]:
        """Boxes [R, N, 4] as they are; scores [R, N, C] of the classes, or [R, N] with labels int64 [R, N].

        Args:
            raw: role -> its output, floating point, with a batch's axis.
            reading: of this form.
        """

    @classmethod
    def refined(cls, raw: Raw, reading: BoxReading, classes: int | None) -> BoxReading:
        """What a trial tells about a reading of this form besides `corners` and `unit`."""
        return reading

    @classmethod
    def possible(cls, key: str) -> tuple[str, ...]:
        """Values of a reading's key that this form can have."""
        return {
            "corners": get_args(Corners),
            "unit": get_args(Unit),
            "background": get_args(Background),
        }[key]


@torch.no_grad()
def read_boxes(
    raw: Raw,
    reading: BoxReading,
    contract: InputContract,
    *,
    classes: int | None = None,
    view: Size | None = None,
) -> ScoredBoxes:
    """Raw outputs as scored boxes, strongest first, in pixels of the view that the network was shown.

    Args:
        raw: the outputs by name, first dimension R.
        reading: of them.
        contract: of the network's input.
        classes: how many there are; higher ones are dropped. None: all are taken.
        view: height and width of what the network was shown before its contract; None: of its input.
    """
    size = contract.size
    boxes, scores, labels = reading.kind.read(by_role(raw, reading), reading)
    if labels is not None:
        labels = labels - int(reading.background == "first")
        known = labels >= 0 if classes is None else (labels >= 0) & (labels < classes)
        labels = labels.where(known, -1)
    elif classes is not None:
        scores = scores[..., :classes]
    if reading.corners == "yxyx":
        boxes = boxes[..., [1, 0, 3, 2]]
    elif reading.corners != "xyxy":
        boxes = box_convert(boxes, reading.corners, "xyxy")
    if reading.unit == "shares":
        boxes = boxes * boxes.new_tensor([size[1], size[0]]).repeat(2)
    found = strongest(boxes, scores, labels, reading.overlap)
    return in_view(found, contract, view) if view is not None else found


def by_role(raw: Raw, reading: BoxReading) -> Raw:
    """Role -> its output, floating point, with a batch's axis."""
    axes = reading.kind.roles
    return {
        role: batched(raw[name], axes.get(role, raw[name].ndim)).float()
        for role, name in reading.outputs.items()
    }


def batched(output: Tensor, axes: int) -> Tensor:
    """With the batch's axis, where a network of one picture left it out."""
    return output[None] if output.ndim == axes - 1 else output


def class_scores(columns: Tensor, background: Background) -> Tensor:
    """Columns [R, N, C] of scores without that of the background."""
    return columns[..., background == "first" : columns.shape[-1] - (background == "last")]


def are_shares(values: Tensor) -> bool:
    """Whether all numbers can be probabilities."""
    return values.numel() > 0 and bool(
        values.isfinite().all() and values.min() >= 0 and values.max() <= 1 + 1e-3
    )


def are_whole(values: Tensor) -> bool:
    """Whether all numbers can be numbers of classes."""
    return values.numel() > 0 and bool((values == values.round()).all() and values.min() >= 0)


def is_list(rows: Tensor, size: Size) -> bool:
    """Whether rows [R, N, 6 or more] are a score and the number of a class behind a box.

    Not where N is the number of all places of an input of this size: scores may be whole numbers too, such as 0.
    """
    every = any(rows.shape[1] in (count, 3 * count) for count in cells(size))
    usual = rows.shape[1] in _LISTED or not every
    return usual and are_shares(rows[..., 4]) and are_whole(rows[..., 5])


def cells(size: Size) -> tuple[int, ...]:
    """How many places a YOLO network looks at in an input: cells of three or four maps, whose strides double."""
    strides = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
    return tuple(
        sum((-(-size[0] // stride)) * (-(-size[1] // stride)) for stride in some) for some in strides
    )
