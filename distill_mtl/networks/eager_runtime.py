"""A network of PyTorch modules behind the interface of a runtime: the user's own, or one that a library builds.

`LIBRARIES` are the libraries whose networks a recipe names by a key of the teacher: `{transformers: FOLDER}`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from distill_mtl.networks.modes import freeze
from distill_mtl.networks.runtime import DeclaredInput, Runtime, named
from distill_mtl.networks.taps import Taps, tensor_parts
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.registry import Registry


class EagerRuntime(Runtime):
    """Names are those of `network.named_modules()`; `stage4[0]` for a tensor in a list that a module gives.

    Args:
        network: with its weights.
        files: that it was read from, weights first.
        declared: what they say of its input.
    """

    def __init__(self, network: nn.Module, files: tuple[Path, ...], declared: DeclaredInput) -> None:
        super().__init__()
        self.network = network
        freeze(self)
        self.files, self.outputs, self.declared = files, (), declared
        self._taps = Taps(self.network, ())
        self._fresh = False
        self._order: dict[str, int] = {}

    def names(self) -> list[str]:
        layers = [name for name, _ in self.network.named_modules() if name]
        layers += [name for name in self._order if name.endswith("]")]
        # Layers that never ran come first; those that hold others end after them.
        layers.sort(key=lambda name: self._order.get(name, -1))
        return list(dict.fromkeys((*layers, *self.outputs)))

    def probe(self, images: Tensor) -> None:
        ended: list[str] = []
        hooks = [
            layer.register_forward_hook(
                lambda module, inputs, output, name=name: ended.extend((name, *tensor_parts(name, output)))
            )
            for name, layer in self.network.named_modules()
            if name
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
            results.update(named(self.call(images), self.files[0]))

        if self._fresh:
            taken, self._fresh = self._taps.dry_run(run), False
        else:
            run()
            taken = self._taps.read()
        self.outputs = self.outputs or tuple(results)
        # What the network returns comes before a layer that has the same name.
        return results | {name: value for name, value in taken.items() if name not in results}

    def call(self, images: Tensor) -> Any:
        """What the network returns for [B, 3, H, W]."""
        return self.network(images)


class FoundNetwork(NamedTuple):
    """Where a network of a library lies.

    Attributes:
        place: the folder or file, for messages.
        files: that decide its answers, weights first.
    """

    place: Path
    files: tuple[Path, ...]


class LibraryRuntime(EagerRuntime):
    """A network that a library builds from data: its code is the library's, and nothing else runs.

    Registered under the key of the teacher's section that names the network.
    """

    is_program = False

    @classmethod
    @abstractmethod
    def find(cls, section: TeacherSection) -> FoundNetwork:
        """Its files on this machine; they are fetched where they lie elsewhere.

        Raises:
            UserError: they are not there, or hold code or pickles alone.
        """

    @classmethod
    @abstractmethod
    def load(cls, section: TeacherSection, found: FoundNetwork) -> "LibraryRuntime":
        """Build it and load its weights.

        Raises:
            UserError: the library is not installed, or the weights do not fit.
        """


LIBRARIES: Registry[type[LibraryRuntime]] = Registry("library of networks", "distill_mtl.networks.runtimes")
