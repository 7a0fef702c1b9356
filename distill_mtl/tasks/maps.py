"""Maps of numbers per pixel, of students, teachers and labels, in several sizes; and the files of labels."""

import io

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from distill_mtl.errors import brief
from distill_mtl.geometry.views import Size, View
from distill_mtl.networks.modes import recorded
from distill_mtl.picture_bytes import check_png
from distill_mtl.reading import DAMAGED_ARRAY


def resized(maps: Tensor, size: Size) -> Tensor:
    """[R, C, h, w] as [R, C, H, W], bilinear."""
    if not recorded() and map_size(maps) == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def map_size(maps: Tensor) -> Size:
    """Height and width of [..., H, W]."""
    return (maps.shape[-2], maps.shape[-1])


def resized_where(maps: Tensor, valid: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Maps with pixels that mean nothing, in another size.

    Args:
        maps: [R, C, h, w], finite everywhere.
        valid: bool [R, h, w].
        size: height and width of the result.

    Returns:
        [R, C, H, W], and bool [R, H, W], where no invalid pixel has flowed in.
    """
    if map_size(maps) == size:
        return maps, valid
    share = resized(valid[:, None].to(maps.dtype), size)[:, 0]
    return resized(maps, size), share > 0.999  # of weights that sum to 1 but for rounding


def paste_view(maps: Tensor, view: View, picture: Size, fill: float) -> Tensor:
    """A map of a view [..., h, w] in the picture that the view was cut from, [..., H, W].

    Args:
        maps: at the view's own height and width.
        view: its box may reach beyond the picture; not mirrored.
        picture: height and width.
        fill: stands where the view does not reach.
    """
    whole = maps.new_full((*maps.shape[:-2], *picture), fill)
    top, left = max(view.top, 0), max(view.left, 0)
    bottom, right = min(view.top + view.height, picture[0]), min(view.left + view.width, picture[1])
    whole[..., top:bottom, left:right] = maps[
        ..., top - view.top : bottom - view.top, left - view.left : right - view.left
    ]
    return whole


def mean_where(values: Tensor, valid: Tensor) -> Tensor:
    """[R], the mean of [R, H, W] over the valid pixels of each row; 0 for a row without any.

    What stands at other pixels may be anything finite.
    """
    count = valid.sum(dim=(1, 2)).clamp(min=1)
    return values.masked_fill(~valid, 0.0).sum(dim=(1, 2)) / count


_PNG, _NPY = b"\x89PNG\r\n\x1a\n", b"\x93NUMPY"


def is_png(payload: bytes) -> bool:
    """Told by the first bytes.

    Raises:
        ValueError: they are neither a PNG's nor an npy's.
    """
    if not payload.startswith((_PNG, _NPY)):
        raise ValueError(f"the label is neither a PNG nor an npy file: it begins with {payload[:6]!r}.")
    return payload.startswith(_PNG)


def read_png(payload: bytes, what: str) -> tuple[str, NDArray]:
    """PIL's mode of a PNG picture, and its pixels.

    Args:
        payload: of the member.
        what: it shows, for the message.

    Raises:
        ValueError: it is not a PNG, or it is truncated or damaged.
    """
    if not payload.startswith(_PNG):
        raise ValueError(f"{what} is not a PNG picture.")
    try:
        check_png(payload)
        with Image.open(io.BytesIO(payload), formats=["PNG"]) as picture:
            return picture.mode, np.asarray(picture)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{what} is a PNG picture that cannot be read ({error}).") from None


def read_npy(payload: bytes) -> NDArray[np.float32]:
    """The floating-point numbers of an npy file, as float32.

    Raises:
        ValueError: it is cut or damaged, or holds anything but such numbers.
    """
    try:
        # An npy file may hold pickled objects, which would run code; these are refused.
        array = np.load(io.BytesIO(payload), allow_pickle=False)
    except DAMAGED_ARRAY as error:
        raise ValueError(f"the npy file cannot be read ({brief(error)}).") from None
    if array.dtype.kind != "f":
        raise ValueError(
            f"the npy file holds {array.dtype} numbers. It must hold floats, in the unit that is meant."
        )
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def write_png(pixels: NDArray) -> bytes:
    """A PNG picture of uint8 or uint16 [H, W], or of uint8 [H, W, 3]."""
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return encoded.getvalue()


def write_npy(array: NDArray[np.float32]) -> bytes:
    """An npy file of numbers."""
    encoded = io.BytesIO()
    np.save(encoded, np.ascontiguousarray(array), allow_pickle=False)
    return encoded.getvalue()


def shape_text(array: NDArray) -> str:
    """A shape for messages: 8x6x3."""
    return "x".join(str(side) for side in array.shape) or "a single number"
