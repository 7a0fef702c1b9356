"""Encoded pictures to pixels: torchvision's decoder for JPEG (two to three times PIL), PIL for the rest.

Grey becomes three equal channels; alpha is dropped, as PIL's convert("RGB") and every common training
pipeline do; EXIF orientation is applied. More than 8 bits become 8 by what the file says of its values, and
where it does not say what is white the picture is refused. Both decoders give the same pixels.

torchvision's PNG decoder is not used: a damaged file ends the process by a signal. With the checks that would
keep damage from it, it is no faster than PIL from 64 pixels on.
"""

import io
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode

from distill_mtl.picture_bytes import check_png, format_of, jpeg_size, refuse_size

# The operator behind torchvision.io.decode_jpeg, whose Python wrapper (logging, a warning at every call)
# takes a tenth of the time of a small picture. PIL does its work where torchvision was built without it.
_DECODE = getattr(torch.ops.image, "decode_jpeg", None)
_RGB = ImageReadMode.RGB.value
_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    OverflowError,
    MemoryError,
    RuntimeError,  # AVIF
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow raises of files that it cannot decode."""

_BITS, _PHOTOMETRIC, _FORMAT = 258, 262, 339  # TIFF's tags of its values
_LEAST, _MOST = (280, 340), (281, 341)
_UNSIGNED, _MIN_IS_WHITE = 1, 0


def read_image(payload: bytes, ending: str = "") -> Tensor:
    """uint8 [3, H, W] from an encoded picture.

    Args:
        payload: the encoded picture.
        ending: of its file's name, for TGA, whose bytes need not say what they are.

    Raises:
        ValueError: the bytes are not a picture, it is truncated or damaged or absurdly large, or does not say what
            its values mean.
    """
    try:
        if payload.startswith(b"\xff\xd8\xff") and (image := _read_jpeg(payload)) is not None:
            return image
        return _read_with_pil(payload, format_of(payload, ending))
    except _DAMAGE as error:
        finding = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"the picture cannot be decoded ({finding})") from None


def _read_jpeg(payload: bytes) -> Tensor | None:
    """The fast way; None where it is left to PIL, which has the last word, and the clearer one."""
    if _DECODE is None or (size := jpeg_size(payload)) is None:
        return None
    refuse_size(*size)
    # A bytearray, since torch warns of tensors over memory that cannot be written to.
    encoded = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
    try:
        image: Tensor = _DECODE(encoded, _RGB, True)  # True: apply EXIF orientation
    except RuntimeError:
        return None
    return image


def _read_with_pil(payload: bytes, form: str) -> Tensor:
    if form == "PNG":
        check_png(payload)
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # other libraries set it, and half a picture would pass
    if form not in Image.OPEN:
        Image.init()
    if form not in Image.OPEN:
        raise ValueError(f"the installed Pillow does not read {form}")
    # Not by Image.open, which would try other formats, and warns of large pictures where we refuse.
    picture = Image.OPEN[form][0](io.BytesIO(payload), "")
    refuse_size(*picture.size)
    picture.load()
    # To look for an orientation takes a fifth of the time of a small PNG, most of which say nothing but their pixels.
    upright = ImageOps.exif_transpose(picture) if form != "PNG" or picture.info else picture
    if upright.mode[0] in "IF":
        upright = Image.fromarray(_eight_bits(np.asarray(upright), picture))
    if upright.mode != "RGB":
        upright = upright.convert("RGB")
    pixels = torch.frombuffer(bytearray(upright.tobytes()), dtype=torch.uint8)
    return pixels.view(upright.height, upright.width, 3).permute(2, 0, 1)


def _eight_bits(values: np.ndarray, picture: Image.Image) -> np.ndarray:
    """uint8 [H, W] of grey values, by what their file says.

    Args:
        values: [H, W] of any kind.
        picture: as it was opened.

    Raises:
        ValueError: the file does not say which value is white, or has others.
    """
    tags = getattr(picture, "tag_v2", {})
    low, high = float(_first(tags, _LEAST) or 0), _white(tags, values.dtype.kind == "f")
    least, most = values.min(), values.max()
    if high is None or not low <= least <= most <= high or low >= high:
        kind = "float" if values.dtype.kind == "f" else f"{_first(tags, (_BITS,))}-bit"
        said = "does not say which value is white" if high is None else f"says {low:g} … {high:g}"
        raise ValueError(
            f"values {least:g} … {most:g} in a {kind} picture, and the file {said}; save it with 8 or 16 bits"
        )
    if values.dtype.kind == "f":
        scaled = (values.astype(np.float64) - low) * (255 / (high - low))
        pixels = scaled.round().astype(np.uint8)
    else:
        pixels = (values.astype(np.int64) >> (int(high).bit_length() - 8)).astype(np.uint8)
    return 255 - pixels if tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE else pixels


def _white(tags: Mapping[int, Any], floats: bool) -> float | None:
    """The largest value that a grey picture of more than 8 bits may have; None where its file does not say.

    Integers fill their bits: TIFF's MaxSampleValue may be the largest that occurs.
    """
    said = _first(tags, _MOST)
    if floats:
        return None if said is None else float(said)
    if said is not None:
        return float((1 << max(8, int(said).bit_length())) - 1)
    bits = _first(tags, (_BITS,)) or 16  # Pillow fills 16 bits from PNG, JPEG 2000 and PGM
    return float((1 << bits) - 1) if bits <= 16 and _first(tags, (_FORMAT,)) in (None, _UNSIGNED) else None


def _first(tags: Mapping[int, Any], names: tuple[int, ...]) -> Any:
    """The value of the first of some tags that is there, of the first channel."""
    for name in names:
        if (value := tags.get(name)) is not None:
            return value[0] if isinstance(value, tuple) else value
    return None
