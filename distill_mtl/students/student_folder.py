"""A student's folder, `runs/NAME/student`: config.json, model.safetensors and a model card.

`load_student` is what users of a student call. It needs no teacher, no adapter and no training code. The form is
registered with `FORMS`, so that a student's folder can be named wherever a trained network can.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired

from pydantic import ConfigDict
from torch import Tensor, nn
from typing_extensions import TypedDict

from distill_mtl.errors import StudentError, UserError, brief
from distill_mtl.networks.network import Network, NetworkFiles, TaskOutput
from distill_mtl.networks.opening import FORMS, FolderForm
from distill_mtl.networks.task_network import BackboneNetwork
from distill_mtl.networks.weights import (
    CONFIG,
    HUB,
    RecordedScore,
    load_exactly,
    read_config,
    read_weights,
    refuse_larger_than_weights,
    write_network,
)
from distill_mtl.reading import Remedy, fit
from distill_mtl.students.shape import Layout, layout_in, restore_body
from distill_mtl.students.student import DEFAULT_FAMILY, OWN_CODE, Body, Student
from distill_mtl.tasks.base import TaskKind, build_kind, import_kind

FORMAT = "distill_mtl.student"

VERSION = 1
WITH_LAYOUT = 2
"""Version of the config of a student that is no plain trunk; others stay readable by the versions before it."""
_AGAIN = Remedy("Fetch the folder again, or write it again with the distill_mtl that wrote it.", StudentError)
# What the kinds of tasks and timm's constructors make of values that nobody gives.
_NOT_BUILT = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
)
_OPEN = ConfigDict(extra="allow")
_TRUST = "`load_student(folder, trust=True)` (a teacher: `trust: true`; on the command line: --trust)"
SCORES = "scores"
"""Under `extra` of the config: task -> metric, score and rows, as the run that left the student found them."""


class _TrunkConfig(TypedDict):
    __pydantic_config__ = _OPEN  # type: ignore[misc]

    family: str
    model: str
    args: dict[str, Any]
    inputs: dict[str, Any]


class _TaskConfig(TypedDict):
    __pydantic_config__ = _OPEN  # type: ignore[misc]

    kind: str
    classes: list[str]


class _ExtraConfig(TypedDict, total=False):
    __pydantic_config__ = _OPEN  # type: ignore[misc]

    scores: dict[str, RecordedScore | None]
    resize: str | None


class _StudentConfig(TypedDict):
    __pydantic_config__ = _OPEN  # type: ignore[misc]

    trunk: _TrunkConfig
    tasks: dict[str, _TaskConfig]
    extra: NotRequired[_ExtraConfig]


class DeployedStudent(nn.Module):
    """A trained student as its users see it.

    Args:
        student: its trunk gives only what the heads read.

    Attributes:
        classes: task -> names of its classes, in the order of the logits.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student
        self.classes = {task: kind.classes for task, kind in student.kinds.items()}

    def forward(self, images: Tensor) -> dict[str, dict[str, Tensor]]:
        """Images [B, 3, H, W] (or one grey channel) in [0, 1], any size -> task -> answers by name.

        Every task has `logits` as its head gives them, and what its kind decodes from them: maps come at the
        images' own height and width.
        """
        size = (images.shape[-2], images.shape[-1])
        logits = self.student(images)
        return {
            task: {"logits": logits[task], **kind.decode(logits[task], size)}
            for task, kind in self.student.kinds.items()
        }


def load_student(folder: Path | str, *, trust: bool = False) -> DeployedStudent:
    """The student in a folder, on the CPU, in evaluation mode.

    Args:
        folder: `runs/NAME/student`, or `hf_hub:owner/name[@revision]` on the Hugging Face hub, which is fetched once.
        trust: let the user's own code run: a network, kinds of task.

    Raises:
        StudentError: the folder is missing, incomplete, broken, of a later version, or names code that is not
            trusted or not found.
    """
    try:
        folder = _local(folder)
        return DeployedStudent(read_student(folder, read_config(folder), trust=trust)).eval()
    except StudentError:
        raise
    except UserError as error:
        raise StudentError(str(error)) from error


def save_student(
    student: Student, folder: Path | str, *, card: str | None = None, extra: Mapping[str, Any] | None = None
) -> None:
    """Write a student's folder, complete or not at all; an earlier network in it is replaced.

    Args:
        student: hint layers it gives in training are not kept.
        folder: where to write.
        card: text of README.md; default a few lines on how to load it.
        extra: further plain values to keep in config.json under `extra`, for people and tools.

    Raises:
        StudentError: the folder holds something that is not a network.
    """
    folder = Path(folder)
    config = {
        "format": FORMAT,
        "format_version": WITH_LAYOUT if student.trunk.layout else VERSION,
        "trunk": student.trunk.describe(),
        "tasks": {task: kind.describe() for task, kind in student.kinds.items()},
        "extra": dict(extra or {}),
    }
    try:
        write_network(folder, config, student.state_dict(), card or _card(student, folder))
    except UserError as error:
        raise StudentError(str(error)) from error


