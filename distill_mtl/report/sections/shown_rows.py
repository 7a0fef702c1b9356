"""Single rows: where student and teacher differ most, and what maps look like."""

from collections.abc import Mapping, Sequence

from distill_mtl.evaluation.result import Disagreement
from distill_mtl.report import words
from distill_mtl.report.blocks import (
    Block,
    Cell,
    Folded,
    Picture,
    PictureLine,
    Pictures,
    Section,
    Table,
    Text,
)
from distill_mtl.report.pictures import ColorLegend, Gallery, PictureRow
from distill_mtl.report.run_record import RunRecord
from distill_mtl.report.sections import section

_SMALL = 128
"""Pixels of a picture below which each is shown as a square."""


@section(90)
def disagreements(run: RunRecord) -> Section | None:
    """The hardest rows by key, as pictures where the run kept some."""
    blocks: list[Block] = []
    for task, result in ({} if run.results is None else run.results.tasks).items():
        if run.gallery is not None and (rows := run.gallery.index.disagreements.get(task)):
            blocks.append(_pictures(task, rows, run.gallery))
        if result.disagreements:
            blocks.append(Folded(f"Keys of {task}", [_keys(task, result.disagreements)]))
    if not blocks:
        return None
    note = Text(
        "Test rows on which the student does worse than its teacher, those that cost it most first.",
        quiet=True,
    )
    return Section("disagreements", "Rows where student and teacher differ", [note, *blocks])


@section(100)
def maps(run: RunRecord) -> Section | None:
    """A few rows of each task whose answer is a picture."""
    gallery = run.gallery
    if gallery is None:
        return None
    blocks = [
        _pictures(task, rows, gallery)
        for task, rows in gallery.index.samples.items()
        if any(row.is_map for row in rows)
    ]
    if not blocks:
        return None
    return Section("maps", "Dense outputs", [Text("Test rows, spread over the set.", quiet=True), *blocks])


def _pictures(task: str, rows: Sequence[PictureRow], gallery: Gallery) -> Pictures:
    lines = [
        PictureLine(
            row.key,
            [
                Picture(name, gallery.uri(cell), cell.caption, gallery.side(cell) < _SMALL)
                for name, cell in row.cells.items()
            ],
        )
        for row in rows
    ]
    legends: Mapping[str, ColorLegend] = gallery.index.legends
    legend = legends.get(task)
    if legend is None or not any(row.is_map for row in rows):
        return Pictures(task, lines, {})
    return Pictures(task, lines, legend.colors, legend.note)


def _keys(task: str, found: Sequence[Disagreement]) -> Table:
    rows = [
        [
            Cell(entry.key),
            Cell(entry.label or words.NONE),
            Cell(entry.teacher or words.NONE),
            Cell(entry.student or words.NONE),
            Cell(f"{entry.loss:.3g}"),
        ]
        for entry in found
    ]
    columns = ["row", "label", "teacher", "student", "worse by"]
    return Table(f"Disagreements of {task}", columns, rows, frozenset(columns[:-1]))
