"""A network that the user's own code builds, with the weights that their training saved."""

import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from distill_mtl.errors import UserError, brief
from distill_mtl.networks.taps import Taps
from distill_mtl.teachers.freeze import freeze
from distill_mtl.teachers.runtime import Declared, Runtime
from distill_mtl.teachers.runtimes.checkpoint import load_checkpoint
from distill_mtl.teachers.runtimes.returned import named
from distill_mtl.user_code import attribute_of, import_module, working_directory_importable


class ModuleRuntime(Runtime):
    """Imports and runs the code that it is given: only for code that you trust. The weights run none.

    Names are those of `network.named_modules()`.

    Args:
        spec: `package.module:callable`; found from the working directory too, as `python script.py` would.
        args: keyword arguments of the callable, a function or class that returns the network.
        weights: file with its weights, `.safetensors` or what `torch.save` wrote.

    Raises:
        UserError: there is no such callable, it fails or returns no network, or the weights do not fit.
    """

    def __init__(self, spec: str, args: Mapping[str, Any], weights: Path) -> None:
        super().__init__()
        self.network, source = _build(spec, args)
        load_checkpoint(self.network, weights)
        freeze(self)
        self.files, self.outputs = (weights, source), ()
        self.declared = _declared(self.network)
        self._taps = Taps(self.network, ())
        self._fresh = False
        self._order: dict[str, int] = {}

    def names(self) -> list[str]:
        layers = [name for name, _ in self.network.named_modules() if name]
        # Layers that never ran come first; those that hold others end after them.
        layers.sort(key=lambda name: self._order.get(name, -1))
        return list(dict.fromkeys((*layers, *self.outputs)))

    def probe(self, images: Tensor) -> None:
        ended: list[str] = []
        hooks = [
            layer.register_forward_hook(lambda *_, name=name: ended.append(name))
            for name, layer in self.network.named_modules()
        ]
        try:
            super().probe(images)
        finally:
            for hook in hooks:
                hook.remove()
        self._order = {name: place for place, name in enumerate(ended)}

    def tap(self, names: Sequence[str]) -> None:
        taps = Taps(self.network, [name for name in names if name not in self.outputs])
        self._taps.remove()
        self._taps, self._fresh = taps, True

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        results: dict[str, Tensor] = {}

        def run() -> None:
            results.update(named(self.network(images), self.files[0]))

        if self._fresh:
            taken, self._fresh = self._taps.dry_run(run), False
        else:
            run()
            taken = self._taps.read()
        self.outputs = self.outputs or tuple(results)
        # What the network returns comes before a layer that has the same name.
        return results | {name: value for name, value in taken.items() if name not in results}


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
        return tuple(sorted(file for folder in folders for file in folder.rglob("*.py")))
    return (Path(found.origin),) if found.has_location and found.origin else ()


def _build(spec: str, args: Mapping[str, Any]) -> tuple[nn.Module, Path]:
    """The network, with random weights, and the file of the module that makes it."""
    name, colon, attribute = spec.partition(":")
    if not (name and colon and attribute):
        raise UserError(f"'{spec}' names no network. Write `package.module:callable`, as `models:resnet20`.")
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


def _declared(network: nn.Module) -> Declared:
    """What timm and those who follow it write down about the input; mean and std are not read here."""
    for name in ("pretrained_cfg", "default_cfg"):
        cfg = getattr(network, name, None)
        size = cfg.get("input_size") if isinstance(cfg, Mapping) else None
        if size is not None and len(size) == 3:
            return Declared(size=(int(size[1]), int(size[2])), channels=int(size[0]))
    return Declared()
