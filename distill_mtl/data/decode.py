"""Encoded pictures to pixels: torchvision's decoder for JPEG and PNG (two to three times PIL), PIL for the rest.

Grey becomes three equal channels; alpha is dropped, as PIL's convert("RGB") and every common training
pipeline do; EXIF orientation is applied; 16 bits become 8. Both decoders give the same pixels.
"""

import io

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode

# The operator behind torchvision.io.decode_image, whose Python wrapper (logging, a warning at every call)
# takes a tenth of the time of a small picture. PIL does its work where torchvision was built without it.
_DECODE = getattr(torch.ops.image, "decode_image", None)
_FAST = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n") if _DECODE else ()
_RGB = ImageReadMode.RGB.value


def read_image(payload: bytes) -> Tensor:
    """uint8 [3, H, W] from an encoded picture.

    Raises:
        ValueError: the bytes are not a picture, or it is truncated or damaged.
    """
    if not payload.startswith(_FAST):
        return _read_with_pil(payload)
    # A bytearray, since torch warns of tensors over memory that cannot be written to.
    encoded = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
    try:
        image: Tensor = _DECODE(encoded, _RGB, True)  # type: ignore[misc]  # True: apply EXIF orientation
    except RuntimeError:
        return _read_with_pil(payload)  # it has the last word, and the clearer one
    return image if image.dtype == torch.uint8 else (image.int() >> 8).to(torch.uint8)


def _read_with_pil(payload: bytes) -> Tensor:
    try:
        with Image.open(io.BytesIO(payload)) as picture:
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I"):
                pixels = (np.asarray(upright).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                upright = Image.fromarray(pixels)
            return torch.from_numpy(np.array(upright.convert("RGB"))).permute(2, 0, 1)
    except UnidentifiedImageError:  # its own words are about the buffer in memory
        raise ValueError("the picture cannot be decoded (no format that is known)") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"the picture cannot be decoded ({error or type(error).__name__})") from None
