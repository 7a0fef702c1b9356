"""The forms in which a trained network may lie in a folder.

timm's own form is read by `timm_folder`. Other forms say `format` in their config.json and register a
`FolderForm` under that name. A student folder does so from students/, so that teachers/ needs no knowledge
of students: whatever can be opened to a `TeacherNetwork` can teach.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_mtl.registry import Registry
from distill_mtl.teachers.network import Opened

FORMS: Registry[type["FolderForm"]] = Registry("form of a teacher's folder", "distill_mtl.students")


class FolderForm(ABC):
    """One form of folder, registered under the `format` that its config.json says."""

    @classmethod
    @abstractmethod
    def open(
        cls, folder: Path, config: Mapping[str, Any], task: str | None, default: str, *, trust: bool
    ) -> Opened:
        """Read the network.

        Args:
            folder: where it lies.
            config: its config.json.
            task: which of its heads was asked for by name; None: the one called `default`, or the only one.
            default: the task that it is to teach.
            trust: whether code that the folder names may run.

        Raises:
            UserError: the folder is incomplete, or lacks that head.
        """
