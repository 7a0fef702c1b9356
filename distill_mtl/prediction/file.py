"""An exported file (.onnx, .pt2, .ts) as a network: the note that `distill-mtl export` leaves in it says its tasks."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_mtl.errors import UserError
from distill_mtl.networks.file_contract import NOTE, read_note
from distill_mtl.networks.inputs import InputContract, Preprocess
from distill_mtl.networks.runtime import Runtime
from distill_mtl.prediction.network import Network, Resize, chosen_tasks
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.tasks.base import admit_kind, build_kind
from distill_mtl.teachers.run_file import file_origin


def open_file(path: Path, only: Sequence[str] | None, device: torch.device, *, trust: bool) -> "FileNetwork":
    """The network in an exported file.

    Args:
        path: the file.
        only: tasks that are asked for; None: all.
        device: to work on.
        trust: let a program (.pt2, .ts) or a user's own kinds of task run code.

    Raises:
        UserError: no such file, one that cannot be opened or is not trusted, or one without our note.
    """
    origin = file_origin(path, TeacherSection(path=str(path), trust=trust), "")
    if origin.program is not None and not trust:
        raise UserError(
            f"{path} is {origin.program}: code, which can do whatever you can do on this machine. If you trust where "
            "it comes from, say so with --trust. Folders with safetensors and .onnx files are data alone."
        )
    runtime = origin.load()
    note = read_note(runtime.declared)
    if not isinstance(note.get("tasks"), dict):
        raise UserError(
            f"{path} does not say what its tasks are: it carries no note '{NOTE}' with `tasks`, as the files that "
            "`distill-mtl export` writes do. Export the student again, or name its folder."
        )
    tasks = chosen_tasks(list(note["tasks"]), only, str(path))
    for task in tasks:
        admit_kind(note["tasks"][task].get("kind", ""), trust=trust, say="--trust")
    return FileNetwork(runtime, note, tasks, device)


class FileNetwork(Network):
    """An exported student.

    Args:
        runtime: of the file.
        note: what the file says.
        tasks: whose answers are wanted.
        device: to work on.

    Raises:
        UserError: the note makes no sense, or the runtime cannot work on the device.
    """

    def __init__(
        self, runtime: Runtime, note: Mapping[str, Any], tasks: Sequence[str], device: torch.device
    ) -> None:
        self._runtime, self.device = runtime.to(device).eval(), device
        try:
            self.kinds = {task: build_kind(**note["tasks"][task]) for task in tasks}
            contract = InputContract.from_dict(note["inputs"])
            self._inside = bool(note["preprocess"])
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{runtime.files[0]}: its note '{NOTE}' cannot be understood: {error!r}."
            ) from error
        self.shape, self.resize = contract.size, _resize(note)
        self._bytes = contract.dtype == "uint8"
        self._preprocess = Preprocess(contract).to(device)
        self._batch = runtime.declared.batch

    def logits(self, images: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        found: dict[str, list[Tensor]] = {task: [torch.empty(0)] * len(images) for task in self.kinds}
        for rows in self._together(images):
            given = self._run(torch.stack([self._pixels(images[row]) for row in rows]))
            for task in self.kinds:
                if task not in given:
                    raise UserError(
                        f"{self._runtime.files[0]} gives no output '{task}', only {', '.join(given)}. Export it again."
                    )
                for row, logits in zip(rows, given[task].float(), strict=False):
                    found[task][row] = logits
        return found

    def _together(self, images: Sequence[Tensor]) -> list[list[int]]:
        """Rows that can run together: of one size where the file resizes, and no more than it takes."""
        groups: dict[Any, list[int]] = defaultdict(list)
        for row, image in enumerate(images):
            groups[image.shape[1:] if self._inside else None].append(row)
        most = self._batch or len(images)
        return [rows[at : at + most] for rows in groups.values() for at in range(0, len(rows), most)]

    def _pixels(self, image: Tensor) -> Tensor:
        """[3, H, W] as the file takes it."""
        image = image.to(self.device)
        if self._inside and self._bytes:
            return image
        image = image.float() / 255
        return image if self._inside else self._preprocess(image[None])[0]

    def _run(self, pixels: Tensor) -> dict[str, Tensor]:
        missing = (self._batch or len(pixels)) - len(pixels)
        if missing:
            pixels = torch.cat([pixels, pixels[-1:].expand(missing, *pixels.shape[1:])])
        return self._runtime(pixels)


def _resize(note: Mapping[str, Any]) -> Resize:
    """What evaluation showed the student of a picture, where the note says so."""
    said = note.get("resize", "squash")
    return said if said in ("crop", "pad") else "squash"
