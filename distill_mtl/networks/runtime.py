"""A trained network as its own file format runs it: one tensor in, named tensors out.

A runtime knows nothing of pixels in [0, 1], of classes or of tasks; `RuntimeNetwork` puts the input and output
contracts around it. Each format is one file of `runtimes/`; what several of them need follows the base class.
"""

import ast
import lzma
import math
import os
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from distill_mtl.errors import UserError, brief, nearest
from distill_mtl.reading import machine_memory, open_regular, stand_in_note
from distill_mtl.registry import Registry

RUNTIMES: Registry[type["Runtime"]] = Registry("file of a network", "distill_mtl.networks.runtimes")
"""By the ending of the file; each is made from its path alone."""
_CLASS_NOTES = ("names", "classes", "class_names", "labels", "character")
_LONGEST_NOTE = 16 << 20  # bytes
_SMALL, _TIMES = 64 << 20, 20
"""Bytes that any archive may unpack to, and how many times its own size; PyTorch stores tensors as they are."""
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(NotImplementedError, RuntimeError, EOFError, ValueError, OverflowError, OSError),
)


@dataclass(frozen=True)
class DeclaredInput:
    """What a file says about the input it wants; None where it does not say.

    Attributes:
        size: height and width in pixels.
        channels: 1 or 3.
        layout: where the channels stand, "NCHW" or "NHWC".
        dtype: of the pixels.
        batch: the only number of rows that it takes.
        notes: text that the file carries under names of its own (ONNX's metadata_props, extra files of
            torch.export and TorchScript archives).
        contract: further keys of the `InputContract`, which the file says in a form of its own.
        proposed: mean, std and white where nothing says them, in place of ImageNet's.
        kind: of the task that it answers.
        classes: names, in the order of its outputs.
    """

    size: tuple[int, int] | None = None
    channels: int | None = None
    layout: str | None = None
    dtype: torch.dtype | None = None
    batch: int | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    contract: Mapping[str, Any] = field(default_factory=dict)
    proposed: Mapping[str, Any] = field(default_factory=dict)
    kind: str | None = None
    classes: tuple[str, ...] | None = None


class Runtime(nn.Module, ABC):
    """A loaded network. A module, so that `to(device)` and `eval()` reach what lies inside.

    Attributes:
        words: what it reads, for people ("an ONNX file").
        is_program: what it reads is code, which runs when it is opened.
        files: every file that it was read from, weights first.
        declared: what they say about the input.
        outputs: names of what it returns, in its own order. Where only a forward pass tells (TorchScript, a
            user's module) there are none before the first one; `probe` is that one.
        tapped: what `RuntimeNetwork` tapped last, so that it can be restored.
    """

    words: ClassVar[str]
    is_program: ClassVar[bool]

    files: tuple[Path, ...]
    declared: DeclaredInput
    outputs: tuple[str, ...]
    tapped: tuple[str, ...] = ()

    @classmethod
    def also_reads(cls, path: Path) -> bool:
        """Whether a file with another ending than the one that is registered is of this format."""
        return False

    @classmethod
    def files_of(cls, path: Path) -> tuple[Path, ...]:
        """Every file that decides the answers of the one at `path`, which is the first."""
        return (path,)

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
        """Make forward passes also return these inner tensors, besides `outputs`; replaces earlier taps.

        Raises:
            UserError: no such name (with the nearest one), or the format gives its outputs alone.
        """

    @abstractmethod
    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, ...] in the dtype and layout that the network wants -> `outputs` and taps by name, raw.

        B is `declared.batch` where that is given; `RuntimeNetwork` cuts and fills batches.
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


class SessionRuntime(Runtime):
    """A file that the library of its format runs, in a session that is made again when other tensors are tapped.

    Attributes:
        unit: what a name stands for, for people.
    """

    unit: ClassVar[str] = "tensor"

    _learned: tuple[int, int]
    """Numbers that were learned, and their bytes as float32; 0 where they are not known."""

    def __init__(self) -> None:
        super().__init__()
        self._taps: tuple[str, ...] = ()
        self._session: Any = None

    @property
    def parameter_count(self) -> int | None:
        return self._learned[0] or None

    @property
    def parameter_bytes(self) -> int | None:
        return self._learned[1] or None

    def tap(self, names: Sequence[str]) -> None:
        known = self.names()
        for name in names:
            if name not in known:
                raise UserError(f"{self.files[0]} has no {self.unit} '{name}'.{nearest(name, known)}")
        wanted = set(names) - set(self.outputs)
        taps = tuple(name for name in known if name in wanted)
        if taps != self._taps:
            self._session = None
        self._taps = taps

    def __getstate__(self) -> dict[str, Any]:
        # A session can be neither copied nor sent to another process.
        return {**self.__dict__, "_session": None}


def classes_in(notes: Mapping[str, str]) -> tuple[str, ...] | None:
    """Names of classes in a file's notes, as exporters write them; None where there are none, or what stands there
    cannot be names: others use these keys for a sentence, or name two alike.

    `names` of Ultralytics (a Python dict), `character` of PaddleOCR and RapidOCR (a line each), and lists under
    `classes`, `class_names` and `labels`, in JSON or with commas.
    """
    text = next((notes[key] for key in _CLASS_NOTES if notes.get(key, "").strip()), "").strip()
    if not text:
        return None
    if text[0] in "[{":
        try:
            listed = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
        if isinstance(listed, dict) and set(map(str, listed)) == set(map(str, range(len(listed)))):
            listed = [value for _, value in sorted(listed.items(), key=lambda entry: int(entry[0]))]
        plain = isinstance(listed, list) and all(isinstance(name, str | int) for name in listed)
        names = tuple(map(str, listed)) if plain else ()
    else:
        names = tuple(name.strip() for name in (text.splitlines() if "\n" in text else text.split(",")))
        names = names if len(names) > 1 else ()
    return names if names and len(set(names)) == len(names) else None


