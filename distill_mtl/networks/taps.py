"""Reading a network's inner layers by dotted name, without touching its code.

`Backbone` (for teachers and trunks alike) owns one `Taps`. Hooks sit on the instance, so two networks
of one class never mix, and a deep copy of the owner reads its own layers.
"""

import re
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from distill_mtl.errors import UserError, nearest

_PART = re.compile(r"(.+)\[(\d{1,4})\]")


class Taps:
    """The outputs of named layers, taken in each forward pass of `module`.

    A layer that runs several times in one pass keeps its last output. Where a later operation writes
    into the output in place (an in-place ReLU after a tapped normalisation), `dry_run` finds out and
    the tap keeps a copy from then on.

    Args:
        module: the network.
        layers: dotted names, as in `module.named_modules()`; `stage4[0]` for the first of the maps of a layer that
            gives several in a list or a tuple.

    Raises:
        UserError: the network has no layer of that name.
    """

    def __init__(self, module: nn.Module, layers: Sequence[str]) -> None:
        known = dict(module.named_modules())
        places = {layer: _module_and_index(layer) for layer in layers}
        for layer, (name, _) in places.items():
            if not name or name not in known:
                raise UserError(_unknown(layer, known))
        self._taken: dict[str, Tensor] = {}
        self._taps = {layer: _Tap(layer, index, self._taken) for layer, (_, index) in places.items()}
        self._handles: list[RemovableHandle] = [
            known[places[layer][0]].register_forward_hook(tap) for layer, tap in self._taps.items()
        ]
        # Two owners may share a network: what one of them tapped must not run on when it is gone.
        weakref.finalize(self, _remove, self._handles).atexit = False

    def dry_run(self, forward: Callable[[], object]) -> dict[str, Tensor]:
        """Run `forward` once, learn which outputs are overwritten later, and return all of them.

        Raises:
            UserError: a layer does not run in a forward pass, or gives something else than one tensor.
        """
        for tap in self._taps.values():
            tap.copy, tap.version = False, 0
        forward()
        for layer, tap in self._taps.items():
            if layer not in self._taken:
                raise UserError(f"the layer '{layer}' is not used when the network runs. Choose another.")
            tap.copy, tap.version = self._taken[layer]._version != tap.version, None
        if any(tap.copy for tap in self._taps.values()):
            forward()
        return self.read()

    def read(self) -> dict[str, Tensor]:
        """What the layers gave in the last forward pass, by name. Reading forgets it."""
        taken = dict(self._taken)
        # Emptied, not replaced: the hooks write into this very dict. Kept tensors would hold the graph
        # of the step in memory and forbid a deep copy of the network.
        self._taken.clear()
        return taken

    def remove(self) -> None:
        """Take the hooks off the network."""
        _remove(self._handles)


class _Tap:
    """One hook. An object, not a closure: `copy.deepcopy` of a network gives it a hook of its own."""

    def __init__(self, layer: str, index: int | None, taken: dict[str, Tensor]) -> None:
        self.layer, self.index, self.taken = layer, index, taken
        self.copy = False
        # PyTorch's count of in-place writes when the layer had just run; None outside a dry run.
        self.version: int | None = None

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.index is not None:
            output = self._part(output)
        elif not isinstance(output, Tensor):
            inside = " or ".join(tensor_parts(self.layer, output)) or "a layer inside it"
            raise UserError(
                f"the layer '{self.layer}' gives a {type(output).__name__}, not one tensor. Choose {inside}."
            )
        if self.version is not None:
            self.version = output._version
        self.taken[self.layer] = output.clone() if self.copy else output

    def _part(self, output: Any) -> Tensor:
        parts = tensor_parts(_module_and_index(self.layer)[0], output)
        if self.layer not in parts:
            found = ", ".join(parts) or type(output).__name__
            raise UserError(f"there is no '{self.layer}' in what that layer gives: {found}.")
        return parts[self.layer]


def tensor_parts(layer: str, output: Any) -> dict[str, Tensor]:
    """The tensors in a list or a tuple that a layer gives, by the names under which they are tapped."""
    listed = output if isinstance(output, list | tuple) else ()
    return {f"{layer}[{index}]": part for index, part in enumerate(listed) if isinstance(part, Tensor)}


def _module_and_index(layer: str) -> tuple[str, int | None]:
    """`stage4[0]` as ("stage4", 0), any other name as it is."""
    found = _PART.fullmatch(layer)
    return (found[1], int(found[2])) if found else (layer, None)


def _remove(handles: Sequence[RemovableHandle]) -> None:
    for handle in handles:
        handle.remove()


def _unknown(layer: str, known: dict[str, nn.Module]) -> str:
    names = [name for name in known if name]
    shown = ", ".join(name for name in names if name.count(".") <= 1)
    return f"there is no layer '{layer}'.{nearest(layer, names)} Layers: {shown}, and those inside them."
