"""A network that the user's own code builds, with the weights that their training saved.

`load_checkpoint` finds the weights in whatever a training script saved: nested, with prefixes, beside other things.
"""

import importlib.util
import inspect
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from distill_mtl.errors import UserError, brief
from distill_mtl.folders import walk_folder
from distill_mtl.networks.checkpoint_names import fitting, nearest_reading
from distill_mtl.networks.eager_runtime import EagerRuntime
from distill_mtl.networks.runtime import DeclaredInput, torch_archive
from distill_mtl.networks.weights import load_exactly, read_weights
from distill_mtl.reading import stand_in_note
from distill_mtl.registry import attribute_of, import_module, working_directory_importable


class ModuleRuntime(EagerRuntime):
    """Imports and runs the code that it is given: only for code that you trust. The weights run none.

    Args:
        spec: `package.module:callable`; found from the working directory too, as `python script.py` would.
        args: keyword arguments of the callable, a function or class that returns the network.
        weights: file with its weights, `.safetensors` or what `torch.save` wrote.

    Raises:
        UserError: there is no such callable, it fails or returns no network, or the weights do not fit.
    """

    words = "your own code"
    is_program = True

    def __init__(self, spec: str, args: Mapping[str, Any], weights: Path) -> None:
        network, source = own_network(spec, args)
        load_checkpoint(network, weights)
        super().__init__(network, (weights, source), _declared(network))


def module_files(spec: str) -> tuple[Path, ...]:
    """The code that `spec` names, for its hash: every file of its top-level package, or the one file of its module.

    Nothing where it cannot be found. What it imports from elsewhere is not looked at.
    """
    with working_directory_importable():
        try:
            found = importlib.util.find_spec(spec.partition(":")[0].partition(".")[0])
        # Whatever a package of the user's raises: opening the network says it better.
        except Exception:
            return ()
    if found is None:
        return ()
    folders = [Path(folder) for folder in found.submodule_search_locations or ()]
    if folders:
        return tuple(
            sorted(folder / file for folder in folders for file in walk_folder(folder).ending(".py"))
        )
    return (Path(found.origin),) if found.has_location and found.origin else ()


def own_network(spec: str, args: Mapping[str, Any]) -> tuple[nn.Module, Path]:
    """The network that `module:callable` makes, with random weights, and the file of its module. Runs the code.

    Raises:
        UserError: there is no such callable, it fails or returns no network.
    """
    name, colon, attribute = spec.partition(":")
    if not (name and colon and attribute):
        raise UserError(
            f"'{spec}' does not name a network. Write `package.module:callable`, as `models:resnet20`."
        )
    with working_directory_importable():
        module = import_module(name)
        make = attribute_of(module, attribute)
        if isinstance(make, nn.Module) or not callable(make):
            raise UserError(
                f"{spec} is a {type(make).__name__}. Name the function or class that makes the network."
            )
        try:
            network = make(**args)
        # Whatever the user's code raises; some scripts exit.
        except (Exception, SystemExit) as error:
            raise UserError(
                f"{spec}{_call(args)} failed with {type(error).__name__}: {brief(error)}."
            ) from error
    if not isinstance(network, nn.Module):
        raise UserError(
            f"{spec}{_call(args)} returned a {type(network).__name__}, not a torch.nn.Module. "
            "Name a function or class that makes the network."
        )
    return network, Path(str(inspect.getsourcefile(module) or module.__file__))


def _call(args: Mapping[str, Any]) -> str:
    return "(" + ", ".join(f"{key}={value!r}" for key, value in args.items()) + ")"


def _declared(network: nn.Module) -> DeclaredInput:
    """What timm and those who follow it write down about the input; mean and std are not read here."""
    for name in ("pretrained_cfg", "default_cfg"):
        cfg = getattr(network, name, None)
        size = cfg.get("input_size") if isinstance(cfg, Mapping) else None
        if size is not None and len(size) == 3:
            return DeclaredInput(size=(int(size[1]), int(size[2])), channels=int(size[0]))
    return DeclaredInput()


