"""A report as Markdown: the whole for a merge request, its summary for a model card. Charts stay in the page."""

import re
from collections.abc import Iterator
from html import escape
from urllib.parse import quote

from distill_mtl.evaluation.result import Evaluation
from distill_mtl.report.blocks import Block, Cell, Code, Folded, Report, Table, Text
from distill_mtl.report.run_report import report_of_result
from distill_mtl.report.words import NONE
from distill_mtl.untrusted_text import visible


def markdown(report: Report, pictures: str | None = None) -> str:
    """The text of report.md.

    Args:
        report: sections of charts or pictures and words about them are left out.
        pictures: a sample grid to show, as a path from where the text stands.
    """
    parts = [f"# {plain(report.eyebrow)}", f"**{plain(report.headline)}**"]
    parts += [plain(sentence) for sentence in (report.hidden, *report.advice) if sentence]
    if report.figures:
        parts.append(" · ".join(f"{plain(figure.value)} {plain(figure.what)}" for figure in report.figures))
    parts.append(plain(report.facts))
    for section in report.sections:
        written = [(block, list(_written(block))) for block in section.blocks]
        # The words beside a chart say nothing without it.
        if any(lines and not isinstance(block, Text) for block, lines in written) or all(
            lines for _, lines in written
        ):
            parts += [f"## {plain(section.title)}", *(text for _, lines in written for text in lines)]
    if pictures is not None:
        parts += [
            "## Rows",
            f"![Test rows of every task: image, label, teacher, student]({quote(pictures)})",
        ]
    return "\n\n".join(parts) + "\n"


def markdown_summary(evaluation: Evaluation) -> str:
    """The summary of a result, as on the console: tables, verdict, and notes under it."""
    report = report_of_result(evaluation)
    parts = [text for section in report.sections for block in section.summary for text in _written(block)]
    if report.verdict is not None:
        parts.append(f"**{plain(report.verdict.words)}**")
    if report.hidden:
        parts.append(f"**{plain(report.hidden)}**")
    parts += [plain(note) for section in report.sections for note in section.notes]
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
    lines = [[plain(column) for column in columns], rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _written(block: Block) -> Iterator[str]:
    if isinstance(block, Text):
        yield plain(block.words)
    elif isinstance(block, Table):
        yield markdown_table(block)
    elif isinstance(block, Code):
        yield code_block(block.words.rstrip(), block.language)
    elif isinstance(block, Folded) and block.in_short:
        yield plain(block.in_short)
    elif isinstance(block, Folded):
        inner = "\n\n".join(text for each in block.blocks for text in _written(each))
        # A line of HTML, in which Markdown's own signs mean nothing.
        yield f"<details><summary>{escape(_one_line(block.title))}</summary>\n\n{inner}\n\n</details>"


def _cell(cell: Cell) -> str:
    text = f"{cell.words} ({cell.aside})" if cell.aside else cell.words
    # A table is cut into cells before code is looked for, and takes the backslash away.
    return code(text).replace("|", "\\|") if cell.tone == "code" else plain(text)


def plain(text: str) -> str:
    """Untrusted text in one line, escaped for Markdown: no markup, HTML, character reference or formula is left."""
    escaped = _MARKUP.sub(r"\\\g<0>", _one_line(text))
    return _LINE_MARKUP.sub(r"\g<1>\\\g<2>", escaped)


def code(text: str) -> str:
    """Untrusted text in one line as code, between as many backticks as its own do not close."""
    line, ticks = _one_line(text), "`" * (_longest("`", text) + 1)
    return f"{ticks} {line} {ticks}" if "`" in line else f"{ticks}{line or ' '}{ticks}"


def code_block(text: str, language: str = "") -> str:
    """Lines of code, fenced with as many backticks as their own do not close."""
    fence = "`" * max(3, _longest("`", text) + 1)
    return f"{fence}{language}\n{visible(text)}\n{fence}"


_MARKUP = re.compile(r"[\\|*_<`\[\]~$]|&(?=[#\w])")
_LINE_MARKUP = re.compile(r"^(\d{0,9})([#>]|[-+.)](?=\s|$)|-(?=-)|=(?==*$))")
"""What makes a heading, a quotation, a list or a rule of a line that begins with it."""


def _one_line(text: str) -> str:
    return re.sub(r"[\n\t]+", " ", visible(text)).strip()


def _longest(sign: str, text: str) -> int:
    return max(map(len, re.findall(f"{sign}+", text)), default=0)
