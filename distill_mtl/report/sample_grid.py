"""Examples of every task on one picture: a line for each task, image, label, teacher and student side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from distill_mtl.evaluation.examples import Example
from distill_mtl.tasks.base import Legend, Shown

_SIDE = 112  # of a picture's longer side on the grid
_GAP, _BETWEEN, _MARGIN = 4, 18, 12
_TEXT, _PAD, _SWATCH = 12, 6, 8
_PAPER, _PANEL, _INK, _FAINT = "white", "#f2f2f2", "#202020", "#707070"
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
_COLUMNS = ("image", "label", "teacher", "student")


def sample_grid(
    examples: Mapping[str, Sequence[Example]], legends: Mapping[str, Legend] | None = None
) -> Image.Image:
    """An RGB picture of all examples; tasks without a teacher have no such column.

    Args:
        examples: task -> its rows, at least one in all.
        legends: task -> what its colours mean, beside its name as far as there is room.
    """
    lines = {task: [_cells(example) for example in rows] for task, rows in examples.items() if rows}
    grid = _Measures.of(lines)
    picture = Image.new("RGB", (grid.width, grid.height(len(lines))), _PAPER)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=_TEXT)
    for number, (task, rows) in enumerate(lines.items()):
        top = _MARGIN + number * grid.line
        pen.text((_MARGIN, top), task, _INK, font=font, stroke_width=0.4)
        if legends is not None and task in legends:
            left = _MARGIN + font.getlength(task) + _BETWEEN
            _explain(pen, font, legends[task], (left, top), grid.width - _MARGIN)
        for place, cells in enumerate(rows):
            left = _MARGIN + place * grid.block
            for column, (name, shown) in enumerate(cells.items()):
                corner = left + column * (_SIDE + _GAP), top + _TEXT + 4
                _draw(picture, pen, font, name, shown, corner, grid.tall)
    return picture


@dataclass(frozen=True)
class _Measures:
    """Of the grid, in pixels."""

    width: int
    block: int
    tall: int
    line: int

    @classmethod
    def of(cls, lines: Mapping[str, Sequence[Mapping[str, Shown]]]) -> "_Measures":
        cells = max(len(row) for rows in lines.values() for row in rows)
        pictures = [
            shown.picture
            for rows in lines.values()
            for row in rows
            for shown in row.values()
            if shown.picture is not None
        ]
        tall = max(_scaled(picture)[1] for picture in pictures)
        block = cells * (_SIDE + _GAP) - _GAP + _BETWEEN
        width = 2 * _MARGIN - _BETWEEN + block * max(len(rows) for rows in lines.values())
        return cls(width, block, tall, tall + 4 * _TEXT + 12)

    def height(self, lines: int) -> int:
        return 2 * _MARGIN + lines * self.line


def _cells(example: Example) -> dict[str, Shown]:
    shown = (example.image, example.label, example.teacher, example.student)
    return {name: cell for name, cell in zip(_COLUMNS, shown, strict=True) if cell is not None}


def _explain(
    pen: ImageDraw.ImageDraw, font: Font, legend: Legend, place: tuple[float, float], end: float
) -> None:
    """Squares of colour with their names, then the note, in one line from `place` to `end`."""
    left, top = place
    for name, color in legend.colors.items():
        wide = _TEXT + font.getlength(name)
        if left + wide > end:
            pen.text((left, top), "…", _FAINT, font=font)
            return
        pen.rectangle((left, top + 3, left + _SWATCH, top + 3 + _SWATCH), color)
        pen.text((left + _TEXT, top), name, _FAINT, font=font)
        left += wide + _PAD
    if legend.note:
        pen.text((left, top), _shortened(legend.note, font, int(end - left)), _FAINT, font=font)


def _draw(
    picture: Image.Image,
    pen: ImageDraw.ImageDraw,
    font: Font,
    name: str,
    shown: Shown,
    place: tuple[int, int],
    tall: int,
) -> None:
    left, top = place
    pen.text((left, top), name, _FAINT, font=font)
    top += _TEXT + 4
    if shown.picture is None:
        pen.rectangle((left, top, left + _SIDE - 1, top + tall - 1), _PANEL)
        for number, line in enumerate(_wrapped(shown.caption, font, tall)):
            pen.text((left + _PAD, top + _PAD + number * (_TEXT + 4)), line, _INK, font=font)
        return
    size = _scaled(shown.picture)
    pixels = Image.fromarray(shown.picture.permute(1, 2, 0).contiguous().numpy())
    enlarged = size[0] > pixels.width
    picture.paste(
        pixels.resize(size, Image.Resampling.NEAREST if enlarged else Image.Resampling.BOX), (left, top)
    )
    pen.text((left, top + 2 + tall), _shortened(shown.caption, font, _SIDE), _INK, font=font)


def _wrapped(text: str, font: Font, tall: int) -> list[str]:
    """Lines as wide as a picture, word by word, as many as it is tall."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= _SIDE - 2 * _PAD or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    most = max(1, (tall - 2 * _PAD) // (_TEXT + 4))
    if len(lines) > most:
        lines[most - 1] += " …"
    return [_shortened(line, font, _SIDE - 2 * _PAD) for line in lines[:most]]


def _shortened(text: str, font: Font, width: int) -> str:
    """As much of it as so many pixels hold."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _scaled(pixels: Tensor) -> tuple[int, int]:
    """Width and height on the grid."""
    height, width = pixels.shape[-2:]
    share = _SIDE / max(height, width)
    return max(1, round(width * share)), max(1, round(height * share))
