"""Sections of single rows: where student and teacher part, and what maps look like."""

from collections.abc import Mapping, Sequence

from distill_mtl.evaluation.result import Disagreement, Evaluation
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

_SMALL = 128
"""Pixels of a picture below which each is shown as a square."""


def disagreements_section(results: Evaluation, gallery: Gallery | None) -> Section | None:
    """The hardest rows by key, as pictures where the run kept some."""
    shown = {} if gallery is None else gallery.index.disagreements
    blocks: list[Block] = []
    for task, score in results.tasks.items():
        if rows := shown.get(task):
            assert gallery is not None
            blocks.append(_pictures(task, rows, gallery))
        if score.disagreements:
            blocks.append(Folded(f"Keys of {task}", [_keys(task, score.disagreements)]))
    if not blocks:
        return None
    note = Text(
        "Test rows on which the student does worse than its teacher, those that cost it most first.",
        quiet=True,
    )
    return Section("disagreements", "Where student and teacher part", [note, *blocks])


def maps_section(gallery: Gallery | None) -> Section | None:
    """A few rows of each task whose answer is a picture."""
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
