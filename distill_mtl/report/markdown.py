"""A report as Markdown: the whole for a merge request, its summary for a model card. Charts stay in the page."""

from collections.abc import Iterator
from html import escape

from distill_mtl.evaluation.result import Evaluation
from distill_mtl.report.blocks import Block, Cell, Code, Folded, Report, Table, Text
from distill_mtl.report.run_report import report_of_result
from distill_mtl.report.words import NONE


def markdown(report: Report, pictures: str | None = None) -> str:
    """The text of report.md.

    Args:
        report: its sections that hold nothing but charts or pictures are left out.
        pictures: a sample grid to show, as a path from where the text stands.
    """
    parts = [f"# {_plain(report.eyebrow)}", f"**{_plain(report.headline)}**"]
    parts += [_plain(sentence) for sentence in report.advice]
    if report.figures:
        parts.append(" · ".join(f"{figure.value} {figure.what}" for figure in report.figures))
    parts.append(_plain(report.facts))
    for section in report.sections:
        written = [text for block in section.blocks for text in _written(block)]
        if any(not isinstance(block, Text) and list(_written(block)) for block in section.blocks):
            parts += [f"## {_plain(section.title)}", *written]
    if pictures is not None:
        parts += ["## Rows", f"![Test rows of every task: image, label, teacher, student]({pictures})"]
    return "\n\n".join(parts) + "\n"


def markdown_summary(evaluation: Evaluation) -> str:
    """The summary of a result, as on the console: tables, verdict, and notes under it."""
    report = report_of_result(evaluation)
    parts = [text for section in report.sections for block in section.summary for text in _written(block)]
    if report.verdict is not None:
        parts.append(f"**{_plain(report.verdict.words)}**")
    parts += [_plain(note) for section in report.sections for note in section.notes]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: Table) -> str:
    """Without the columns that are empty in every row."""
    kept = [
        place
        for place in range(len(table.columns))
        if not table.rows or any(row[place].words != NONE for row in table.rows)
    ]
    columns = [table.columns[place] for place in kept]
    rule = ["---" if column in table.left else "---:" for column in columns]
    rows = [[_cell(row[place]) for place in kept] for row in table.rows]
    lines = [[_plain(column) for column in columns], rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _written(block: Block) -> Iterator[str]:
    if isinstance(block, Text):
        yield _plain(block.words)
    elif isinstance(block, Table):
        yield markdown_table(block)
    elif isinstance(block, Code):
        yield f"```{block.language}\n{block.words.rstrip()}\n```"
    elif isinstance(block, Folded) and block.in_short:
        yield _plain(block.in_short)
    elif isinstance(block, Folded):
        inner = "\n\n".join(text for each in block.blocks for text in _written(each))
        # A line of HTML, in which Markdown's own signs mean nothing.
        yield f"<details><summary>{escape(block.title)}</summary>\n\n{inner}\n\n</details>"


def _cell(cell: Cell) -> str:
    text = f"{cell.words} ({cell.aside})" if cell.aside else cell.words
    return f"`{text}`" if cell.tone == "code" else _plain(text)


def _plain(text: str) -> str:
    """Text, escaped for Markdown."""
    for sign in ("\\", "|", "*", "_", "<", "`"):
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")