def read_student(folder: Path, config: Mapping[str, Any], *, trust: bool = False) -> Student:
    """The network in a student's folder.

    Args:
        folder: where the weights lie.
        config: its config.json.
        trust: let the code of a user's own network or kinds run.

    Raises:
        UserError: a user's own kind cannot be had, the config is invalid, or the weights do not fit it.
    """
    if config.get("format") != FORMAT:
        raise StudentError(f"{folder} is not a student's folder: config.json has no `format: {FORMAT}`.")
    if config.get("format_version") not in (VERSION, WITH_LAYOUT):
        raise StudentError(
            f"{folder} has format version {config.get('format_version')}, this distill_mtl reads {VERSION} and "
            f"{WITH_LAYOUT}. "
            "Load it with the distill_mtl that wrote it, or a later one."
        )
    described = described_student(folder, config)
    for task, entry in described["tasks"].items():
        _admit(folder, task, entry["kind"], trust)
    if described["trunk"]["family"] == OWN_CODE:
        _admit_network(folder, described["trunk"], trust)
    state = read_weights(folder)
    heads = {task: entry.get("head") for task, entry in described["tasks"].items()}
    layout = described_layout(folder, described)
    refuse_larger_than_weights((described["trunk"]["args"], layout, heads), state, str(folder / CONFIG))
    try:
        trunk = restore_body(described["trunk"], layout, list(described["tasks"]))
        kinds: dict[str, TaskKind] = {task: build_kind(**entry) for task, entry in described["tasks"].items()}
        student = Student(trunk, kinds)
    except _NOT_BUILT as error:
        raise StudentError(
            f"{folder / CONFIG} describes no network: {brief(error)}. {_AGAIN.mend}"
        ) from error
    load_exactly(student, state, str(folder))
    return student


def described_student(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a student's folder, checked as far as it needs no network.

    Raises:
        StudentError: it is not what `save_student` writes.
    """
    described: dict[str, Any] = fit(config, _StudentConfig, str(folder / CONFIG), remedy=_AGAIN)
    return described


def described_layout(folder: Path, described: Mapping[str, Any]) -> Layout:
    """The shape in such a config.

    Raises:
        StudentError: it is not what `save_student` writes.
    """
    return layout_in(described["trunk"], list(described["tasks"]), f"{folder / CONFIG}, trunk", _AGAIN)


@FORMS.register(FORMAT)
class StudentForm(FolderForm):
    """`runs/NAME/student`."""

    @classmethod
    def open(cls, source: NetworkFiles, config: Mapping[str, Any]) -> Network:
        student = read_student(source.place, config, trust=source.section.trust).eval()
        extra = described_student(source.place, config).get("extra", {})

        def view(task: str) -> BackboneNetwork:
            kind = student.kinds[task]
            trunk = student.trunk.seen_by(task)
            needs, head = kind.needs(trunk.shapes), student.heads[task]
            path = task if student.trunk.layout else None
            return BackboneNetwork(trunk, head, needs, width=kind.outputs, dense=kind.dense, path=path)

        return Network(
            source,
            student.trunk.inputs,
            {
                task: TaskOutput.of_entry(
                    f"head '{task}' of a student folder",
                    kind.describe(),
                    extra.get(SCORES, {}).get(task),
                )
                for task, kind in student.kinds.items()
            },
            view,
            told=config["trunk"]["inputs"],
            trunk={"model": _as_student(student.trunk), "args": student.trunk.args},
            resize=extra.get("resize"),
        )


def _local(place: Path | str) -> Path:
    """The folder on this machine."""
    if not str(place).startswith(HUB):
        return Path(place)
    from distill_mtl.networks.hub_repository import (
        fetch_folder,  # with its client, which no local folder needs
    )

    return fetch_folder(str(place).partition(":")[2])


def _admit_network(folder: Path, trunk: Mapping[str, Any], trust: bool) -> None:
    """Let the user's code build the trunk; a warning where it is not the code that the student was trained with."""
    from distill_mtl.students.families.own_code import OwnTrunk, trust_code

    spec, known = trunk["model"], trunk.get("code") or {}
    try:
        trust_code(spec, trust=trust, say=_TRUST)
    except UserError as error:
        raise StudentError(f"{folder}: {error}") from error
    now = OwnTrunk.code_of(spec)
    if known.get("sha256") != now["sha256"] and now["file"]:
        warnings.warn(
            f"{folder}: {spec} is not the code that the student was trained with (sha256 {now['sha256'][:12]}, then "
            f"{str(known.get('sha256'))[:12]}). Compare its scores before you use it.",
            stacklevel=2,
        )


def _admit(folder: Path, task: str, kind: str, trust: bool) -> None:
    try:
        import_kind(kind, trust=trust, say=_TRUST)
    except UserError as error:
        raise StudentError(f"{folder}, task '{task}': {error}") from error


def _card(student: Student, folder: Path) -> str:
    tasks = "\n".join(
        f"- `{task}`: {kind.name}, {len(kind.classes)} classes" for task, kind in student.kinds.items()
    )
    return (
        f"# {folder.resolve().name}\n\n"
        f"One {student.trunk.name} for {len(student.kinds)} tasks, trained with distill_mtl.\n\n{tasks}\n\n"
        "```python\nfrom distill_mtl import load_student\n\n"
        'answers = load_student("FOLDER")(images)  # [B, 3, H, W] in [0, 1]\n```\n'
    )


def _as_student(trunk: Body) -> str:
    """What `student.model` would say for this trunk."""
    return trunk.name if trunk.family == DEFAULT_FAMILY else f"{trunk.family}:{trunk.name}"
