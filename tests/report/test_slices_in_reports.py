"""A loss in a slice stands first under the verdict, on the console, in the report and in the model card."""

import io
from pathlib import Path

import report_world
from rich.console import Console

from distill_mtl.report.console import print_summary
from distill_mtl.report.html import page
from distill_mtl.report.markdown import markdown, markdown_summary
from distill_mtl.report.run_record import read_run
from distill_mtl.report.run_report import report_of

HIDDEN = "! The mean hides a loss: breed in light=night <b> −8.50 (−12.00 … −5.00, 90 rows)."
ESCAPED = HIDDEN.replace("<b>", "\\<b>")


def shown(folder: Path) -> list[str]:
    text = io.StringIO()
    print_summary(Console(file=text, width=100), report_of(read_run(folder)))
    return [line.strip() for line in text.getvalue().splitlines()]


def test_a_hidden_loss_stands_first_under_every_verdict(tmp_path: Path) -> None:
    folder = report_world.write_run(
        tmp_path / "run", report_world.results({"breed": report_world.task_with_slices()})
    )
    run = read_run(folder)
    lines = shown(folder)
    assert lines[-2].startswith("✓ accepted")
    assert lines[-1] == HIDDEN
    assert run.results is not None
    card = [line for line in markdown_summary(run.results).splitlines() if line]
    at = next(place for place, line in enumerate(card) if line.startswith("**✓ accepted"))
    assert card[at + 1] == f"**{ESCAPED}**"
    text = [line for line in markdown(report_of(run)).splitlines() if line]
    assert text[2] == ESCAPED
    html = page(report_of(run))
    heading, hidden = html.index("</h1>"), html.index("The mean hides a loss")
    assert "<p" not in html[heading:hidden].replace('<p class="advice hidden">', "", 1)
    assert "light=night &lt;b&gt;" in html


def test_the_table_of_slices_is_worst_first_and_says_what_decides_and_what_is_too_few(tmp_path: Path) -> None:
    folder = report_world.write_run(
        tmp_path / "run", report_world.results({"breed": report_world.task_with_slices()})
    )
    lines = shown(folder)
    names = [line.split()[0] for line in lines if line.startswith(("light=", "weather="))]
    assert names == ["light=night", "weather=rain", "light=day"]
    marks = {line.split()[0]: line.split()[-1] for line in lines if line.startswith(("light=", "weather="))}
    assert (marks["light=night"], marks["weather=rain"]) == ("!", "✓")
    assert any("Too few rows to score" in line and "light=dusk (7 rows)" in line for line in lines)


def test_a_run_without_slices_has_no_section_of_them(tmp_path: Path) -> None:
    sections = report_of(read_run(report_world.write_run(tmp_path / "run"))).sections
    assert "slices" not in [section.name for section in sections]
