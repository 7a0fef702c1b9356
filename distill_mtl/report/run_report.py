"""The report of one run, or of a result alone: its headline, its summary, and its sections in order."""

from distill_mtl.evaluation.result import Evaluation
from distill_mtl.recipe.schema import task_of
from distill_mtl.report import words
from distill_mtl.report.blocks import Report
from distill_mtl.report.headline import advice, figures, headline, hidden_losses, title, verdict
from distill_mtl.report.run_record import RunRecord
from distill_mtl.report.sections import sections_of


def report_of(run: RunRecord) -> Report:
    """The report of a run, finished or not; sections that do not apply are left out."""
    results = run.results
    sentence, tone = headline(run)
    return Report(
        eyebrow=run.name,
        headline=sentence,
        tone=tone,
        advice=advice(run),
        figures=figures(results),
        facts=_facts(run),
        sections=sections_of(run),
        title="" if results is None else title(results),
        verdict=None if results is None else verdict(results),
        hidden="" if results is None else hidden_losses(results),
    )


def report_of_result(evaluation: Evaluation) -> Report:
    """Of a comparison alone, for its summary."""
    return report_of(RunRecord(evaluation))


def _facts(run: RunRecord) -> str:
    results = run.results
    parts = [words.counted(len(run.tasks), "task")]
    if results is not None:
        # Of a task with several teachers, the rows of `task/1` are among those of the task.
        rows = sum(result.rows for name, result in results.tasks.items() if task_of(name) == name)
        parts.append(words.counted(rows, f"{results.split} row"))
        if results.steps is not None and results.seconds is not None:
            parts.append(f"{words.counted(results.steps, 'step')} in {words.duration(results.seconds)}")
    student = run.recipe.get("student") or {}
    parts.append(f"student {student.get('model') or student.get('module') or words.NONE}")
    return " · ".join(parts)
