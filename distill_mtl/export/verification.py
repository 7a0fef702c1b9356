"""Whether what a certificate says of an exported file holds here: the same file, student, runtimes and answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
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
from distill_mtl.export.parity import LARGEST, Answering, Parity, PictureBatch, RealRows, check_parity
from distill_mtl.export.reference import ENDING as REFERENCE
from distill_mtl.export.reference import Recorded
from distill_mtl.geometry.views import Size, plain_view
from distill_mtl.networks.file_contract import read_note
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.runtime import Runtime
from distill_mtl.networks.weights import sha256
from distill_mtl.prediction.named_pictures import find_pictures
from distill_mtl.splits import Split

Run = Callable[[Tensor], dict[str, Tensor]]
Cause = tuple[str, Mapping[str, Tensor], Callable[[], Mapping[str, Tensor]]]
_SWAPPED = "It sees red and blue swapped: check the order of the colours."
_ROUGH = "It resizes pictures without antialiasing."
_TIMES = 2.0  # that the largest error of answers without decisions may exceed the certified one, in less than float32


class Exported(Answering, Protocol):
    """What a file is compared with."""

    @property
    def inputs(self) -> InputContract:
        """What the file takes."""


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


def changed_files(
    certificate: Certificate, folder: Path, student: Mapping[str, str] | None
) -> dict[str, str]:
    """What is no longer the file or the student that was certified.

    Args:
        certificate: of the file.
        folder: where both lie.
        student: sha256 of the student's files; None: it is not here, and the recorded answers stand in its place.
    """
    failures = {}
    for name, expected in certificate.files.items():
        if not (path := folder / name).is_file():
            failures["file"] = f"{path} is not there. Put it beside its certificate."
        elif (found := next(iter(hashes([path]).values()))) != expected:
            failures["file"] = (
                f"{path} was changed after it was certified: its sha256 is {found[:12]}…, not {expected[:12]}…. "
                "Fetch it again, or export the student again."
            )
    if student is None:
        assert certificate.reference is not None
        path = folder / f"{certificate.file}{REFERENCE}"
        if path.is_file() and sha256(path) != certificate.reference.sha256:
            failures["reference"] = (
                f"{path} was changed after it was certified. Fetch it again, or export the student again."
            )
        return failures
    stale = [name for name, expected in certificate.student.items() if student.get(name) != expected]
    if stale:
        failures["student"] = (
            f"the certificate is stale: the student's {' and '.join(stale)} is another than the one that was "
            "certified. Export it again, or name the right one with --student."
        )
    return failures


def verify_alone(certificate: Certificate, file: Path, *, trust: bool) -> Verification:
    """Run a file in each runtime of its certificate on the recorded rows, where the student is not.

    Args:
        certificate: of the file, with a reference.
        file: to run.
        trust: let the code of kinds of the user's own run.

    Raises:
        UserError: what was recorded cannot be read.
    """
    assert certificate.reference is not None
    recorded = Recorded(
        file.with_name(file.name + REFERENCE),
        certificate.reference,
        certificate.pixels,
        decode=certificate.decode,
        trust=trust,
    )

    def diagnosed(run: Run, batch: PictureBatch) -> str:
        ours = _logits(recorded(batch.images))
        first = recorded.batches[0]
        causes = [(_SWAPPED, ours, lambda: run(recorded.taken(batch.images.flip(1))))]
        if recorded.pixels != "normalised" and first.images.shape[2:] == recorded.own_size:
            of_first = _logits(recorded(first.images))
            causes.append((_ROUGH, of_first, lambda: run(recorded.taken(first.images))))
        return _cause(ours, run(recorded.taken(batch.images)), causes)

    verification = Verification()
    _verify(verification, certificate, recorded, recorded, recorded.batches, file, diagnosed)
    return verification


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

    def diagnosed(run: Run, batch: PictureBatch) -> str:
        given, images = run(module.taken(batch.images)), batch.images
        ours = {task: logits for task, logits in _logits(student(images)).items() if task in module.kinds}
        causes = [(_SWAPPED, given, lambda: _logits(student(images.flip(1))))]
        contract = module.trunk.inputs
        if contract.interpolation != "nearest":
            rough = F.interpolate(images, contract.size, mode=contract.interpolation).clamp(0, 1)
            causes.append((_ROUGH, given, lambda: _logits(student(rough))))
        return _cause(ours, given, causes)

    _verify(verification, certificate, module, student, batches, file, diagnosed)
    return verification


@torch.no_grad()
def _verify(
    verification: Verification,
    certificate: Certificate,
    module: Exported,
    student: Callable[[Tensor], Mapping[str, Mapping[str, Tensor]]],
    batches: Sequence[PictureBatch],
    file: Path,
    diagnosed: Callable[[Run, PictureBatch], str],
) -> None:
    """Add what is found in each runtime."""
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
            verification.failures[f"answers in {name}"] = f"{said}. {diagnosed(opened, batches[-1])}"


def _other_input(opened: Runtime, module: Exported) -> str:
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


def _logits(answers: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {task: answer["logits"] for task, answer in answers.items()}


def _cause(ours: Mapping[str, Tensor], given: Mapping[str, Tensor], causes: Sequence[Cause]) -> str:
    """What explains answers that are not the student's, in a sentence.

    Args:
        ours: the student's logits.
        given: the file's answers.
        causes: each with two answers that are alike if it is the cause; the second is asked for when its turn comes.
    """
    if not all(bool(given[task].isfinite().all()) for task in ours):
        return "Its answers are not finite: has something computed in 16 bits overflowed?"
    if _alike(ours, given):
        return "Its logits are the student's, so it decodes them otherwise: check the version that wrote it."
    for words, one, other in causes:
        found = other()
        if _alike({task: one[task] for task in ours}, found):
            return words
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
