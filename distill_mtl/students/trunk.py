"""The part of a student that all tasks share, and the registry of its families.

A recipe's `student.model` is a name of the default family, timm, or `FAMILY:NAME`. A new family is one
file in `families/`: build a module that follows the three conventions of `Backbone`, and say how.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import nn

from distill_mtl.networks.backbone import Backbone
from distill_mtl.networks.inputs import InputContract
from distill_mtl.registry import Registry

FAMILIES: Registry[type["Trunk"]] = Registry("student family", "distill_mtl.students.families")
DEFAULT_FAMILY = "timm"


class Trunk(Backbone, ABC):
    """Images in [0, 1] -> the shared features that heads and hints read, by name.

    Args:
        model: the network, without a classifier.
        inputs: what it is trained on.
        name: of the architecture, within the family.
        args: plain values with which `build` makes the same network again.

    Attributes:
        family: name that a recipe uses.
    """

    family: ClassVar[str]

    def __init__(self, model: nn.Module, inputs: InputContract, name: str, args: Mapping[str, Any]) -> None:
        super().__init__(model, inputs)
        self.name, self.args = name, dict(args)

    @classmethod
    @abstractmethod
    def create(
        cls, name: str, args: Mapping[str, Any], size: tuple[int, int] | None, *, pretrained: bool
    ) -> "Trunk":
        """The trunk that a recipe asks for; `size` None: the one the architecture was made for.

        Raises:
            StudentError: no such architecture or arguments, or no pretrained weights within reach.
        """

    @classmethod
    @abstractmethod
    def build(cls, name: str, args: Mapping[str, Any]) -> nn.Module:
        """The bare network with random weights, from what `describe` keeps."""

    @classmethod
    def restore(cls, entry: Mapping[str, Any]) -> "Trunk":
        """The trunk that `describe` described, with random weights."""
        inputs = InputContract.from_dict(entry["inputs"])
        return cls(cls.build(entry["model"], entry["args"]), inputs, entry["model"], entry["args"])

    def describe(self) -> dict[str, Any]:
        """What a student's config.json keeps."""
        return {"family": self.family, "model": self.name, "args": self.args, "inputs": self.inputs.to_dict()}


def split_family(model: str) -> tuple[str, str]:
    """Family and name in a recipe's `student.model`."""
    family, colon, name = model.partition(":")
    return (family, name) if colon else (DEFAULT_FAMILY, model)
