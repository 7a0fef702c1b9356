"""Whether what a certificate says of an exported file holds here: the same file, student, runtimes and answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill_mtl.data.decode import read_image
from distill_mtl.errors import UserError, brief
from distill_mtl.export.certificate import (
    Certificate,
    RuntimeRecord,
    hashes,
    lower_bound,
    rows_hash,
)
from distill_mtl.export.deployable import Deployable
from distill_mtl.export.export_format import FORMATS, ExportRequest
from distill_mtl.export.file_runtimes import FILE_RUNTIMES
from distill_mtl.export.parity import LARGEST, Parity, PictureBatch, RealRows, check_parity
from distill_mtl.geometry.views import Size, plain_view
from distill_mtl.networks.file_contract import read_note
from distill_mtl.networks.runtime import Runtime
from distill_mtl.prediction.named_pictures import find_pictures
from distill_mtl.splits import Split

_TIMES = 2.0  # that the largest error of answers without decisions may exceed the certified one, in less than float32


@dataclass
class Verification:
    """What was found.

    Attributes:
        failures: what does not hold -> the finding, in words; empty: all holds.
        found: by runtime, the answers that were compared.
    """

    failures: dict[str, str] = field(default_factory=dict)
    found: dict[str, Parity] = field(default_factory=dict)

    @property
    def accepted(self) -> bool:
        """Whether all holds."""
        return not self.failures


class PictureRows(RealRows):
    """The pictures of a folder in place of rows: the student needs no run."""

    def __init__(self, request: ExportRequest, places: Sequence[str]) -> None:
        self._pictures = find_pictures(places).pictures
        super().__init__(request)

    def _require_rows(self) -> None:
        """There are pictures: what finds none is refused where they are looked for."""

    def take(self, split: Split, number: int, size: Size) -> tuple[Tensor, list[str]]:
        pictures = self._pictures
        at = torch.linspace(0, len(pictures) - 1, min(number, len(pictures))).long().tolist()
        seen = []
        for picture in (chosen := [pictures[one] for one in at]):
            try:
                image = read_image(picture.read(), Path(picture.place).suffix[1:])
            except (ValueError, OSError) as error:
                raise UserError(f"{picture.place}: {brief(error)}. Remove it.") from error
            seen.append(plain_view((image.shape[1], image.shape[2]), size, "crop").image(image, size))
        return torch.stack(seen), [picture.key for picture in chosen]


def changed_files(certificate: Certificate, folder: Path, student: Mapping[str, str]) -> dict[str, str]:
    """What is no longer the file or the student that was certified."""
    failures = {}
    for name, expected in certificate.files.items():
        if not (path := folder / name).is_file():
            failures["file"] = f"{path} is not there. Put it beside its certificate."
        elif (found := next(iter(hashes([path]).values()))) != expected:
            failures["file"] = (
                f"{path} was changed after it was certified: its sha256 is {found[:12]}…, not {expected[:12]}…. "
                "Fetch it again, or export the student again."
            )
    stale = [name for name, expected in certificate.student.items() if student.get(name) != expected]
    if stale:
        failures["student"] = (
            f"the certificate is stale: the student's {' and '.join(stale)} is another than the one that was "
            "certified. Export it again, or name the right one with --student."
        )
    return failures


@torch.no_grad()
def verify_answers(
    certificate: Certificate,
    request: ExportRequest,
    module: Deployable,
    rows: RealRows,
    file: Path,
    *,
    own: bool,
) -> Verification:
    """Run a file again in each runtime of its certificate.

    Args:
        certificate: of the file.
        request: the export again, with the student of the certificate's tasks.
        module: what was exported.
        rows: to compare.
        file: to run.
        own: the rows are those that were certified.
    """
    verification = Verification()
    batches = rows.for_check(module)
    if own and rows_hash(batches) != certificate.rows_sha256:
        verification.failures["rows"] = (
            "the rows are not those that were certified: the data has changed. Put it back, or name other pictures "
            "with --pictures."
        )
    student = request.source.load()
    for name, record in certificate.runtimes.items():
        if (runtime := FILE_RUNTIMES.get(name)) is None:
            raise UserError(
                f"the certificate names a runtime '{name}' that is not known. Export the student again."
            )
        if runtime.version != record.version:
            here = f"here is {runtime.version}" if runtime.version else "it is not installed here"
            verification.failures[f"version of {name}"] = (
                f"certified with {runtime.words} {record.version}, {here}. Install {runtime.package}=="
                f"{record.version}, or export the student again with this one."
            )
        if runtime.version is None:
            continue
        try:
            opened = runtime.open(file, FORMATS[certificate.format].ending)
            if said := _other_input(opened, module):
                verification.failures[f"input in {name}"] = said
            found = check_parity(module, student, opened, batches)
        # Whatever a runtime raises that does not take the rows.
        except Exception as error:
            verification.failures[f"answers in {name}"] = f"the file does not run: {brief(error)}."
            continue
        verification.found[name] = found
        if said := _difference(found, record, certificate.precision):
            cause = diagnosed(module, student, opened, batches[-1])
            verification.failures[f"answers in {name}"] = f"{said}. {cause}"
    return verification


def _other_input(opened: Runtime, module: Deployable) -> str:
    """Where the file's own note asks for other images than the student takes."""
    said, wanted = read_note(opened.declared).get("inputs", {}), module.inputs.to_dict()
    other = [key for key, value in said.items() if wanted.get(key) != value]
    if not other:
        return ""
    return "; ".join(f"its {key} is {said[key]}, the student's {wanted.get(key)}" for key in other) + "."


