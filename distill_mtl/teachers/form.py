"""The forms in which a trained network may lie in a folder, and what each is opened to.

timm's own form is read by `timm_folder`. Other forms say `format` in their config.json and register a
`TeacherForm` under that name. A student folder does so from students/, so that teachers/ needs no
knowledge of students: anything that can be opened to a `TeacherNetwork` can teach.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from distill_mtl.networks.backbone import Backbone
from distill_mtl.registry import Registry

FORMS: Registry[type["TeacherForm"]] = Registry("form of a teacher's folder", "distill_mtl.students")


@dataclass(frozen=True)
class TeacherNetwork:
    """A trained network of one task, whatever it was read from.

    Attributes:
        backbone: images to named features, preprocessing included.
        head: named features to logits; a module, or a function without parameters.
        needs: names of the features that the head reads.
        classes: their names, in the order of the logits.
        named: the folder really names its classes; otherwise they are "0", "1", ...
        kind: of the task.
    """

    backbone: Backbone
    head: Callable[[Mapping[str, Tensor]], Tensor]
    needs: tuple[str, ...]
    classes: tuple[str, ...]
    named: bool
    kind: str


class TeacherForm(ABC):
    """One form of folder, registered under the `format` that its config.json says."""

    @classmethod
    @abstractmethod
    def open(cls, folder: Path, config: Mapping[str, Any], task: str | None, default: str) -> TeacherNetwork:
        """Read the network.

        Args:
            folder: where it lies.
            config: its config.json.
            task: which of its heads was asked for by name; None: the one called `default`, or the only one.
            default: the task that it is to teach.

        Raises:
            UserError: the folder is incomplete, or lacks that head.
        """
