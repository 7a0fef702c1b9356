"""What the shape of a network's input says, for the formats that write it down."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from distill_mtl.errors import UserError
from distill_mtl.teachers.runtime import Declared


def not_one_input(path: Path, names: Iterable[str]) -> UserError:
    """The error for a network that takes nothing, or more than a batch of images."""
    taken = ", ".join(names) or "none"
    return UserError(
        f"{path} takes the inputs {taken}; a teacher takes one batch of images and nothing else."
    )


def declared(
    shape: Sequence[int | None] | None, dtype: torch.dtype, notes: Mapping[str, str], *, file: Path, name: str
) -> Declared:
    """Read an input's shape; None in it stands for a size that is left open, None for it for no shape at all.

    Args:
        shape, dtype: of the input.
        notes: texts that the file carries.
        file, name: of the network and its input, for the message.

    Raises:
        UserError: it is no batch of images.
    """
    if shape is None:
        return Declared(dtype=dtype, notes=notes)
    if len(shape) != 4:
        shown = ", ".join("?" if side is None else str(side) for side in shape)
        raise UserError(
            f"{file} takes '{name}' of shape [{shown}]; a teacher takes a batch of images, with four axes. "
            "Export the network with such an input."
        )
    batch, *rest = shape
    # Where both axes would do, for images 1 or 3 pixels wide, channels first is the commoner form by far.
    layout = "NCHW" if rest[0] in (1, 3) else "NHWC" if rest[2] in (1, 3) else None
    if layout is None:
        return Declared(dtype=dtype, batch=batch, notes=notes)
    channels, height, width = rest if layout == "NCHW" else (rest[2], *rest[:2])
    size = None if height is None or width is None else (height, width)
    return Declared(size, channels, layout, dtype, batch, notes)
