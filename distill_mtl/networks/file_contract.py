"""The input contract of a network in a file: the recipe's values, else the file's, else defaults."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from pydantic import ConfigDict
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from typing_extensions import TypedDict

from distill_mtl.errors import UserError
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.runtime import DeclaredInput
from distill_mtl.reading import Remedy, parse_json
from distill_mtl.recipe.schema import InputSection

NOTE = "distill_mtl"
"""Name of the note in which a file says everything: JSON with `inputs`, `classes` and `kind`, or, for each of several
tasks, `tasks: {NAME: {kind, classes, …}}`, whose logits are the output of that name."""

_EXPORT_AGAIN = Remedy("Export the network again.")


class _TaskNote(TypedDict):
    """What `TaskKind.describe` gives."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    kind: str
    classes: list[str | int]


class _Note(TypedDict, total=False):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    inputs: dict[str, Any]
    kind: str | None
    classes: list[str | int] | None
    tasks: dict[str, _TaskNote] | None
    outputs: list[str]


_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.uint8: "uint8"}


def overridden(contract: InputContract, section: InputSection) -> InputContract:
    """The contract with everything replaced that the recipe says.

    Raises:
        UserError: the two do not fit together.
    """
    return _checked({**contract.to_dict(), **_said(section)})


def contract_of(
    declared: DeclaredInput, section: InputSection
) -> tuple[InputContract, tuple[str, ...], tuple[str, ...]]:
    """The contract of a network that comes as a file, the keys that the file says, and those that are assumed.

    Assumed if neither recipe nor file says it: the mean, std and white that the file proposes, else ImageNet's mean and
    std, which timm and torchvision train with, for pixels from 0 to 1 (no normalisation for uint8); and RGB for three
    channels.

    Raises:
        UserError: the size is not known, or the parts do not fit together.
    """
    note, said = read_note(declared), _said(section)
    told = {**_declared(declared), **note.get("inputs", {})}
    if told.get("batch") is None and declared.batch is not None:
        told["batch"] = declared.batch  # fixed after the note was written
    entry = {**told, **said}
    if "channels" not in entry and any(len(entry.get(key) or ()) == 1 for key in ("mean", "std")):
        entry["channels"] = "grey"
    if "inputs" in note:
        return _checked(entry), tuple(told), ()
    if "size" not in entry:
        raise UserError("the file does not say how large its images are. Add `input: {size: ...}`.")
    depth = 1 if entry.get("channels") == "grey" else 3
    assumed = [key for key in ("mean", "std", "white", "channels") if key not in entry]
    if entry.get("dtype") == "uint8":
        assumed = [key for key in assumed if key == "channels"]
        entry = {"white": 255.0, "mean": [0.0] * depth, "std": [1.0] * depth, **entry}
    if not entry.keys() & declared.proposed.keys():
        entry |= declared.proposed
        if entry.get("channels") == "bgr":
            entry |= {key: entry[key][::-1] for key in ("mean", "std")}
    white = entry.get("white", 1.0)
    for key, values in (("mean", IMAGENET_DEFAULT_MEAN), ("std", IMAGENET_DEFAULT_STD)):
        if key not in entry:
            ordered = values[::-1] if entry.get("channels") == "bgr" else values
            entry[key] = [white * value for value in (ordered if depth == 3 else [sum(values) / 3])]
    return _checked(entry), tuple(told), tuple(assumed)


def with_statistics(
    contract: InputContract, assumed: Collection[str], mean: Sequence[float], std: Sequence[float]
) -> InputContract:
    """The contract with other mean and std, for white 1 and RGB, in place of the assumed ones."""
    if "mean" not in assumed or "std" not in assumed or contract.dtype == "uint8":
        return contract
    if contract.depth == 1:
        mean, std = [sum(mean) / 3], [sum(std) / 3]
    elif contract.channels == "bgr":
        mean, std = mean[::-1], std[::-1]
    scaled = {
        key: [contract.white * value for value in values] for key, values in (("mean", mean), ("std", std))
    }
    return _checked({**contract.to_dict(), **scaled})


def read_note(declared: DeclaredInput) -> dict[str, Any]:
    """The note that `distill-mtl export` left in the file; empty where there is none.

    Raises:
        UserError: the note is not what an export writes.
    """
    text = declared.notes.get(NOTE, "{}")
    note: dict[str, Any] = parse_json(text, _Note, f"the note '{NOTE}' in the file", remedy=_EXPORT_AGAIN)
    return note


def _declared(declared: DeclaredInput) -> dict[str, Any]:
    """What the file's own form says, by the names of the contract."""
    if declared.dtype is not None and declared.dtype not in _DTYPES:
        raise UserError(
            f"the network wants {str(declared.dtype).removeprefix('torch.')} pixels; known are "
            f"{', '.join(_DTYPES.values())}. Export it again with one of them."
        )
    if declared.channels not in (None, 1, 3):
        raise UserError(
            f"the network wants {declared.channels} channels; known are 1 (grey) and 3 (RGB or BGR)."
        )
    entry = {
        "size": declared.size,
        # That there are three channels does not say in which order.
        "channels": "grey" if declared.channels == 1 else None,
        "layout": declared.layout.lower() if declared.layout is not None else None,
        "dtype": _DTYPES[declared.dtype] if declared.dtype is not None else None,
        "batch": declared.batch,
    }
    return {key: value for key, value in entry.items() if value is not None} | dict(declared.contract)


def _said(section: InputSection) -> dict[str, Any]:
    """What the recipe says, by the names of the contract."""
    said = {key: value for key, value in section.model_dump().items() if value is not None}
    if isinstance(said.get("size"), int):
        said["size"] = (said["size"], said["size"])
    return said


def _checked(entry: dict[str, Any]) -> InputContract:
    try:
        return InputContract.from_dict(entry)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"its input contract is invalid: {error}. Correct `input`.") from error
