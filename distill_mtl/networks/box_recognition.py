"""Which form of boxes a detector's outputs have: by names, shapes, and the numbers of a trial on noise."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from distill_mtl.errors import UserError
from distill_mtl.geometry.views import Size
from distill_mtl.networks.box_form import (
    BOX_FORMS,
    KEYS,
    BoxReading,
    Raw,
    Unit,
    are_shares,
    by_role,
    cells,
    is_list,
)
from distill_mtl.recipe.schema import OutputSection

_PIXELS = 2.0  # the largest coordinate that may still be a share: boxes reach beyond the picture


def may_be_boxes(output: OutputSection, *, known: bool) -> bool:
    """Whether a network's outputs are to be looked at as boxes.

    Args:
        output: what the recipe says.
        known: the files say what the network answers, and it is something else.

    Raises:
        UserError: the recipe says of boxes what it says to be none.
    """
    said = [key for key in ("form", *KEYS) if getattr(output, key) is not None]
    if said and output.gives not in (None, "boxes"):
        raise UserError(
            f"`output.{said[0]}` is about boxes, and `output.gives` says {output.gives}. Write `gives: boxes`, or "
            f"remove `{said[0]}`."
        )
    return output.gives == "boxes" or bool(said) or (output.gives is None and not known)


@torch.no_grad()
def find_reading(
    raw: Raw, size: Size, output: OutputSection | None = None, classes: int | None = None
) -> BoxReading | None:
    """How the outputs of a detector are to be read; None where they are no known form of boxes.

    Args:
        raw: all outputs of a trial on random pictures, by name; the batch's axis may be missing for one picture.
        size: of the network's input.
        output: what the recipe says; it decides. None: nothing.
        classes: how many are known; None: it is not known.

    Raises:
        UserError: instance masks or oriented boxes; or the recipe says boxes, and they are not of the form that it
            names, or of none.
    """
    raw, output = _with_batch(raw), output or OutputSection()
    if output.name is not None:
        named = list(raw)[output.name : output.name + 1] if isinstance(output.name, int) else [output.name]
        raw = {name: value for name, value in raw.items() if name in named} or raw
    _refuse_other_answers(raw, size)
    for name in [output.form] if output.form is not None else BOX_FORMS.names():
        form = BOX_FORMS[name]
        outputs = form.match(raw, size, classes) or (form.fits(raw) if output.form is not None else None)
        if outputs is not None:
            return _read_trial(name, outputs, raw, output, classes)
    if output.form is not None or output.gives == "boxes":
        said = f"not of the form {output.form}" if output.form is not None else "no known form of boxes"
        raise UserError(
            f"its outputs {_shapes(raw)} are {said}. {_known_forms()} Name it with "
            "`output: {gives: boxes, form: ...}`, or export the network in one of them."
        )
    return None


def _read_trial(
    name: str, outputs: Mapping[str, str], raw: Raw, output: OutputSection, classes: int | None
) -> BoxReading:
    """The reading, with what the numbers of the trial tell about it."""
    form = BOX_FORMS[name]
    usual = BoxReading(name, outputs, form.corners, form.unit, form.background, form.overlap)
    told = form.refined(by_role(raw, usual), usual, classes)
    boxes, scores, _ = form.read(by_role(raw, told), told)
    boxes = boxes[scores > 0] if form.numbers_classes else boxes.flatten(0, 1)
    boxes = boxes[boxes.isfinite().all(1) & boxes.any(1)]
    if len(boxes):
        unit: Unit = "pixels" if float(boxes.amax()) > _PIXELS else "shares"
        told = replace(told, unit=unit, found=(*told.found, "unit"))
        if form.tells_corners and len(boxes) >= 8:
            # Sides are seldom larger than the coordinates of their centre, so one box in many gives it away.
            ordered = bool((boxes[:, 2:] >= boxes[:, :2]).all())
            told = replace(told, corners="xyxy" if ordered else "cxcywh", found=(*told.found, "corners"))
    said = {key: value for key in KEYS if (value := getattr(output, key)) is not None}
    for key, value in said.items():
        if key != "overlap" and value not in form.possible(key):
            raise UserError(
                f"`output.{key}: {value}` is impossible for the form {name}. Possible: {', '.join(form.possible(key))}."
            )
    return replace(told, **said, found=tuple(key for key in told.found if key not in said))


def _with_batch(raw: Raw) -> dict[str, Tensor]:
    """Outputs of one picture without a batch's axis get one: those whose [N, 4] boxes have company of the same N."""
    boxes = [value for value in raw.values() if value.ndim == 2 and value.shape[1] == 4]
    for value in boxes:
        beside = [
            other for other in raw.values() if other is not value and other.shape[:1] == value.shape[:1]
        ]
        if sum(other.ndim == 1 for other in beside) >= 2:
            return {name: output[None] for name, output in raw.items()}
    return dict(raw)


def _refuse_other_answers(raw: Raw, size: Size) -> None:
    """Raises UserError for instance masks and oriented boxes."""
    named = any("box" in name.lower() for name in raw)
    of_boxes = {value.shape[:2] for value in raw.values() if value.ndim == 3 and value.shape[2] == 4}
    for name, value in raw.items():
        if (named and "mask" in name.lower()) or (value.ndim == 5 and value.shape[:2] in of_boxes):
            raise _masks(name)
    prototypes = [value.shape[1] for value in raw.values() if value.ndim == 4]
    for name, value in raw.items():
        if value.ndim != 3:
            continue
        listed = value.shape[2] > 6 and is_list(value, size)
        places = {count * boxes for count in cells(size) for boxes in (1, 3)}
        rows = value.transpose(1, 2) if value.shape[1] < value.shape[2] else value
        if not listed and not (rows.shape[1] in places and rows.shape[2] > 5):
            continue
        behind = value[..., 6:] if listed else rows[..., 4:]
        if any(_ends_in(behind, count, listed) for count in prototypes):
            raise _masks(name)
        if _ends_in(behind, 1, listed) and float(behind[..., -1].abs().max()) <= torch.pi:
            raise UserError(
                f"its output '{name}' {list(value.shape)} has an angle behind the classes: oriented boxes are not "
                "read. Name a detector of upright boxes."
            )


def _ends_in(behind: Tensor, count: int, listed: bool) -> bool:
    """Whether the last columns are `count` that are no scores, and all before them are scores.

    Args:
        behind: [R, N, K], what follows a box; of a list what follows its class, where no scores are left.
        count: of the last columns.
        listed: it is a list.
    """
    if listed:
        return behind.shape[2] == count
    return (
        behind.shape[2] > count and are_shares(behind[..., :-count]) and not are_shares(behind[..., -count:])
    )


def _masks(name: str) -> UserError:
    return UserError(
        f"its output '{name}' belongs to instance masks, which are not read. Name a detector of boxes, or a network of "
        "kind segmentation."
    )


def _shapes(raw: Raw) -> str:
    """Names and shapes, for a message."""
    return ", ".join(f"{name} [{', '.join(map(str, value.shape))}]" for name, value in raw.items())


def _known_forms() -> str:
    """All forms, for a message."""
    return (
        "Known forms: " + "; ".join(f"{name} ({BOX_FORMS[name].words})" for name in BOX_FORMS.names()) + "."
    )
