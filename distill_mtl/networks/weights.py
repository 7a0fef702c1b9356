"""Trained networks on disk: a folder with config.json, model.safetensors and, for teachers, score.json.

Weights are safetensors only: a pickle can run code when it is opened, so none is ever opened.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from distill_mtl.errors import TeacherError, UserError
from distill_mtl.files import atomic_folder, write_text
from distill_mtl.networks.checkpoint_names import differences
from distill_mtl.reading import Remedy, read_json, shown, stand_in_note
from distill_mtl.untrusted_text import json_text

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"
HUB = ("hf_hub:", "hf-hub:")
"""How the name of a repository on the Hugging Face hub begins."""
STUDENT = "student"
"""Where the folder of a run holds its student."""


_CONVERT = (
    "If you trust its origin, convert it: "
    "safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'model.safetensors')."
)


SCORE = "score.json"
_SHOWN = 5  # names of tensors in a message, of each side
_COUNTED = re.compile("depth|layers|blocks|stages|repeat", re.IGNORECASE)  # arguments that count modules
_MANY = 1024  # of anything, a network may have whatever its weights
_CONFIG = Remedy("Fetch the folder again, or let the program that wrote it write it again.")


def network_folder(place: Path) -> Path:
    """The folder of a network; the folder of a run, `runs/NAME`, stands for the student in it."""
    student = place / STUDENT
    return student if not os.path.isfile(place / CONFIG) and os.path.isfile(student / CONFIG) else place


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a network's folder.

    Raises:
        UserError: no folder, no file in it, or no JSON object in the file.
    """
    path = folder / CONFIG
    if not os.path.isfile(path):
        what = f"it has no {CONFIG}" if os.path.isdir(folder) else "there is no such folder"
        raise UserError(f"{folder} holds no network: {what}.")
    config: dict[str, Any] = read_json(path, dict[str, Any], remedy=_CONFIG)
    return config


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, or of the one in a network's folder.

    Raises:
        UserError: no such file, a broken one, or a pickle in its place.
    """
    file = path / WEIGHTS if os.path.isdir(path) else path
    if not os.path.isfile(file):
        raise UserError(f"{file} does not exist.{pickle_note(path)}")
    if file.suffix != ".safetensors":
        raise UserError(f"{file} is not a .safetensors file. {_CONVERT}")
    try:
        return load_file(file)
    except SafetensorError as error:
        raise UserError(
            f"{file} cannot be read: {error}.{stand_in_note(file) or ' Is it truncated?'} Fetch or train it again."
        ) from error


def refuse_larger_than_weights(described: Any, state: Mapping[str, Tensor], where: str) -> None:
    """Before a network is built from a config: no number in it may be larger than its weights can fill.

    Raises:
        UserError: names the number.
    """
    most = {True: max(_MANY, len(state)), False: max(_MANY, sum(tensor.numel() for tensor in state.values()))}
    waiting: list[tuple[str, Any]] = [("", described)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(str(inner), one) for inner, one in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(key, one) for one in value]
        elif isinstance(value, int | float) and abs(value) > (limit := most[bool(_COUNTED.search(key))]):
            raise UserError(
                f"{where}, {shown(key)}: found {shown(value)}; {len(state):,} tensors of weights leave room for "
                f"{limit:,}. {_CONFIG.mend}"
            )


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load every tensor of `state` into `module`, and every tensor of `module` from `state`.

    What no answer depends on may be missing or too many: see `checkpoint_names.differences`.

    Raises:
        UserError: names or shapes differ, or a tensor holds no plain numbers of the network's kind; the message names
            `source` and the first of both sides.
    """
    own = module.state_dict()
    missing, unexpected, other = differences(state, own)
    strange = [
        f"{name} is {what}"
        for name in state.keys() & own.keys()
        if (what := _strangeness(state[name], own[name]))
    ]
    shapes = [
        f"{name} is {list(state[name].shape)} in the file, {list(own[name].shape)} in the network"
        for name in other
    ]
    found = [
        f"{what}: {_first(names)}"
        for what, names in (
            ("missing in the file", missing),
            ("not in the network", unexpected),
            ("shape", shapes),
            ("no plain numbers", sorted(strange)),
        )
        if names
    ]
    if found:
        raise UserError(f"the weights of {source} do not fit the network: {'; '.join(found)}.")
    module.load_state_dict(dict(state), strict=False)


def _strangeness(given: Tensor, own: Tensor) -> str | None:
    """What a tensor of a file is where its numbers cannot become the network's; None where they can."""
    if given.is_meta:
        return "without data (on the meta device)"
    if given.is_quantized and not own.is_quantized:
        return "quantised"
    if given.layout is not torch.strided and own.layout is torch.strided:
        return "sparse"
    if given.is_complex() and not own.is_complex():
        return "complex"
    return None


def _first(names: Sequence[str]) -> str:
    shown = [name if name.isprintable() else ascii(name) for name in names[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def write_network(folder: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], card: str) -> None:
    """Write config, weights and model card, complete or not at all; replaces an earlier network.

    Raises:
        UserError: the folder holds something that is not a network.
    """
    if folder.exists() and not (folder / CONFIG).is_file() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no network. Choose another folder.")
    with atomic_folder(folder) as made:
        (made / CONFIG).write_text(json_text(config, indent=2) + "\n", encoding="utf-8")
        (made / CARD).write_text(card, encoding="utf-8")
        # Clones, because safetensors refuses tensors that share memory (tied weights, views).
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
        # Not safetensors' own file writer: its files can be read by their owner alone.
        (made / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))


def sha256(file: Path) -> str:
    """Hexadecimal SHA-256 of a file, read once as long as it does not change."""
    status = file.stat()
    return _sha256(file, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class RecordedScore:
    """A measured score.

    Attributes:
        metric: name of the score.
        score: in points of 100, or as the metric has it.
        rows: how many were measured; None if unknown; the score is then taken as exact.
        task: name of the task in the recipe that trained the teacher.
        kind: of the task.
        measured_on: a description of the rows.
        command: how to get such a teacher and this score again.
    """

    metric: str
    score: float
    rows: PositiveInt | None = None
    task: str = ""
    kind: str = ""
    measured_on: str = ""
    command: str = ""


def read_score(folder: Path) -> RecordedScore | None:
    """The score in a teacher's folder, None where it records none.

    Raises:
        TeacherError: the file exists and is invalid.
    """
    path = folder / SCORE
    if not path.is_file():
        return None
    more = ", ".join(list(RecordedScore.__dataclass_fields__)[2:])
    holds = f"It holds `metric` and `score`, and may hold {more}. Correct or delete it."
    score: RecordedScore = read_json(path, RecordedScore, remedy=Remedy(holds, TeacherError))
    return score


def state_bytes(network: nn.Module) -> int:
    """Bytes of a network's weights and buffers."""
    return sum(tensor.nbytes for tensor in network.state_dict().values())


def write_score(folder: Path, score: RecordedScore) -> None:
    """Record a score beside the weights it belongs to."""
    write_text(folder / SCORE, json.dumps(asdict(score), indent=2) + "\n")


@lru_cache(maxsize=1024)
def _sha256(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def pickle_note(path: Path) -> str:
    pickles = sorted(file.name for file in path.glob("*") if file.suffix in (".bin", ".pth", ".pt", ".ckpt"))
    return (
        f" There is {pickles[0]}, a pickle, which could run code when opened. {_CONVERT}" if pickles else ""
    )
