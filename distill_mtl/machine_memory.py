"""The memory of this machine, and what is refused because it needs more: before it is built, not when it is killed."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from distill_mtl.errors import UserError
from distill_mtl.system_errors import megabytes

_MACHINE = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")
TRAINED = 4
"""Tensors for each weight in training: itself, its gradient, and the optimizer's two averages."""
_FACTORIES = frozenset({torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})


def available_memory() -> int | None:
    """Bytes that this machine, or the container around this process, still has; None where Linux' files lack."""
    try:
        lines = dict(line.split(":", 1) for line in _MACHINE.read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        return None
    try:
        limit, used = (int((_CONTAINER / f"memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no container, or one without a limit
        return free
    return min(free, max(0, limit - used))


def refuse_beyond_memory(needed: int, what: str, remedy: str, available: int | None = None) -> None:
    """Refuse what needs more than there is.

    Args:
        needed: bytes, at the least.
        what: needs them, for the message.
        remedy: what to make smaller, for the message.
        available: bytes; None: those of this machine's memory.

    Raises:
        UserError: with both numbers.
    """
    available = available_memory() if available is None else available
    if available is not None and needed > available:
        raise UserError(
            f"{what} needs at least {megabytes(needed)} of memory, and {megabytes(available)} are available. {remedy}"
        )


@contextmanager
def within_memory(what: str, remedy: str, *, trained: bool = False) -> Iterator[None]:
    """Inside, a network whose weights need more memory than there is is refused while it is built, before its tensors
    are made.

    Args:
        what, remedy: as of `refuse_beyond_memory`.
        trained: it will be trained here: gradients and the optimizer's two averages are counted too.

    Raises:
        UserError: with both numbers.
    """
    with _Counted(what, remedy, available_memory(), TRAINED if trained else 1):
        yield


class _Counted(TorchFunctionMode):
    """Counts the bytes of what is made on the CPU, as modules make their weights."""

    def __init__(self, what: str, remedy: str, available: int | None, copies: int) -> None:
        super().__init__()
        self._what, self._remedy, self._available = what, remedy, available
        self._copies, self._bytes = copies, 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES and self._available is not None:
            self._bytes += self._copies * _size(args, kwargs)
            refuse_beyond_memory(self._bytes, self._what, self._remedy, self._available)
        return func(*args, **kwargs)


def _size(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Bytes of a tensor of the shape that a factory was given, in its own type or fp32; 0 where it has none."""
    shape = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
    numbers = [side for side in shape if isinstance(side, int)] if isinstance(shape, list | tuple) else []
    kind = kwargs.get("dtype") or torch.get_default_dtype()
    return int(math.prod(numbers)) * int(kind.itemsize) if numbers else 0
