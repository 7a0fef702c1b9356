"""The summary of a report for a rich console of 80 columns or more: tables, verdict, and notes under it."""

from collections.abc import Iterator

from rich import box
from rich import table as rich_table
from rich.console import Console, Group, RenderableType
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
    """What the sections of a report say in short, their notes, and the verdict."""
    return Group(*_summary(report), *_verdict(report))


def print_summary(console: Console, report: Report) -> None:
    """The same; the verdict is the last line, however narrow the console is, for scripts that read it. Under it stands
    a loss that the mean hides, if there is one."""
    console.print(Group(*_summary(report)))
    for verdict in _verdict(report):
        console.print(verdict, soft_wrap=True)


def _summary(report: Report) -> Iterator[RenderableType]:
    yield from (RichText(report.title, "bold"), "")
    for section in report.sections:
        for block in section.summary:
            yield from (*_shown(block), "")
    notes = [RichText(note, "dim") for section in report.sections for note in section.notes]
    yield from notes
    if notes:
        yield ""


def _verdict(report: Report) -> Iterator[RichText]:
    if report.verdict is not None:
        yield RichText(report.verdict.words, f"bold {_STYLES.get(report.verdict.tone, '')}")
    if report.hidden:
        yield RichText(report.hidden, _STYLES["bad"])


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
