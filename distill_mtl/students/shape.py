"""What a recipe says of a student's shape -> a body, and back: the registry of shapes.

A recipe's `student` has at most one key of a shape (`branch`, `private`, ...), and so has the `trunk` of a student's
config.json. Without one the body is the plain trunk. A new shape is one file in `shapes/`, and its key in the recipe's
schema and in `recipe.schema.SHAPES`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from distill_mtl.errors import StudentError, UserError
from distill_mtl.networks.stages import Chain, find_chain
from distill_mtl.reading import Remedy, fit
from distill_mtl.registry import Registry
from distill_mtl.students.student import FAMILIES, Body, Trunk

SHAPES: Registry[type["Shape"]] = Registry("shape of a student", "distill_mtl.students.shapes")

Layout = Mapping[str, Any]
"""Key of the shape -> what `student.KEY` says; empty for a plain trunk."""


class Shape(Body, ABC):
    """A body that is made of a whole trunk, for the tasks of a recipe. The base class of shapes.

    A layer may run for each task apart, so that a feature has a name of its own, and `of` gives a task's by layer.

    Attributes:
        form: type of its entry in config.json, whose values others may have written.
        tasks: names of all tasks; set before the body is initialised.
        ends: `classifier` of the trunk that it is made of; set before, too.
    """

    form: ClassVar[Any]
    tasks: tuple[str, ...]
    ends: tuple[str, ...]

    def classifier(self) -> tuple[str, ...]:
        return self.ends

    @classmethod
    @abstractmethod
    def of_trunk(cls, whole: Trunk, said: Any, tasks: Sequence[str]) -> Body:
        """The body that `student.KEY` asks for; every part begins with the weights of the trunk.

        Raises:
            UserError: there is no such stage, or the network cannot be cut as asked.
        """

    @abstractmethod
    def names_of(self, layer: str) -> Mapping[str, str]:
        """Task -> the name of its feature of a layer.

        Raises:
            UserError: there is no such layer.
        """

    @property
    def tapped(self) -> tuple[str, ...]:
        return tuple(self._names)

    def tap(self, returns: Iterable[str]) -> None:
        self._names = {layer: self.names_of(layer) for layer in dict.fromkeys(returns)}
        self._layer_of = {names[task]: layer for task in self.tasks for layer, names in self._names.items()}
        super().tap(self._layer_of)

    def of(self, task: str, features: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {layer: features[names[task]] for layer, names in self._names.items()}

    def layer_of(self, name: str) -> str:
        return self._layer_of[name]

    @classmethod
    def mistakes(cls, said: Any, tasks: Sequence[str]) -> list[str]:
        """What is wrong with an entry of config.json of the right type, before the network is known."""
        return []

    @classmethod
    def beside(cls, said: Any, layout: Layout, old: Sequence[str], tasks: Sequence[str]) -> Any:
        """What `student.KEY` says, with what follows from the student that training begins with.

        Args:
            said: in the recipe.
            layout: of that student.
            old: its tasks.
            tasks: of the recipe.

        Raises:
            UserError: the shape cannot begin so.
        """
        return said

    @classmethod
    @abstractmethod
    def inherited(cls, said: Any, old: Sequence[str], tasks: Sequence[str]) -> Any:
        """What the shape of a student with `old` tasks is for those of the student that begins with it.

        Returns:
            None where these share the whole trunk.

        Raises:
            UserError: a new task has no place in it.
        """


def shaped(whole: Trunk, layout: Layout, tasks: Sequence[str]) -> Body:
    """The body of a layout.

    Args:
        whole: a trunk of the family; the body begins with its weights.
        layout: at most one shape, as a recipe or `Body.layout` has it.
        tasks: names of all tasks.

    Raises:
        StudentError: it cannot be made.
    """
    for key, said in layout.items():
        try:
            return SHAPES[key].of_trunk(whole, said, tasks)
        except StudentError:
            raise
        except UserError as error:
            raise StudentError(f"student.{key}: {error}") from error
    return whole


def restore_body(entry: Mapping[str, Any], layout: Layout, tasks: Sequence[str]) -> Body:
    """The body that `Body.describe` described, with random weights; `layout` is what `layout_in` found in it.

    Raises:
        StudentError: the network cannot be cut so.
    """
    return shaped(FAMILIES[entry["family"]].restore(entry), layout, tasks)


def layout_in(entry: Mapping[str, Any], tasks: Sequence[str], where: str, remedy: Remedy) -> Layout:
    """The layout in the description of a trunk in config.json, checked as far as it needs no network.

    Args:
        entry: what `Body.describe` gave.
        tasks: of the student.
        where: of the entry, for the message.
        remedy: what the message says at its end.

    Raises:
        UserError: it is not what `Body.describe` writes.
    """
    found = [key for key in SHAPES.names() if entry.get(key)]
    if len(found) > 1:
        raise remedy.error(f"{where}: found {' and '.join(found)}; a student has one shape. {remedy.mend}")
    for key in found:
        said = fit(entry[key], SHAPES[key].form, f"{where}.{key}", remedy=remedy)
        for text in SHAPES[key].mistakes(said, tasks):
            raise remedy.error(f"{where}.{key}: {text} {remedy.mend}")
        return {key: said}
    return {}


def chain_of(whole: Trunk) -> Chain:
    """The steps of a trunk's network, which is not tapped any more.

    Raises:
        UserError: it cannot be cut.
    """
    whole.tap(())
    channels = whole.preprocess(torch.zeros(1, 3, *whole.inputs.size)).shape[1]
    return find_chain(whole.model, whole.inputs.size, channels, whole.name)
