"""A trained network as its own file format runs it: one tensor in, named tensors out.

A runtime knows nothing of pixels in [0, 1], of classes or of tasks; `RunNetwork` puts the input and output
contracts around it. One file per format: ONNX, torch.export, TorchScript, a user's own module.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from distill_mtl.errors import UserError, brief


@dataclass(frozen=True)
class Declared:
    """What a file says about the input it wants; None where it says nothing.

    Attributes:
        size: height and width in pixels.
        channels: 1 or 3.
        layout: where the channels stand, "NCHW" or "NHWC".
        dtype: of the pixels.
        batch: the only number of rows that it takes.
        notes: text that the file carries under names of its own (ONNX's metadata_props, extra files of
            torch.export and TorchScript archives).
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    layout: str | None = None
    dtype: torch.dtype | None = None
    batch: int | None = None
    notes: Mapping[str, str] = field(default_factory=dict)


class Runtime(nn.Module, ABC):
    """A loaded network. A module, so that `to(device)` and `eval()` reach what lies inside.

    Attributes:
        files: every file that it was read from, weights first.
        declared: what they say about the input.
        outputs: names of what it returns, in its own order. Where only a forward pass tells (TorchScript, a
            user's module) there are none before the first one; `probe` is that one.
        tapped: what `RunNetwork` tapped last, for whoever must put it back.
    """

    files: tuple[Path, ...]
    declared: Declared
    outputs: tuple[str, ...]
    tapped: tuple[str, ...] = ()

    @property
    def parameter_count(self) -> int | None:
        """Numbers that were learned; None where the format does not tell them from others."""
        return sum(parameter.numel() for parameter in self.parameters()) or None

    @property
    def parameter_bytes(self) -> int | None:
        """Of these numbers, floats as float32; None where they are not known."""
        return 4 * self.parameter_count if self.parameter_count is not None else None

    @abstractmethod
    def names(self) -> list[str]:
        """Every name that `tap` knows, in the order they run; `outputs` among them."""

    def behind(self, output: str) -> frozenset[str] | None:
        """Names of everything that an output is made from; None where the format does not say.

        A file of several tasks holds layers that have nothing to do with one of its answers.
        """
        return None

    @abstractmethod
    def tap(self, names: Sequence[str]) -> None:
        """From now on a forward pass also gives these inner tensors, beside `outputs`; replaces earlier taps.

        Raises:
            UserError: no such name (with the nearest one), or the format gives nothing but its outputs.
        """

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, ...] in the dtype and layout that the network wants -> `outputs` and taps by name, raw.

        B is `declared.batch` where that is given; `RunNetwork` cuts and fills batches.
        """

    @torch.no_grad()
    def probe(self, images: Tensor) -> None:
        """Run once, so that `outputs` is known.

        Raises:
            UserError: the network does not take such images.
        """
        try:
            self(images)
        except UserError:
            raise
        # Whatever a foreign network raises, of any type, says that it does not take these images.
        except Exception as error:
            what = f"{str(images.dtype).removeprefix('torch.')} images of shape {list(images.shape)}"
            raise UserError(f"{self.files[0]} cannot run on {what}: {brief(error)}.") from error

    def moved(self, device: torch.device) -> None:
        """Called first in every `to(device)`, for what is neither a parameter nor a buffer.

        Raises:
            UserError: this runtime cannot work on such a device.
        """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # All of `to`, `cuda` and `cpu` end here, those of an enclosing module too.
        self.moved(fn(torch.empty(0)).device)
        return super()._apply(fn, recurse)
