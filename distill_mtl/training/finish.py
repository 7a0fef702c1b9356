"""The end of a run: which weights are the student, how it compares, and the folder it is handed over in."""

from collections import Counter
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object
from rich.console import Console

from distill_mtl.data.split import Split
from distill_mtl.evaluation import Evaluation, View, delta_on, references
from distill_mtl.evaluation.baselines import baselines_in
from distill_mtl.evaluation.selection import Reference
from distill_mtl.students.folder import save_student
from distill_mtl.students.format import SCORES
from distill_mtl.targets.roster import Roster
from distill_mtl.training.comparison import compare_with_bar, view_of
from distill_mtl.training.evidence import card_of, write_evidence
from distill_mtl.training.parts import Parts
from distill_mtl.training.run_folder import RunFolder
from distill_mtl.training.session import Session


class Examiner:
    """Compares the student of a session with its teachers, along the way and at the end.

    Args:
        parts: of the run.
        session: whose student is examined.
        console: where progress is shown.
    """

    def __init__(self, parts: Parts, session: Session, console: Console) -> None:
        self.parts, self.session, self.console = parts, session, console

    def mean_delta(self) -> float:
        """Mean over tasks of the student's lead on the validation rows (`delta_on`); what `select: best`
        maximises."""
        self.session.synchronise()
        deltas = delta_on(self.session.student, self._references, self.parts.kinds, self._view("validation"))
        return sum(deltas.values()) / len(deltas)

    def compare(self) -> Evaluation:
        """The comparison on the test rows."""
        self.session.synchronise()
        parts = self.parts
        found = compare_with_bar(
            self.session.student,
            self._teachers,
            parts.kinds,
            self._view("test"),
            parts.recipe,
            self.console,
        )
        return replace(found, steps=self.session.step, seconds=self.session.seconds)

    def write_evidence(self, evaluation: Evaluation, folder: RunFolder) -> Path:
        """Of the comparison on the test rows; for one process alone. The report's place."""
        asked = self.session.student, self._teachers, self.parts.kinds, self._view("test")
        return write_evidence(folder, evaluation, *asked)

    @cached_property
    def _teachers(self) -> Roster:
        """On the device; with cached targets they are loaded here, when training is over."""
        for teacher in self.parts.teachers.values():
            teacher.to(self.session.trainer.accelerator.device)
        return self.parts.teachers

    @cached_property
    def _references(self) -> dict[str, Reference]:
        return references(self._teachers, self.parts.kinds, self._view("validation"))

    def _view(self, split: Split) -> View:
        return view_of(self.parts.sources, split, self.parts.recipe)


def finish(parts: Parts, session: Session, folder: RunFolder, console: Console) -> Evaluation:
    """Save the student, compare it, complete its model card, write results.json, pictures and report, show the table.

    The student is saved before anything can go wrong with the test rows.
    """
    accelerator = session.trainer.accelerator
    if parts.recipe.training.select == "best":
        session.take_best()
    if accelerator.is_main_process:
        save_student(session.student, folder.student, card=_card(parts, folder, None), extra=_extra(parts))
    examiner = Examiner(parts, session, console)
    evaluation = replace(examiner.compare(), baselines=baselines_in(folder.recorded()))
    skipped = _skipped_anywhere(parts, accelerator)
    if accelerator.is_main_process:
        extra = _extra(parts) | {SCORES: recorded_scores(evaluation)}
        save_student(session.student, folder.student, card=_card(parts, folder, evaluation), extra=extra)
        report = examiner.write_evidence(evaluation, folder)
        console.print(evaluation.table())
        for source, count in skipped.items():
            console.print(
                f"[yellow]{count} corrupt rows of data.{source} were replaced by their next row[/yellow]"
            )
        console.print(f"run folder: {folder.path}", highlight=False, soft_wrap=True)
        console.print(f"report: {report}", highlight=False, soft_wrap=True)
    accelerator.wait_for_everyone()
    return evaluation


def recorded_scores(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """What a student's config keeps of its table: what it must score again where it is a teacher itself."""
    return {
        task: {
            "metric": result.metric,
            "score": result.student,
            "rows": result.rows,
            "measured_on": f"{evaluation.split} rows",
        }
        for task, result in evaluation.tasks.items()
    }


def _skipped_anywhere(parts: Parts, accelerator: Accelerator) -> dict[str, int]:
    """Rows that this sitting could not decode, by source, over all processes."""
    mine = Counter(parts.sources.skipped)
    everyone = gather_object([mine]) if accelerator.num_processes > 1 else [mine]
    return {source: count for source, count in sum(everyone, Counter()).items() if count}


def _extra(parts: Parts) -> dict[str, Any]:
    """What `distill-mtl predict` must know to show the student pictures as evaluation did."""
    ways = {source.resize for source in parts.recipe.data.values() if source.labels}
    return {"resize": ways.pop()} if len(ways) == 1 else {}


def _card(parts: Parts, folder: RunFolder, evaluation: Evaluation | None) -> str:
    trunk, cards = parts.student.trunk, parts.teachers.cards
    return card_of(folder, parts.recipe, trunk, parts.kinds, cards, evaluation)
