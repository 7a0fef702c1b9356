"""The report of one run: its blocks in order."""

from distill_mtl.report import words
from distill_mtl.report.blocks import Report, Section
from distill_mtl.report.costs import cost_section
from distill_mtl.report.curves import balance_section, losses_section
from distill_mtl.report.headline import advice, figures, headline
from distill_mtl.report.origin import manifest_section, recipe_section, repeat_section
from distill_mtl.report.rows import disagreements_section, maps_section
from distill_mtl.report.run_record import Run
from distill_mtl.report.scores import (
    baselines_section,
    classes_section,
    cross_domain_section,
    deltas_section,
    tasks_section,
)


def report_of(run: Run) -> Report:
    """What there is to say about a run, finished or not; what does not apply is left out."""
    results = run.results
    sentence, tone = headline(run)
    of_results: list[Section | None] = []
    of_rows: list[Section | None] = [maps_section(run.gallery)]
    if results is not None:
        of_results = [
            tasks_section(results),
            deltas_section(results),
            classes_section(results),
            cost_section(results),
            cross_domain_section(results, _own_sources(run), list(run.recipe.get("data") or {})),
            baselines_section(results),
        ]
        of_rows.insert(0, disagreements_section(results, run.gallery))
    sections = [
        *of_results,
        losses_section(run.metrics, run.tasks),
        balance_section(run.metrics, _rule(run)),
        *of_rows,
        recipe_section(run),
        manifest_section(run),
        repeat_section(run),
    ]
    return Report(
        eyebrow=run.name,
        headline=sentence,
        tone=tone,
        advice=advice(run),
        figures=figures(results),
        facts=_facts(run),
        sections=[section for section in sections if section is not None],
    )


def _rule(run: Run) -> str:
    """The sentence that the run began with, or what the recipe asks for."""
    return str(run.environment.get("balance") or (run.recipe.get("balance") or {}).get("method"))


def _own_sources(run: Run) -> dict[str, set[str]]:
    """Task -> the data sets that have its labels."""
    sources: dict[str, dict[str, object]] = run.recipe.get("data") or {}
    return {task: {name for name, source in sources.items() if task in _labels(source)} for task in run.tasks}


def _labels(source: dict[str, object]) -> dict[str, object]:
    labels = source.get("labels")
    return labels if isinstance(labels, dict) else {}


def _facts(run: Run) -> str:
    results = run.results
    parts = [words.counted(len(run.tasks), "task")]
    if results is not None:
        rows = sum(score.rows for score in results.tasks.values())
        parts.append(words.counted(rows, f"{results.split} row"))
        if results.steps is not None and results.seconds is not None:
            parts.append(f"{words.counted(results.steps, 'step')} in {words.duration(results.seconds)}")
    student = run.recipe.get("student") or {}
    parts.append(f"student {student.get('model', words.NONE)}")
    return " · ".join(parts)
