"""The summary of a report for a rich console of 80 columns or more: tables, verdict, and notes under it."""

from collections.abc import Iterator

from rich import box
from rich import table as rich_table
from rich.console import Group, RenderableType
from rich.text import Text as RichText

from distill_mtl.evaluation.result import Evaluation
from distill_mtl.report.blocks import Block, Cell, Code, Folded, Report, Table, Text, Tone
from distill_mtl.report.run_report import report_of_result

_STYLES: dict[Tone, str] = {
    "good": "green",
    "kept": "yellow",
    "bad": "bold red",
    "unsure": "bold yellow",
    "quiet": "dim",
    "strong": "bold",
}


def console_table(evaluation: Evaluation) -> RenderableType:
    """The summary of a result."""
    return console(report_of_result(evaluation))


def console(report: Report) -> RenderableType:
    """What the sections of a report say in short, the verdict, and the notes."""
    parts: list[RenderableType] = [RichText(report.title, "bold"), ""]
    for section in report.sections:
        for block in section.summary:
            parts += [*_shown(block), ""]
    if report.verdict is not None:
        parts.append(RichText(report.verdict.words, f"bold {_STYLES.get(report.verdict.tone, '')}"))
    parts += [RichText(note, "dim") for section in report.sections for note in section.notes]
    return Group(*parts)


def _shown(block: Block) -> Iterator[RenderableType]:
    """A block without charts and pictures, which a console has no room for."""
    if isinstance(block, Text):
        yield RichText(block.words, _STYLES.get("quiet" if block.quiet else block.tone, ""))
    elif isinstance(block, Table):
        yield _table(block)
    elif isinstance(block, Code):
        yield RichText(block.words)
    elif isinstance(block, Folded):
        yield RichText(block.title, "bold")
        for inner in block.blocks:
            yield from _shown(inner)


def _table(block: Table) -> rich_table.Table:
    """A table in which only the columns that the block names are cut."""
    table = rich_table.Table(box=box.SIMPLE_HEAD, show_edge=False, collapse_padding=True, header_style="dim")
    for place, column in enumerate(block.columns):
        narrow = block.narrow.get(column)
        texts = [column, *(_words(row[place]) for row in block.rows)]
        if narrow == "fold":  # between an interval's ends, and in its heading
            texts = [
                part for text in texts for part in text.replace("… ", "…\n").replace("% ", "%\n").splitlines()
            ]
        table.add_column(
            column,
            justify="left" if column in block.left else "right",
            min_width=len(column) if narrow == "shorten" else max(map(len, texts)),
            no_wrap=narrow is None,
            overflow="ellipsis",
        )
    for row in block.rows:
        table.add_row(*(RichText(_words(cell), _STYLES.get(cell.tone, "")) for cell in row))
    return table


def _words(cell: Cell) -> str:
    return f"{cell.words} ({cell.aside})" if cell.aside else cell.words