def _difference(found: Parity, record: RuntimeRecord, precision: str) -> str:
    """The worst output, in words; nothing where all answer as they were certified to."""
    for name, output in found.outputs.items():
        known = record.outputs.get(name)
        if known is None:
            return f"{name} was not certified"
        if precision == "fp32":
            wrong = bool(output.changed) or output.excessive
        else:
            least = lower_bound(output.rows_changed, found.rows) if output.decisions else 0.0
            apart = output.largest > _TIMES * known.largest and not output.decisions
            wrong = least > record.changed_at_most.get(name, 0.0) or apart or output.largest == float("inf")
        if wrong:
            return (
                f"{name} is not the student's: {output.rows_changed:,} of {found.rows:,} rows are decided otherwise, "
                f"the largest error is {output.largest:.2g} of answers up to {output.scale:.2g} (row {output.where})"
            )
    return ""


@torch.no_grad()
def diagnosed(
    module: Deployable, student: nn.Module, run: Callable[[Tensor], dict[str, Tensor]], batch: PictureBatch
) -> str:
    """What explains answers that are not the student's, in a sentence."""

    def logits(images: Tensor) -> dict[str, Tensor]:
        return {task: answer["logits"] for task, answer in student(images).items() if task in module.kinds}

    given, images = run(module.taken(batch.images)), batch.images
    ours = logits(images)
    if not all(bool(given[task].isfinite().all()) for task in ours):
        return "Its answers are not finite: has something computed in 16 bits overflowed?"
    if _alike(ours, given):
        return "Its logits are the student's, so it decodes them otherwise: check the version that wrote it."
    if _alike(logits(images.flip(1)), given):
        return "It sees red and blue swapped: check the order of the colours."
    contract = module.trunk.inputs
    if contract.interpolation != "nearest":
        rough = F.interpolate(images, contract.size, mode=contract.interpolation).clamp(0, 1)
        if _alike(logits(rough), given):
            return "It resizes pictures without antialiasing."
    for task, answer in ours.items():
        if not _alike({task: answer}, given) and _alike(
            {task: answer.sort(1).values}, {task: given[task].sort(1).values}
        ):
            return f"The classes of {task} are in another order."
    return "Nothing usual explains it: are these the weights of this student?"


def _alike(ours: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> bool:
    return all(
        bool((answer - given[task]).abs().max() <= LARGEST * answer.abs().max())
        for task, answer in ours.items()
    )
