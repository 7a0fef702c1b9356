"""`FILE.certificate.npz`: a few rows and what the student answers about them.

With it `verify` needs no student: where only the file and its certificate are, the file's answers on these rows are
compared with the recorded ones. It holds pictures of the user's data, and nothing needs it where the student is.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from distill_mtl.errors import UserError, brief
from distill_mtl.export.deployable import Deployable, Pixels, as_taken
from distill_mtl.export.parity import PictureBatch
from distill_mtl.geometry.views import Size
from distill_mtl.networks.inputs import InputContract, Preprocess
from distill_mtl.networks.weights import sha256
from distill_mtl.reading import DAMAGED_ARRAY, read_bytes
from distill_mtl.tasks.base import TaskKind, build_kind, import_kind

ENDING = ".certificate.npz"
MOST_BYTES = 1_000_000
"""Of pictures, their keys and answers together."""
_FEWEST_ROWS = 1


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Reference:
    """The record of some rows, and what is needed to understand it.

    Attributes:
        sha256: of the file.
        inputs: what the exported file takes, as its own note says it (`InputContract`).
        contract: what the student's trunk takes.
        kinds: by task, as config.json of a student's folder keeps it.
    """

    sha256: str
    inputs: dict[str, Any]
    contract: dict[str, Any]
    kinds: dict[str, dict[str, Any]]


class Recorded:
    """A student of which some answers are known; `check_parity` takes it for what was exported and for the student.

    Args:
        reference: of the certificate.
        pixels, decode: as the file was asked for.
        trust: let the code of kinds of the user's own run.

    Attributes:
        batches: the rows that are known.

    Raises:
        UserError: the file is missing or damaged, what the certificate says of it describes no student, or a kind is
            not known or not trusted.
    """

    def __init__(
        self, path: Path, reference: Reference, pixels: Pixels, *, decode: bool, trust: bool
    ) -> None:
        self.pixels, self.decode = pixels, decode
        self.kinds: dict[str, TaskKind] = {}
        try:
            for task, entry in reference.kinds.items():
                import_kind(entry["kind"], trust=trust, say="--trust")
                self.kinds[task] = build_kind(**entry)
            self.inputs = InputContract.from_dict(reference.inputs)
            contract = InputContract.from_dict(reference.contract)
        # What the kinds and the contract make of values that no export writes.
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path.with_suffix('.json')}: `reference` describes no student ({brief(error)}). Fetch the "
                "certificate again, name the student's folder with --student, or export the student again."
            ) from error
        try:
            self.batches, self._answers = _read(path, list(self.kinds))
        except (*DAMAGED_ARRAY, KeyError, zipfile.BadZipFile) as error:
            why = getattr(error, "strerror", None) or brief(error)
            raise UserError(
                f"{path} cannot be read: {why}. Fetch it again, name the student's folder with --student, or export "
                "the student again."
            ) from error
        self.own_size: Size = contract.size
        self._preprocess = Preprocess(contract)

    def taken(self, images: Tensor) -> Tensor:
        """As `Deployable.taken`."""
        return as_taken(images, self.pixels, self._preprocess)

    def __call__(self, images: Tensor) -> dict[str, dict[str, Tensor]]:
        """The recorded answers about the images of one of the batches."""
        (place,) = (at for at, batch in enumerate(self.batches) if batch.images is images)
        return {task: {"logits": logits} for task, logits in self._answers[place].items()}


@torch.no_grad()
def write_reference(
    path: Path, module: Deployable, student: nn.Module, batches: Sequence[PictureBatch]
) -> Reference | None:
    """Record the first rows of a comparison, within `MOST_BYTES`; None: not even one row or batch is so small.

    Args:
        path: of the file.
        module: what was exported.
        student: a loaded student (`DeployedStudent`).
        batches: the rows that were compared.
    """
    arrays, room = dict[str, Any](), MOST_BYTES
    for number, batch in enumerate(batches):
        images = batch.images if module.batch is not None else batch.images[: _rows_in(room, batch.images)]
        given = student(images) if len(images) else {}
        answers = {task: given[task]["logits"] for task in module.kinds if given}
        entries: dict[str, Any] = {"images": (images * 255).round().to(torch.uint8).numpy()}
        entries |= {f"answers of {task}": logits.float().numpy() for task, logits in answers.items()}
        entries["keys"] = np.array(batch.keys[: len(images)])
        room -= sum(array.nbytes for array in entries.values())
        if room < 0 or not len(images):
            break
        arrays |= {f"{number} {name}": array for name, array in entries.items()}
    if not arrays:
        return None
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    path.write_bytes(content.getvalue())
    return Reference(
        sha256=sha256(path),
        inputs=module.inputs.to_dict(),
        contract=module.trunk.inputs.to_dict(),
        kinds={task: kind.describe() for task, kind in module.kinds.items()},
    )


def _rows_in(room: int, images: Tensor) -> int:
    """How many pictures fit, with as many bytes again for their answers."""
    return max(_FEWEST_ROWS, room // (2 * images[0].numel()))


def _read(path: Path, tasks: Sequence[str]) -> tuple[list[PictureBatch], list[Mapping[str, Tensor]]]:
    batches, answers = list[PictureBatch](), list[Mapping[str, Tensor]]()
    content = io.BytesIO(read_bytes(path, 2 * MOST_BYTES))
    with zipfile.ZipFile(content) as packed:
        if sum(part.file_size for part in packed.infolist()) > 4 * MOST_BYTES:  # with headers
            raise ValueError("it holds more than an export records")
    with np.load(content, allow_pickle=False) as found:
        for number in range(sum(name.endswith(" images") for name in found.files)):
            images = torch.from_numpy(found[f"{number} images"]).float() / 255
            batches.append(PictureBatch(images, found[f"{number} keys"].tolist()))
            answers.append({task: torch.from_numpy(found[f"{number} answers of {task}"]) for task in tasks})
    if not batches:
        raise ValueError("it holds no rows")
    return batches, answers
