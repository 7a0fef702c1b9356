"""Any data set of torchvision.datasets, read row by row."""

import hashlib
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from distill_mtl.data.decode import read_image
from distill_mtl.errors import ShardError, brief, nearest
from distill_mtl.shards.label_kinds import FoundLabel, LabelKinds
from distill_mtl.shards.listed_rows import LabelError, ListedRows, RowContent, picture_file, png

_TRIED = 8  # rows that are looked at, to find out what the targets are
_FILES = ("samples", "_samples", "imgs", "_image_files", "_images", "images")
"""Attributes in which torchvision's classes keep the paths of their pictures; none of them is promised."""
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_TASKS = {"cls": "class", "seg.png": "segmentation", "attributes.json": "attributes", "values.json": "values"}


def torchvision_rows(
    name: str,
    root: str | Path | None = None,
    arguments: Mapping[str, Any] | None = None,
    *,
    download: bool = False,
    task: str = "",
    options: Mapping[str, Any] | None = None,
) -> "TorchvisionRows":
    """The rows of a data set of torchvision.

    A whole number becomes `cls`, a picture `seg.png`, a list of 0 and 1 `attributes.json`, another number or list
    `values.json`; a tuple is several labels.

    Args:
        name: of a class in torchvision.datasets.
        root: its folder, for those that have one.
        arguments: its other keyword arguments, such as {"split": "train"}.
        download: let it fetch what is not there.
        task: a name for the task; default the data set's.
        options: of the labels' kinds, where their defaults do not fit, such as {"ignore_index": 0}.

    Raises:
        ShardError: no such class or argument, data that is not there, or targets that are not known labels.
        UserError: an invalid option.
    """
    data = _open(name, root, dict(arguments or {}), download)
    return TorchvisionRows(name, data, dict(arguments or {}), task or name.lower(), options)


