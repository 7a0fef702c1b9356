"""Names of tensors in a checkpoint, brought to those of the network that they are for.

Training scripts put a network's names behind prefixes (DistributedDataParallel, Lightning, averaged copies) and other
tensors beside them (a loss with weights, a counter). `fitting` undoes both, and never guesses between two networks.
"""

import re
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

COUNTER = "num_batches_tracked"
"""BatchNorm's counter of batches. Old checkpoints lack it, torch does without it, and no answer depends on it."""

_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of names that `torch.compile` and sharding put anywhere."""
_COUNTS = re.compile(rf"(?:.*\.)?(?:n_averaged|total_ops|total_params|{COUNTER})")
_BESIDE = re.compile(r"(?:criterions?|loss(?:es|_fn|_func)?|metrics?|(?:train|val|valid|test)_\w+)\.")
"""What stands beside a network in a training module and does not belong to it."""


def fitting(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The readings of a checkpoint that fit the network, by the prefix that was taken off.

    Several where the checkpoint holds several networks of one form (`teacher.`, `student.`); none where none fits.

    Args:
        tensors: of the checkpoint, by name.
        own: the network's state dict.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for prefix, reading in _readings(tensors, own):
        if prefix not in found and reading.keys() & own.keys() and not any(differences(reading, own)):
            found[prefix] = {name: value for name, value in reading.items() if name in own}
    # What has the network's own names is the network, whatever else there is.
    return {"": found[""]} if "" in found else found


def nearest_reading(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[str, dict[str, Tensor]]:
    """The prefix, and what is left without it, that has most names in common with the network."""
    return max(_readings(tensors, own), key=lambda each: len(each[1].keys() & own.keys()))


def differences(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> tuple[list[str], list[str], list[str]]:
    """Names of the network that the state lacks, names that are too many, and those of another shape.

    Counters, and a loss or metric beside the network, make no difference: no answer depends on them.
    """
    parts = {name.partition(".")[0] for name in own}
    missing = [name for name in own if name not in state and name.rpartition(".")[2] != COUNTER]
    unexpected = [name for name in state if name not in own and not _is_beside(name, parts)]
    shapes = [name for name in own if name in state and state[name].shape != own[name].shape]
    return missing, unexpected, shapes


def _is_beside(name: str, parts: Collection[str]) -> bool:
    """Whether a tensor is a counter, or of a loss or metric; a part of the network may be called so too."""
    beside = _BESIDE.match(name) is not None and name.partition(".")[0] not in parts
    return beside or _COUNTS.fullmatch(name) is not None


def _readings(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> list[tuple[str, dict[str, Tensor]]]:
    """The names as they are, without wrappers, without each prefix, and behind the prefix of the network's names."""
    bare = {_WRAPPERS.sub("", name): value for name, value in tensors.items()}
    readings = [("", dict(tensors)), ("", bare)]
    for prefix in _prefixes(bare, own):
        inside = {name.removeprefix(prefix): value for name, value in bare.items() if name.startswith(prefix)}
        outside = [name for name in bare if not name.startswith(prefix) and not _is_beside(name, ())]
        # A small network inside a large one (a layer's two tensors among hundreds) is a coincidence.
        if len(inside) >= len(outside):
            readings.append((prefix, inside))
    if prefix := _common_prefix(own):
        readings.append(("", {prefix + name: value for name, value in bare.items()}))
    return readings


def _prefixes(names: Iterable[str], own: Iterable[str]) -> list[str]:
    """What stands before the network's names in the checkpoint's, the shortest first."""
    ends = {f".{name}" for name in own}
    found = {
        name[: len(name) - len(end) + 1]
        for name in names
        for end in (name[place:] for place, letter in enumerate(name) if letter == ".")
        if end in ends
    }
    return sorted(found - {""}, key=lambda prefix: (len(prefix), prefix))


def _common_prefix(own: Iterable[str]) -> str:
    """The first part of all of the network's names, with its dot; empty where they differ."""
    first = {"".join(name.partition(".")[:2]) for name in own}
    return first.pop() if len(first) == 1 and next(iter(first)).endswith(".") else ""
