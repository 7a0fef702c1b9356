"""Finding a network's weights in whatever a training script saved: nested, with prefixes, beside other things."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from distill_mtl.errors import UserError, brief
from distill_mtl.networks.weights import load_exactly, read_weights


def load_checkpoint(network: nn.Module, file: Path) -> None:
    """Load the weights in `file` into the network, every one of them and into every place; runs no code.

    Args:
        network: takes them.
        file: a `.safetensors` file, or what `torch.save` wrote: a state dict, or mappings around one or more.

    Raises:
        UserError: no such file, none that can be read without running code, no state dict in it, several
            that fit, or none that does.
    """
    own = network.state_dict().keys()
    states = [_without_prefix(state, own) for state in _state_dicts(_read(file))]
    if not states:
        raise UserError(
            f"{file} holds no weights: a state dict maps names to tensors, alone or under a name such as "
            "'state_dict'. Save it with torch.save(model.state_dict(), FILE)."
        )
    fitting = [state for state in states if state.tensors.keys() == own]
    if len(fitting) > 1 and not all(_equal(fitting[0].tensors, other.tensors) for other in fitting[1:]):
        names = " and ".join(f"'{state.name}'" for state in fitting)
        raise UserError(
            f"{file} holds several sets of weights that fit: {names}. Save the one you want by itself: "
            f"torch.save(torch.load(FILE, weights_only=True)[{fitting[0].name!r}], NEW_FILE)."
        )
    best = max(fitting or states, key=lambda state: len(state.tensors.keys() & own))
    others = ", ".join(f"'{state.name}'" for state in states if state is not best)
    beside = f" (nearer than {others})" if others else ""
    load_exactly(network, best.tensors, f"{file}, under '{best.name}'{beside}" if best.name else str(file))


@dataclass(frozen=True)
class _State:
    """A state dict in a file; `name` is empty where it is the file's whole content."""

    name: str
    tensors: dict[str, Tensor]


def _read(file: Path) -> Any:
    if file.suffix == ".safetensors" or not file.is_file():
        return read_weights(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if refused := re.search(r"Unsupported (?:global|class).*?([\w.]+\.\w+)", str(error)):
            raise UserError(
                f"{file} cannot be opened safely: it is a pickle that asks for {refused[1]}, and such a pickle "
                "may run code. If you trust where it comes from, open it yourself with "
                "torch.load(FILE, weights_only=False) and save its state dict alone: "
                "torch.save(loaded['state_dict'], NEW_FILE), or loaded.state_dict() where it is a network."
            ) from error
        raise _unreadable(file, "it is no file that torch.save wrote") from error
    # Whatever a file that is cut short or of another kind makes of the reader.
    except Exception as error:
        if "TorchScript" in str(error):
            raise _unreadable(file, "it is a TorchScript program, not weights") from error
        raise _unreadable(file, brief(error)) from error


def _unreadable(file: Path, why: str) -> UserError:
    return UserError(f"{file} cannot be read as weights: {why}.")


def _state_dicts(loaded: Any, name: str = "", depth: int = 0) -> Iterator[_State]:
    """Every mapping from names to tensors, down to two levels; deeper lie an optimizer's."""
    if not isinstance(loaded, Mapping) or not loaded:
        return
    if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in loaded.items()):
        yield _State(name, dict(loaded))
    elif depth < 2:
        for key, value in loaded.items():
            yield from _state_dicts(value, f"{name}.{key}" if name else str(key), depth + 1)


def _without_prefix(state: _State, own: Collection[str]) -> _State:
    """The state without what all its names begin with (`module.`, `_orig_mod.`, `model.`), where that fits better."""
    levels = [state.tensors]
    while prefix := _shared_prefix(levels[-1]):
        levels.append({key.removeprefix(prefix): value for key, value in levels[-1].items()})
    return _State(state.name, max(levels, key=lambda level: len(level.keys() & set(own))))


def _shared_prefix(tensors: Mapping[str, Tensor]) -> str:
    prefixes = {"".join(key.partition(".")[:2]) for key in tensors}
    prefix = prefixes.pop()
    return prefix if not prefixes and prefix.endswith(".") else ""


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(value, second[key]) for key, value in first.items())
