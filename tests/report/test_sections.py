"""Sections are found by their files, and a new one is on the console, in Markdown and on the page."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import report_world
from result_toys import STUDENT, TEACHERS, evaluation_of, task_result
from rich.console import Console

from distill_mtl.evaluation import Cost, Costs, Evaluation
from distill_mtl.evaluation.network_costs import HeadCost
from distill_mtl.evaluation.result import ClassDelta
from distill_mtl.jobs.report import report_in
from distill_mtl.report import sections
from distill_mtl.report.blocks import Charts, Report, Section, Text
from distill_mtl.report.console import console_table
from distill_mtl.report.markdown import markdown, markdown_summary

ROOT = Path(__file__).parents[2]


def shown(evaluation: Evaluation, width: int) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(console_table(evaluation))
    return capture.get()


def test_the_section_of_contributing_is_seen_by_all_three_writers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = report_world.write_run(tmp_path / "run")
    report_in(folder)
    monkeypatch.setattr(sections, "_SECTIONS", list(sections._SECTIONS))
    text = (ROOT / "CONTRIBUTING.md").read_text()
    chapter = text[text.index("## A new block of the report") :]
    exec(compile(re.findall(r"```python\n(.*?)```", chapter, re.DOTALL)[0], "CONTRIBUTING.md", "exec"), {})

    report_in(folder)
    page, markdown = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    console = shown(Evaluation.read(folder / "results.json"), 120)
    assert '<section id="rows">' in page
    assert page.index('id="cost"') < page.index('<section id="rows">') < page.index('id="domains"')
    assert 'id="rows-by-task-title"' in page, "the chart is drawn"
    assert "## Rows measured" in markdown
    for written in (page, markdown, console, markdown_summary(Evaluation.read(folder / "results.json"))):
        assert "independent groups" in written


def readme_evaluation() -> Evaluation:
    """The quickstart's result, as the README shows it."""
    rows = {
        "left": ("accuracy", 96.55, 97.50, 0.95, (0.15, 1.75), 0.972),
        "right": ("accuracy", 95.70, 97.25, 1.55, (0.75, 2.40), 0.963),
        "segment": ("miou", 76.45, 77.22, 0.76, (0.54, 0.99), 0.979),
    }
    tasks = {
        task: task_result(
            delta, teacher, metric=metric, rows=2000, student=student, ci95=ci95, agreement=agreement
        )
        for task, (metric, teacher, student, delta, ci95, agreement) in rows.items()
    }
    tasks["left"] = replace(tasks["left"], classes=(ClassDelta("6", 98.0, 96.5, -1.5),))
    student = Cost(389_728, 11_480_000, 1_570_000, 1.78, 128, 4476.0, 46_600_000)
    teachers = Cost(1_135_104, 27_900_000, 4_570_000, 4.36, 128, 2117.0, 49_700_000)
    heads = {"left": (970, 2_000), "right": (970, 2_000), "segment": (15_100, 3_274_000)}
    costs = Costs(
        student=student,
        teachers=teachers,
        heads={task: HeadCost.of(*head, student) for task, head in heads.items()},
        machine="AMD EPYC, 2 threads, torch 2.14.1+cu130",
    )
    return evaluation_of(tasks, cost=costs)


def test_the_console_shows_the_quickstart_as_the_readme_does() -> None:
    text = (ROOT / "README.md").read_text()
    block = next(part for part in text.split("```\n") if part.startswith("Student against teachers"))
    assert [line.rstrip() for line in shown(readme_evaluation(), 120).splitlines()] == block.splitlines()


def test_sections_stand_in_the_order_of_their_positions(tmp_path: Path) -> None:
    folder = report_world.write_run(tmp_path / "run")
    report_in(folder)
    names = re.findall(r'<section id="(\w+)">', (folder / "report.html").read_text())
    assert names == [
        *("tasks", "deltas", "classes", "cost", "domains", "baselines", "losses", "balance"),
        *("disagreements", "maps", "recipe", "manifest", "repeat", "worth", "findings"),
    ]


def test_a_result_alone_has_a_summary_without_a_chart_being_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: object) -> str:
        raise AssertionError("a console needs no chart")

    monkeypatch.setattr("distill_mtl.report.charts.Drawing.svg", property(refuse))
    assert "124,580" in shown(
        evaluation_of({"left": task_result()}, cost=Costs(student=STUDENT, teachers=TEACHERS)), 120
    )


def test_the_report_shows_how_the_rate_was_found(tmp_path: Path) -> None:
    folder = report_world.write_run(tmp_path / "run")
    environment = json.loads((folder / "environment.json").read_text())
    found = {"said": "lr: 0.1 (auto: the usual rate)", "curve": [[0.025, 1.0], [0.1, 0.8], [0.4, 0.7]]}
    (folder / "environment.json").write_text(json.dumps({**environment, "rate": found}))
    report_in(folder)
    page, markdown = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert '<section id="rate">' in page
    assert 'id="rate-title"' in page, "the chart is drawn"
    assert "Learning rate: 0.1 (auto: the usual rate)." in page + markdown


def test_markdown_keeps_a_section_of_words_and_leaves_out_words_about_a_chart() -> None:
    words, charts = Text("This is said."), Charts([])
    told = [Section("told", "Told", [words]), Section("drawn", "Drawn", [words, charts])]
    written = markdown(Report("run", "It holds.", "good", [], [], "facts", told))
    assert "## Told\n\nThis is said." in written
    assert "Drawn" not in written
