"""Pictures and arrays in which a label member keeps something per pixel."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

_PNG, _NPY = b"\x89PNG", b"\x93NUMPY"


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
        ValueError: it is no PNG, cut or damaged.
    """
    try:
        with Image.open(io.BytesIO(payload), formats=["PNG"]) as picture:
            return picture.mode, np.asarray(picture)
    except UnidentifiedImageError:  # its own words are about the buffer in memory
        raise ValueError(f"{what} is not a PNG picture.") from None
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
    except (OSError, EOFError, ValueError, MemoryError) as error:
        raise ValueError(f"the npy file cannot be read ({error}).") from None
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


def shaped(array: NDArray) -> str:
    """A shape for messages: 8x6x3."""
    return "x".join(str(side) for side in array.shape) or "a single number"