def normalisation(mean: Sequence[float], std: Sequence[float], channels: int | None) -> dict[str, Any]:
    """Keys of the `InputContract` for what a file subtracts from pixels from 0 to 255 and then divides them by.

    Args:
        mean: one number for all channels, or one for each; none: 0.
        std: likewise; none: 1.
        channels: of the images; None: not known, taken for 3.

    Returns:
        Nothing where the numbers make no contract, so that they count as assumed.
    """
    depth = 1 if channels == 1 else 3
    means, stds = (
        list(values) * (depth if len(values) == 1 else 1) for values in (mean or [0.0], std or [1.0])
    )
    if not len(means) == len(stds) == depth or not all(map(math.isfinite, (*means, *stds))) or min(stds) <= 0:
        return {}
    return {"white": 255.0, "mean": means, "std": stds}


def not_one_input(path: Path, names: Iterable[str]) -> UserError:
    """The error for a network that takes nothing, or more than a batch of images."""
    taken = ", ".join(names) or "none"
    return UserError(
        f"{path} takes the inputs {taken}; a teacher takes one batch of images and nothing else."
    )


def declared_input(
    shape: Sequence[int | None] | None, dtype: torch.dtype, notes: Mapping[str, str], *, file: Path, name: str
) -> DeclaredInput:
    """Read an input's shape; None in it stands for a size that is left open, None for it for no shape at all.

    Args:
        shape, dtype: of the input.
        notes: texts that the file carries.
        file, name: of the network and its input, for the message.

    Raises:
        UserError: it is not a batch of images.
    """
    classes = classes_in(notes)
    if shape is None:
        return DeclaredInput(dtype=dtype, notes=notes, classes=classes)
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
        return DeclaredInput(dtype=dtype, batch=batch, notes=notes, classes=classes)
    channels, height, width = rest if layout == "NCHW" else (rest[2], *rest[:2])
    size = None if height is None or width is None else (height, width)
    return DeclaredInput(size, channels, layout, dtype, batch, notes, classes=classes)


def named(returned: Any, file: Path) -> dict[str, Tensor]:
    """A tensor -> `output`; a sequence -> `output0`, `output1`, ... by position; a mapping -> its keys; a list of
    mappings, one for each picture (torchvision's detectors) -> their keys.

    Of pictures with fewer entries than others the missing ones are 0. What is not a tensor is left out; `file` is the
    network's, for the message.

    Raises:
        UserError: no tensor is left.
    """
    entries: dict[str, Any]
    if isinstance(returned, Mapping):
        entries = {str(key): value for key, value in returned.items()}
    elif isinstance(returned, list) and returned and all(isinstance(row, Mapping) for row in returned):
        entries = {
            str(key): torch.cat(of_one_length([row[key][None] for row in returned]))
            for key, value in returned[0].items()
            if isinstance(value, Tensor)
        }
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


def of_one_length(values: Sequence[Tensor]) -> list[Tensor]:
    """Tensors [R, N, ...] that differ in N, filled with 0 to the longest."""
    longest = max(value.shape[1] for value in values) if values[0].ndim > 1 else 0
    filled = []
    for value in values:
        missing = longest - value.shape[1] if value.ndim > 1 else 0
        empty = value.new_zeros(value.shape[0], missing, *value.shape[2:]) if missing else value[:, :0]
        filled.append(torch.cat([value, empty], 1) if missing else value)
    return filled


@contextmanager
def torch_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive that PyTorch wrote, before PyTorch opens it: what it unpacks to is bounded.

    Raises:
        UserError: there is no such file, it is no zip archive or a damaged one, or it unpacks to much more than its own
            size, or to more than the machine's memory.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path} does not exist.")
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            size, packed = sum(entry.file_size for entry in archive.infolist()), os.path.getsize(path)
            if size > (most := min(max(_SMALL, _TIMES * packed), machine_memory())):
                raise UserError(
                    f"{path} has {packed / 1e6:,.1f} MB and says that it unpacks to {size / 1e6:,.1f} MB; at most "
                    f"{most / 1e6:,.1f} MB are unpacked. PyTorch does not write such archives: save the network again."
                )
            yield archive
    except _DAMAGED as error:
        note = stand_in_note(path) or " Is it truncated?"
        raise UserError(
            f"{path} is not an archive that PyTorch wrote ({brief(error)}).{note} Fetch or save it again."
        ) from error


def read_extra_files(path: Path) -> dict[str, str]:
    """The extra files by name; those that are no text, or more than a note, are left out.

    Raises:
        UserError: as `torch_archive`.
    """
    texts: dict[str, str] = {}
    with torch_archive(path) as archive:
        for entry in archive.infolist():
            # The first part is the archive's own name, whatever the file is called now.
            _, _, inside = entry.filename.partition("/")
            if not inside.startswith("extra/") or entry.is_dir() or entry.file_size > _LONGEST_NOTE:
                continue
            try:
                texts[inside.removeprefix("extra/")] = archive.read(entry).decode("utf-8")
            except UnicodeDecodeError:
                continue
    return texts


def saved_while_training(path: Path, operation: str, export: str) -> UserError:
    """The error for a file whose answers depend on chance or on the rest of the batch.

    Args:
        path: the file.
        operation: the one that gave it away.
        export: how such a file is written.
    """
    return UserError(
        f"{path} was saved in training mode: its '{operation}' would use the statistics of each batch, or "
        f"chance. Call model.eval() before {export}, and save it again."
    )
