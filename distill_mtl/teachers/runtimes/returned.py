"""Names for what a forward function returns, where the format gives it none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from distill_mtl.errors import UserError


def named(returned: Any, file: Path) -> dict[str, Tensor]:
    """A tensor -> `output`; a sequence -> `output0`, `output1`, ... by position; a mapping -> its keys.

    What is not a tensor is left out; `file` is the network's, for the message.

    Raises:
        UserError: no tensor is left.
    """
    entries: dict[str, Any]
    if isinstance(returned, Mapping):
        entries = {str(key): value for key, value in returned.items()}
    elif isinstance(returned, list | tuple):
        entries = {f"output{index}": value for index, value in enumerate(returned)}
    else:
        entries = {"output": returned}
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    if not tensors:
        raise UserError(
            f"{file} returns a {type(returned).__name__} without a tensor. "
            "A teacher returns a tensor, or a tuple or dict of them."
        )
    return tensors
