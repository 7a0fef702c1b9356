"""A teacher in a folder: timm's local-dir form, or a student folder of ours."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from distill_mtl.errors import UserError
from distill_mtl.networks.file_contract import overridden
from distill_mtl.networks.task_network import Opened, Origin
from distill_mtl.networks.timm_folder import FORMS, open_timm_folder
from distill_mtl.networks.weights import CONFIG, WEIGHTS, read_config
from distill_mtl.recipe.schema import OutputSection, TeacherSection


class FolderOrigin(Origin):
    """`teacher: teachers/left`.

    Args:
        folder: on this machine.
        section: which head of it, and what its config.json says wrong about the input.
        task: that it is to teach.
    """

    def __init__(self, folder: Path, section: TeacherSection, task: str) -> None:
        self.place = folder
        self.files = (folder / WEIGHTS, folder / CONFIG)
        self._section, self._task = section, task

    def open(self) -> Opened:
        if self._section.output != OutputSection():
            raise UserError(
                f"{self.place} is a folder, whose network gives logits. Remove `output`, which is for files."
            )
        opened = self._open(read_config(self.place))
        contract = overridden(opened.network.inputs, self._section.input)
        if contract == opened.network.inputs:
            return opened
        return replace(opened, network=opened.network.reading(contract))

    def _open(self, config: dict[str, Any]) -> Opened:
        if "format" in config:
            form = FORMS[config["format"]]
            return form.open(self.place, config, self._section.task, self._task, trust=self._section.trust)
        if "architecture" not in config:
            raise UserError(
                f"{self.place / CONFIG} is neither timm's (no `architecture`) nor a student's of ours (no `format`). "
                "Save the network with timm.models.save_for_hf(model, FOLDER, safe_serialization=True)."
            )
        if self._section.task is not None:
            raise UserError(
                f"{self.place} holds a single classifier, so there is no head '{self._section.task}' in it. "
                "Remove `task`."
            )
        return open_timm_folder(self.place, config)
