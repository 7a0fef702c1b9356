"""`distill-mtl evaluate --student A --against B C --data ...`: any two models on labelled shards, without a recipe."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from distill_mtl.data import open_sources
from distill_mtl.errors import UserError
from distill_mtl.evaluation import Comparison, Evaluation
from distill_mtl.evaluation.comparison import ComparisonSettings, compare_with_progress, evaluation_set_of
from distill_mtl.files import write_text
from distill_mtl.jobs.arguments import GivenAcceptance, as_data
from distill_mtl.jobs.run_artefacts import shared_console
from distill_mtl.networks.network import Network
from distill_mtl.networks.opening import open_network
from distill_mtl.recipe.long_form import MARGIN
from distill_mtl.recipe.schema import AcceptanceSection
from distill_mtl.report.console import print_summary
from distill_mtl.report.run_report import report_of_result
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.load_teacher import Asked, kind_of, teachers_of
from distill_mtl.teachers.shared_trunks import JoinedTeachers

_NAMED = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class TaskGiven:
    """What the caller states of the task, where the networks do not.

    Attributes:
        task: of the labels in `--data`, where that does not name it.
        kind: None: the student's.
        classes: None: the student's.
        member: of the label; None: the kind's.
    """

    task: str | None = None
    kind: str | None = None
    classes: tuple[str, ...] | int | None = None
    member: str | None = None


def compare_models(
    student: str,
    against: Sequence[str],
    data: Sequence[str],
    *,
    given: TaskGiven,
    acceptance: GivenAcceptance,
    slices: dict[str, str | list[str]] | None,
    trust: bool,
    file: Path | None,
    console: Console | None,
) -> dict[str, Evaluation]:
    """Compare one model with others on all labelled rows of some shards. Prints a table for each pair.

    Args:
        student: a run folder, a student folder, or whatever `teacher:` takes in a recipe.
        against: the same, one or several; each stands in the teachers' place.
        data: folders, paths and patterns of shards, for several tasks each as TASK=PLACE. Rows are not cut into sets.
        given: what the networks do not state of their task.
        acceptance: default 1 point, judged by the interval.
        trust: let files run code.
        file: for the results: those of the pair, or a list of several pairs'.
        console: where to print; default standard output.

    Returns:
        By what the student was compared with.

    Raises:
        UserError: a model cannot be loaded or answers other tasks, shards cannot be read, or no task was named.
    """
    state, console = shared_console(console)
    opened = open_network(student, trust=trust)
    places = _places(data, student, opened, given.task)
    if len(places) > 1 and (given.kind, given.classes, given.member) != (None, None, None):
        raise UserError(
            f"--kind, --classes and --member are for one task, and --data has {', '.join(places)}. Compare "
            "these one by one."
        )
    mine = teachers_of(opened, {task: Asked(given.kind, given.classes) for task in places})
    kinds = {task: kind_of(teacher) for task, teacher in mine.items()}
    asked = {task: Asked.as_by(kind, mine[task].card.options) for task, kind in kinds.items()}
    others = {place: teachers_of(open_network(place, trust=trust), asked) for place in against}
    default = ComparisonSettings(AcceptanceSection(margin=_default_margins(kinds, acceptance)))
    settings = acceptance.applied(default.with_slices(slices), list(kinds))
    sizes = [teacher.card.inputs.size for each in (mine, *others.values()) for teacher in each.values()]
    largest = max(height for height, _ in sizes), max(width for _, width in sizes)
    sources = open_sources(as_data(places, given.member), kinds, largest, every_set=False)
    evaluation_set = evaluation_set_of(sources, None, settings)
    network = JoinedTeachers(mine).to(state.device)
    found: dict[str, Evaluation] = {}
    for place, teachers in others.items():
        for teacher in teachers.values():
            teacher.to(state.device)
        comparison = Comparison(network, teachers, kinds, evaluation_set)
        compared = compare_with_progress(comparison, settings, console)
        found[place] = compared.changed(student=student, against=place)
        print_summary(console, report_of_result(found[place]))
        if place != against[-1]:
            console.print()
    if file is not None and state.is_main_process:
        _write(file, found)
    state.wait_for_everyone()
    return found


def _places(data: Sequence[str], student: str, opened: Network, task: str | None) -> dict[str, list[str]]:
    """task -> places of its data."""
    places: dict[str, list[str]] = {}
    unnamed = [place for place in data if _NAMED.fullmatch(place) is None or os.path.exists(place)]
    for place in data:
        if place not in unnamed:
            name, rest = _NAMED.fullmatch(place).groups()  # type: ignore[union-attr]
            places.setdefault(name, []).append(rest)
    if unnamed and places:
        raise UserError(
            f"--data {unnamed[0]}: some places name their task ({next(iter(places))}=...), this one does not. Name the "
            "task of each."
        )
    if places and task is not None and list(places) != [task]:
        raise UserError(f"--task {task}, and --data names {', '.join(places)}. Leave --task out.")
    return places or {_only_task(student, opened, task): unnamed}


def _only_task(student: str, opened: Network, task: str | None) -> str:
    """The task of data that do not name theirs."""
    known = list(opened.tasks)
    if task is not None:
        return task
    if len(known) > 1:
        raise UserError(
            f"--data: {student} answers {', '.join(known)}. Name the task of these labels with --task {known[0]}; for "
            f"several tasks: --data {known[0]}=SHARDS {known[1]}=SHARDS."
        )
    return known[0]


def _default_margins(kinds: Mapping[str, TaskKind], said: GivenAcceptance) -> dict[str, float]:
    """One point of each task that is scored in points; what is scored in its label's unit needs its own."""
    margins = {}
    for task, kind in kinds.items():
        if kind.in_points:
            margins[task] = MARGIN
        elif not said.has(task):
            raise UserError(
                f"{kind.metric} of {task} is measured in the unit of its labels. Give the largest loss allowed: "
                f"--acceptance {task}=..."
            )
    return margins


def _write(to: Path, found: Mapping[str, Evaluation]) -> None:
    results: list[dict[str, Any]] = [evaluation.model_dump(mode="json") for evaluation in found.values()]
    write_text(to, json.dumps(results[0] if len(results) == 1 else results, indent=2, allow_nan=False) + "\n")
