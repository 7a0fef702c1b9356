"""Rows as pictures beside a run: written once at its end, read whenever its report is made.

`examples/index.json` says what is shown of which row; the pictures lie beside it. So a report can be made again
without student, teachers and data.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from distill_mtl.errors import UserError, brief
from distill_mtl.evaluation.examples import Example
from distill_mtl.files import atomic_folder
from distill_mtl.reading import MAX_BYTES, Remedy, read_bytes, read_json
from distill_mtl.tasks.base import Legend, Shown

_INDEX = "index.json"
_LONGEST = 256
"""Pixels of a picture's longer side: enough for a cell of the grid on a fine screen."""
_HEAVY = 16_000
"""Bytes of a PNG above which the picture is a photograph, and JPEG keeps it as well in a tenth."""
_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}
_AGAIN = Remedy(
    "Delete the folder to do without its pictures, or measure again with distill-mtl evaluate RUN --write."
)


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True)


class PictureCell(_Entry):
    """An image, a label or an answer: a file in the folder, words, or both."""

    file: Annotated[str, Field(pattern=r"^[\w-]+\.(png|jpg)$", max_length=100)] | None
    caption: str


class PictureRow(_Entry):
    """One row of a task; `teacher` is None for a task without one."""

    key: str
    image: PictureCell
    label: PictureCell
    teacher: PictureCell | None
    student: PictureCell

    @property
    def cells(self) -> dict[str, PictureCell]:
        """By the name of their column."""
        every = {
            "image": self.image,
            "label": self.label,
            "teacher": self.teacher,
            "student": self.student,
        }
        return {name: cell for name, cell in every.items() if cell is not None}

    @property
    def is_map(self) -> bool:
        """Whether the student's answer is a picture."""
        return self.student.file is not None


class ColorLegend(_Entry):
    """The meaning of colours, each as "#rrggbb", and how to read the rest."""

    colors: dict[str, str]
    note: str


class GalleryIndex(_Entry):
    """Content of index.json."""

    disagreements: dict[str, list[PictureRow]]
    samples: dict[str, list[PictureRow]]
    legends: dict[str, ColorLegend]


class Gallery:
    """The pictures of a run.

    Args:
        folder: where they lie.
        index: what they show.
    """

    def __init__(self, folder: Path, index: GalleryIndex) -> None:
        self._folder = folder
        self.index = index

    def uri(self, cell: PictureCell) -> str | None:
        """The cell's picture as a data URI, or None."""
        if cell.file is None:
            return None
        content = self._read(cell.file)
        return f"data:{_TYPES[Path(cell.file).suffix]};base64,{base64.b64encode(content).decode()}"

    def side(self, cell: PictureCell) -> int:
        """Pixels of the longer side of the cell's picture, 0 without one."""
        if cell.file is None:
            return 0
        try:
            with Image.open(io.BytesIO(self._read(cell.file)), formats=["PNG", "JPEG"]) as picture:
                return max(picture.size)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(
                f"{self._folder / cell.file} is not a picture ({brief(error)}). {_AGAIN.mend}"
            ) from error

    def _read(self, file: str) -> bytes:
        try:
            return read_bytes(self._folder / file, MAX_BYTES)
        except OSError as error:
            raise UserError(
                f"{self._folder / file} cannot be read: {error.strerror}. {_AGAIN.mend}"
            ) from error


def write_gallery(
    folder: Path,
    *,
    disagreements: Mapping[str, Sequence[Example]],
    samples: Mapping[str, Sequence[Example]],
    legends: Mapping[str, Legend],
) -> None:
    """Write rows for the report, in place of what the folder held before, whole or not at all.

    Args:
        folder: the run's `examples`.
        disagreements: task -> rows on which the student is worse than its teacher, hardest first.
        samples: task -> some rows.
        legends: task -> how to read its pictures.

    Raises:
        WriteError: they cannot be written.
    """
    shown = {
        task: ColorLegend(
            colors={name: "#{:02x}{:02x}{:02x}".format(*color) for name, color in legend.colors.items()},
            note=legend.note,
        )
        for task, legend in legends.items()
    }
    with atomic_folder(folder) as made:
        pictures = _Pictures(made)
        index = GalleryIndex(
            disagreements={
                task: [_row(row, pictures) for row in rows] for task, rows in disagreements.items()
            },
            samples={task: [_row(row, pictures) for row in rows] for task, rows in samples.items()},
            legends=shown,
        )
        (made / _INDEX).write_text(index.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_gallery(folder: Path) -> Gallery | None:
    """The pictures of a run; None where it has none, or was stopped while it wrote them."""
    index = folder / _INDEX
    if not index.exists():
        return None
    return Gallery(folder, read_json(index, GalleryIndex, remedy=_AGAIN))


class _Pictures:
    """Numbers the pictures of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0

    def save(self, pixels: Tensor, what: str) -> str:
        """The name of the new file."""
        picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())
        if max(picture.size) > _LONGEST:
            picture.thumbnail((_LONGEST, _LONGEST), Image.Resampling.BOX)
        content, ending = _encoded(picture)
        name = f"{self._count:03d}-{what}{ending}"
        (self._folder / name).write_bytes(content)
        self._count += 1
        return name


def _encoded(picture: Image.Image) -> tuple[bytes, str]:
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    if content.tell() <= _HEAVY:
        return content.getvalue(), ".png"
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=88)
    return content.getvalue(), ".jpg"


def _row(example: Example, pictures: _Pictures) -> PictureRow:
    def cell(shown: Shown, what: str) -> PictureCell:
        file = None if shown.picture is None else pictures.save(shown.picture, what)
        return PictureCell(file=file, caption=shown.caption)

    return PictureRow(
        key=example.key,
        image=cell(example.image, "image"),
        label=cell(example.label, "label"),
        teacher=None if example.teacher is None else cell(example.teacher, "teacher"),
        student=cell(example.student, "student"),
    )