def load_checkpoint(network: nn.Module, file: Path) -> None:
    """Load the weights in `file` into the network, into every place of it; runs no code.

    Prefixes are taken off, and what is known to stand beside a network (a counter, a loss) is left out.

    Args:
        network: takes them.
        file: a `.safetensors` file, or what `torch.save` wrote: a state dict, or mappings around one or more.

    Raises:
        UserError: no such file, none that can be read without running code, no state dict in it, several
            that fit, or none that does.
    """
    own = network.state_dict()
    states = list(_state_dicts(_read(file)))
    if not states:
        raise UserError(
            f"{file} holds no weights: a state dict maps names to tensors, alone or under a name such as "
            "'state_dict'. Save it with torch.save(model.state_dict(), FILE)."
        )
    readings = [
        _State(state.name, tensors, prefix)
        for state in states
        for prefix, tensors in fitting(state.tensors, own).items()
    ]
    if len(readings) > 1 and not all(_equal(readings[0].tensors, other.tensors) for other in readings[1:]):
        names = " and ".join(state.place for state in readings)
        raise UserError(
            f"{file} holds several sets of weights that fit: {names}. Save the one you want by itself, with "
            "torch.save(STATE_DICT, NEW_FILE) after torch.load(FILE, weights_only=True)."
        )
    if readings:
        load_exactly(network, readings[0].tensors, str(file))
        return
    nearest = []
    for state in states:
        prefix, tensors = nearest_reading(state.tensors, own)
        nearest.append(_State(state.name, tensors, prefix))
    best = max(nearest, key=lambda state: len(state.tensors.keys() & own.keys()))
    others = ", ".join(f"'{state.name}'" for state in nearest if state is not best)
    beside = f" (nearer than {others})" if others else ""
    load_exactly(network, best.tensors, f"{file}, under {best.place}{beside}" if best.place else str(file))


@dataclass(frozen=True)
class _State:
    """A state dict in a file.

    Attributes:
        name: where it stands; empty where it is the file's whole content.
        tensors: by name.
        prefix: that was taken off its names.
    """

    name: str
    tensors: dict[str, Tensor]
    prefix: str = ""

    @property
    def place(self) -> str:
        """Name and prefix, for a message."""
        parts = [f"'{part}'" for part in (self.name, self.prefix) if part]
        return (
            " without the prefix ".join(parts)
            if self.name
            else "".join(f"the prefix {part}" for part in parts)
        )


def _read(file: Path) -> Any:
    if file.suffix == ".safetensors" or not file.is_file():
        return read_weights(file)
    if zipfile.is_zipfile(file):
        with torch_archive(file):  # bounds what it unpacks to
            pass
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        if refused := re.search(r"Unsupported (?:global|class).*?([\w.]+\.\w+)", str(error)):
            raise UserError(
                f"{file} cannot be opened safely: it is a pickle that asks for {refused[1]}, and such a pickle "
                "may run code. If you trust its origin, open it yourself with "
                "torch.load(FILE, weights_only=False) and save only its state dict: "
                "torch.save(loaded['state_dict'], NEW_FILE), or loaded.state_dict() where it is a network."
            ) from error
        raise _unreadable(file, "it was not written by torch.save") from error
    # Whatever a file that is cut short or of another kind makes of the reader.
    except Exception as error:
        if "TorchScript" in str(error):
            raise _unreadable(file, "it is a TorchScript program, not weights") from error
        raise _unreadable(file, brief(error)) from error


def _unreadable(file: Path, why: str) -> UserError:
    return UserError(f"{file} cannot be read as weights: {why}.{stand_in_note(file)}")


def _state_dicts(loaded: Any, name: str = "", depth: int = 0) -> Iterator[_State]:
    """The tensors of every mapping by name, down to two levels; deeper lie an optimizer's."""
    if not isinstance(loaded, Mapping):
        return
    tensors = {
        key: value for key, value in loaded.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    if tensors:
        yield _State(name, tensors)
    if depth < 2:
        for key, value in loaded.items():
            yield from _state_dicts(value, f"{name}.{key}" if name else str(key), depth + 1)


def _equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) for key, value in first.items()
    )
