"""The blocks of a report for every writer: sections of tables, charts, pictures, code and sentences.

Console, Markdown and HTML are three ways to write the same blocks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from distill_mtl.report.charts import Drawing

_MANY = 24  # characters
Tone = Literal["", "student", "teacher", "good", "kept", "bad", "unsure", "quiet", "strong", "code"]
"""`kept`: a loss within the margin. `code`: a name that stands in a file."""
Narrow = Literal["fold", "shorten"]


@dataclass(frozen=True)
class Text:
    """A sentence or two; `quiet` ones explain how to read what stands beside them."""

    form: ClassVar[str] = "text"
    words: str
    quiet: bool = False
    tone: Tone = ""


@dataclass(frozen=True)
class Cell:
    """A cell of a table; `heat` in [0, 1] tints it, the smaller the more; `aside` is a small word under it."""

    words: str
    tone: Tone = ""
    heat: float | None = None
    aside: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells.

    Attributes:
        name: for screen readers.
        columns: headings.
        rows: cells, as many as columns in each; the first is the row's heading.
        left: headings of the columns that hold words; figures stand to the right.
        narrow: heading -> what a console without room does to the column; no other is ever cut.
    """

    form: ClassVar[str] = "table"
    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    left: frozenset[str] = frozenset()
    narrow: Mapping[str, Narrow] = field(default_factory=dict)


@dataclass(frozen=True)
class Chart:
    """A drawing, the words over it, and those under it."""

    drawing: Drawing
    title: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Charts:
    """Drawings beside each other, as many as there is room for. `wide` ones take a line each."""

    form: ClassVar[str] = "charts"
    charts: Sequence[Chart]
    wide: bool = False


@dataclass(frozen=True)
class Picture:
    """One cell of a row of pictures: a data URI, words, or both."""

    column: str
    uri: str | None
    caption: str
    small: bool = False
    """Fewer pixels than it is shown with, so that each should stay a square."""


@dataclass(frozen=True)
class PictureLine:
    """One row of a data set, as pictures beside each other."""

    key: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Pictures:
    """Rows of one task, with what their colours mean."""

    form: ClassVar[str] = "pictures"
    task: str
    lines: Sequence[PictureLine]
    colors: dict[str, str]
    note: str = ""

    @property
    def wordy(self) -> bool:
        """Whether some words are a list of many, which needs a wider line."""
        return any(len(picture.caption) > _MANY for line in self.lines for picture in line.pictures)

    @property
    def in_words(self) -> bool:
        """Whether words say all but the image, so that a line needs little room."""
        return all(
            picture.uri is None
            for line in self.lines
            for picture in line.pictures
            if picture.column != "image"
        )


@dataclass(frozen=True)
class Code:
    """Text in a fixed-width block."""

    form: ClassVar[str] = "code"
    words: str
    language: str = ""


@dataclass(frozen=True)
class Folded:
    """A part that is folded behind its title. `in_short` stands in the Markdown form instead, where it is given."""

    form: ClassVar[str] = "folded"
    title: str
    blocks: Sequence["Block"]
    in_short: str = ""


Block = Text | Table | Charts | Pictures | Code | Folded


@dataclass(frozen=True)
class Section:
    """A part of a report with a heading.

    Attributes:
        name: its id in the page.
        title: its heading.
        blocks: of the page and of report.md, which leaves out charts and pictures.
        summary: what the console and the model card show of it, tables usually.
        notes: lines under the verdict there.
    """

    name: str
    title: str
    blocks: Sequence[Block]
    summary: Sequence[Block] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Figure:
    """One of the few numbers under the headline."""

    value: str
    what: str


@dataclass(frozen=True)
class Report:
    """All of it.

    Attributes:
        eyebrow: what this is a report of.
        headline: the finding, in one sentence.
        tone: of the headline.
        advice: what to do about what was not reached.
        figures: the numbers under the headline.
        facts: rows, steps, time, in one short line.
        sections: in order.
        title: of the summary, what was compared on which rows.
        verdict: of the summary; None where nothing was compared.
        hidden: what stands first under the headline and the verdict: a loss that the mean hides.
    """

    eyebrow: str
    headline: str
    tone: Tone
    advice: Sequence[str]
    figures: Sequence[Figure]
    facts: str
    sections: Sequence[Section]
    title: str = ""
    verdict: Text | None = None
    hidden: str = ""