class TorchvisionRows(ListedRows):
    """The rows of an opened data set.

    Args:
        name: of its class.
        data: the data set, without transforms.
        arguments: that it was made with.
        task: a name for the task.
        options: of the labels' kinds.

    Raises:
        ShardError: its rows are not pictures with labels.
        UserError: an invalid option.
    """

    def __init__(
        self,
        name: str,
        data: Any,
        arguments: Mapping[str, Any],
        task: str,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._name, self._data = name, data
        self.what = {
            "origin": "torchvision",
            "data_set": name,
            "args": {k: str(v) for k, v in arguments.items()},
        }
        self.what |= {"options": dict(options)} if options else {}
        self.left_out: Mapping[str, int] = {}
        tried = [
            _parts(name, data[row]) for row in np.linspace(0, len(data) - 1, _TRIED).astype(int).tolist()
        ]
        targets = [found for _, found in tried]
        self._members = _members(name, targets)
        self._attributes = tuple(one for one in getattr(data, "attr_names", ()) if one)
        self.labels = LabelKinds(options=options).build(
            [
                FoundLabel(
                    member,
                    task if len(self._members) == 1 else f"{task}-{_TASKS[member]}",
                    self._classes(member, targets[0][place]),
                )
                for place, member in enumerate(self._members)
            ]
        )
        self._files = _files(data)
        if self._files is not None and not self._are_its_pictures():
            self._files = None

    def __len__(self) -> int:
        return len(self._data)

    def key(self, number: int) -> str:
        return f"{self._name.lower()}-{number:0{len(str(len(self) - 1))}d}"

    def place(self, number: int) -> str:
        return self._files[number] if self._files else f"{self._name}, row {number}"

    def read(self, number: int) -> RowContent:
        picture, targets = _parts(self._name, self._data[number])
        if self._files is not None:
            ending, encoded = picture_file(self._files[number])
        else:
            ending, encoded = "png", _encoded(picture)
        if len(targets) != len(self._members):
            raise LabelError(f"{len(targets)} targets, where other rows have {len(self._members)}")
        members = {
            member: self._content(member, target)
            for member, target in zip(self._members, targets, strict=True)
        }
        return RowContent(ending, encoded, members)

    def digest(self) -> str:
        """Of the class, its arguments and the number of rows: more is not known of what stands behind it."""
        said = json.dumps([torchvision.__version__, dict(self.what), len(self)], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

    def _classes(self, member: str, target: Any) -> tuple[str, ...] | int | None:
        """The classes of a label, as far as the data set names them, from its first row's target."""
        if member == "cls":
            return _class_names(getattr(self._data, "classes", None))
        if member == "seg.png":
            return None
        count = np.asarray(target).size
        named = member == "attributes.json" and len(self._attributes) == count
        return self._attributes if named else int(count)

    def _content(self, member: str, target: Any) -> bytes:
        if member == "seg.png":
            if not isinstance(target, Image.Image):
                raise LabelError(f"the target is a {type(target).__name__}, where other rows have a mask")
            return png(target)
        if isinstance(target, Image.Image):
            raise LabelError("the target is a picture, where other rows have numbers")
        numbers = np.asarray(target).tolist()
        if member == "cls":
            if not isinstance(numbers, int) or numbers < 0:
                raise LabelError(f"the target {numbers!r} is not a class number")
            return b"%d" % numbers
        if member == "attributes.json" and len(self._attributes) == len(numbers):
            numbers = dict(zip(self._attributes, numbers, strict=True))
        return json.dumps(numbers).encode()

    def _are_its_pictures(self) -> bool:
        """Whether the files hold what the data set shows, pixel by pixel, in the rows that are looked at."""
        assert self._files is not None
        for row in (0, len(self) // 2, len(self) - 1):
            shown, _ = _parts(self._name, self._data[row])
            try:
                pixels = read_image(picture_file(self._files[row])[1]).permute(1, 2, 0).numpy()
            except (OSError, ValueError):
                return False
            if not isinstance(shown, Image.Image) or not np.array_equal(
                pixels, np.asarray(shown.convert("RGB"))
            ):
                return False
        return True


def _open(name: str, root: str | Path | None, arguments: dict[str, Any], download: bool) -> Any:
    known = [one for one in torchvision.datasets.__all__ if one != "wrap_dataset_for_transforms_v2"]
    if name not in known:
        raise ShardError(
            f"torchvision.datasets has no '{name}'.{nearest(name, known)} Known: {', '.join(known)}."
        )
    make = getattr(torchvision.datasets, name)
    parameters = inspect.signature(make).parameters
    takes_more = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    own = [one for one in parameters if one not in ("root", "download")]
    for argument in arguments:
        if argument not in own and not takes_more:
            raise ShardError(
                f"torchvision's {name} has no argument '{argument}'.{nearest(argument, own)} It has: {', '.join(own)}."
            )
    if "root" in parameters:
        if root is None:
            raise ShardError(f"torchvision's {name} lies in a folder. Name it with --root.")
        arguments = {"root": os.fspath(root), **arguments}
    if "download" in parameters:
        arguments["download"] = download
    elif download:
        raise ShardError(
            f"torchvision's {name} cannot be downloaded by itself. Its page says where to get it."
        )
    try:
        return make(**arguments)
    except Exception as error:  # whatever its class raises, the user asked for it
        fetch = " --download fetches it." if "download" in parameters and not download else ""
        raise ShardError(f"torchvision's {name} cannot be opened: {brief(error)}.{fetch}") from None


def _parts(name: str, row: Any) -> tuple[Any, list[Any]]:
    """Picture and targets of a row as the data set gives it."""
    if not isinstance(row, tuple | list) or not row:
        raise ShardError(
            f"torchvision's {name} gives a {type(row).__name__} for a row, not a picture with targets."
        )
    picture, *targets = row
    return picture, [part for one in targets for part in (one if isinstance(one, tuple) else [one])]


def _members(name: str, rows: Sequence[Sequence[Any]]) -> list[str]:
    """The member for each target, from some rows' targets."""
    members = [_member(name, list(column)) for column in zip(*rows, strict=True)]
    if len(set(members)) != len(members):
        raise ShardError(
            f"torchvision's {name} gives several targets of one form ({', '.join(members)}). Choose one with --args."
        )
    return members


def _member(name: str, targets: list[Any]) -> str:
    if all(isinstance(one, Image.Image) for one in targets):
        return "seg.png"
    if not any(isinstance(one, Image.Image | dict | str) or one is None for one in targets):
        arrays = [np.asarray(one) for one in targets]
        if all(np.issubdtype(one.dtype, np.integer) and one.ndim == 0 for one in arrays):
            return "cls"
        if all(one.ndim == 1 and one.size and np.isin(one, (0, 1)).all() for one in arrays):
            return "attributes.json"
        if all(np.issubdtype(one.dtype, np.number) and one.ndim <= 1 for one in arrays):
            return "values.json"
    raise ShardError(
        f"torchvision's {name} gives a target of type {type(targets[0]).__name__}, which is not a known label. Choose "
        "another with --args, or write a table of its rows: distill-mtl shards table."
    )


def _class_names(classes: Any) -> tuple[str, ...] | int | None:
    """Names for a recipe; their count where a name could be taken for a class number; None where there are none."""
    if not isinstance(classes, list | tuple) or not all(isinstance(one, str) for one in classes):
        return None
    return len(classes) if any(one.isdecimal() for one in classes) else tuple(classes)


def _files(data: Any) -> list[str] | None:
    """The files of the pictures, if the data set lists them in an attribute."""
    for attribute in _FILES:
        listed = getattr(data, attribute, None)
        if isinstance(listed, list) and len(listed) == len(data):
            paths = [one[0] if isinstance(one, tuple | list) and one else one for one in listed]
            if all(isinstance(path, str | Path) for path in paths):
                return [os.fspath(path) for path in paths]
    return None


def _encoded(picture: Any) -> bytes:
    if isinstance(picture, torch.Tensor | np.ndarray):
        try:
            picture = to_pil_image(picture)
        except (TypeError, ValueError) as error:
            raise ValueError(f"it is not a picture: {brief(error)}") from None
    if not isinstance(picture, Image.Image):
        raise ValueError(f"it is not a picture but a {type(picture).__name__}")
    return png(picture if picture.mode in _PNG_MODES else picture.convert("RGB"))
