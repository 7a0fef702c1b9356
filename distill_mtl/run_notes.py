"""The schemas of what a run writes about itself, for those who read it later: reports, `--resume`, exports, trackers.

A key that a schema does not name is kept as it is.
"""

from pathlib import Path
from typing import Any, NotRequired

from pydantic import ConfigDict, NonNegativeInt
from typing_extensions import TypedDict

from distill_mtl.errors import UserError
from distill_mtl.reading import Remedy, loads, parse_json, read_json, read_text

_OPEN = ConfigDict(extra="allow", allow_inf_nan=False)
_AGAIN = Remedy("Delete it, or start the run again with --overwrite.")
_LONGEST = 1 << 30  # bytes of a log
CERTIFICATE = ".certificate.json"
"""What the name of an exported file's certificate ends with, after the file's own."""


class ResolvedRecipe(TypedDict, total=False):
    """recipe.resolved.yaml, as far as it is read without being checked as a recipe."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]

    name: str | None
    tasks: dict[str, dict[str, Any]] | None
    data: dict[str, dict[str, Any]] | None
    student: dict[str, Any] | None
    training: dict[str, Any] | None
    targets: dict[str, Any] | None
    optimizer: dict[str, Any] | None
    balance: dict[str, Any] | None


class TeacherInput(TypedDict, total=False):
    """What a teacher wants to see."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]

    size: list[int] | None


class TeacherEntry(TypedDict, total=False):
    """One task in teachers.json; `self` where the student teaches itself."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]

    self: Any
    file: str
    sha256: str
    classes: list[str]
    input: TeacherInput | None
    score: float | None
    precision: str


class RateNote(TypedDict):
    """How the rate of a run was found: one sentence, and rate and loss of each step of the search."""

    said: str
    curve: list[tuple[float, float]]


class Environment(TypedDict, total=False):
    """environment.json."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]

    began: str
    processes: int
    balance: str
    rate: RateNote
    versions: dict[str, str]


class MetricsLine(TypedDict):
    """One line of metrics.jsonl."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]

    step: NonNegativeInt
    tasks: dict[str, dict[str, float | None]]
    cosines: dict[str, float | None]
    norm: float | None
    harmed: NotRequired[float | None]
    lengths: NotRequired[dict[str, float | None]]
    validation: NotRequired[dict[str, float | None]]
    gradient_norm: NotRequired[float | None]
    clipped: NotRequired[float | None]
    waiting: NotRequired[float | None]


class ExportRuntime(TypedDict):
    """An exported file in one runtime, as its certificate has it."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]

    version: str
    rows: NonNegativeInt
    largest_error: float
    changed_at_most: dict[str, float]
    latency_ms: float
    latency_rows: NonNegativeInt
    teachers_ms: NotRequired[float | None]


class ExportNote(TypedDict):
    """FILE.certificate.json, as far as reports read it."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]

    file: str
    precision: str
    student: NotRequired[dict[str, str]]
    runtimes: dict[str, ExportRuntime]


def read_exports(folder: Path) -> list[dict[str, Any]]:
    """The certificates of the exported files in a folder, by name; nothing where there is none. Of one that cannot be
    read there is only `file`: the report of a run must not fail because of it."""
    found = []
    for path in sorted(folder.glob(f"*{CERTIFICATE}")):
        try:
            found.append(read_json(path, ExportNote, remedy=_AGAIN))
        except UserError:
            found.append({"file": path.name.removesuffix(CERTIFICATE)})
    return found


def read_teachers(path: Path) -> dict[str, dict[str, Any]]:
    """teachers.json; nothing where there is no file: a run that was stopped in its check has not written it.

    Raises:
        UserError: the file is not what a run writes.
    """
    found: dict[str, dict[str, Any]] = (
        read_json(path, dict[str, TeacherEntry], remedy=_AGAIN) if path.exists() else {}
    )
    return found


def read_environment(path: Path) -> dict[str, Any]:
    """environment.json; nothing where there is no file.

    Raises:
        UserError: the file is not what a run writes.
    """
    found: dict[str, Any] = read_json(path, Environment, remedy=_AGAIN) if path.exists() else {}
    return found


def read_metrics_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a half-written last line, as a kill leaves it, is left out.

    Raises:
        UserError: a line is not what a run writes.
    """
    if not path.exists():
        return []
    *whole, last = read_text(path, _LONGEST, remedy=_AGAIN).rstrip("\n").split("\n")
    try:
        loads(last)
        whole.append(last)
    except ValueError:
        pass
    return [
        parse_json(line, MetricsLine, f"{path}, line {number}", remedy=_AGAIN)
        for number, line in enumerate(whole, 1)
    ]
