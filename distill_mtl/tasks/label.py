"""The label of a kind of task: read, checked, moved with the view, counted and written.

`LabelForm` is the half of `TaskKind` that knows the label's bytes. Whatever handles labels calls it (the data reader,
`shards`, `init`, `predict --masks`), so what one command writes or counts is what training reads.
"""

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from distill_mtl.errors import UserError
from distill_mtl.geometry.views import Size, View
from distill_mtl.tasks.doubts import Doubt, short_number
from distill_mtl.untrusted_text import json_text

MOST_CLASSES = 100_000
"""The largest number of classes that are told apart by their numbers alone."""

AskedAs = Literal["choice", "choices", "numbers", "boxes", "points", "file", "text"]


class LabelForm(ABC):
    """What a kind of task knows of its labels.

    Attributes:
        name: of the kind.
        member: file ending of the label in a shard unless the recipe names another ("cls"); several with `;`.
        fixed_classes: names that every task of this kind has; None: the recipe or the teacher says them.
        from_table: what a table has for one label: the value in one column, the values in several columns, or the
            path of a file that is the label. Such files can also be paired with pictures by their names.
        label_options: options that decide which labels are valid and what they mean.
        open_classes: how many classes labels may have if their number is unknown; 0: the classes
            must be known before a label is read.
        silent_label: what a label looks like that says nothing (`has_label`), for messages.
        asked_as: how a person is asked for a label of one picture, and which tools can ask: one of the classes, those
            that are there, a number for each, boxes or points with their classes, a file, or the label's own text.
        classes: names of what is answered.
        knows: data set -> positions of the classes that its labels tell of, for those that do not tell of all.
    """

    name: ClassVar[str]
    member: ClassVar[str]
    fixed_classes: ClassVar[tuple[str, ...] | None] = None
    from_table: ClassVar[Literal["column", "columns", "file"]] = "column"
    label_options: ClassVar[tuple[str, ...]] = ()
    open_classes: ClassVar[int] = 0
    silent_label: ClassVar[str] = "all of them are empty"
    asked_as: ClassVar[AskedAs] = "text"
    classes: tuple[str, ...]
    knows: Mapping[str, tuple[int, ...]] = {}

    @classmethod
    def endings(cls) -> tuple[str, ...]:
        """The file endings in `member`, the usual one first."""
        return tuple(cls.member.lower().split(";"))

    # ---- from a shard to training -----------------------------------------------------------------
    @abstractmethod
    def read_label(self, payload: bytes) -> Tensor:
        """Decode one label member. Raises ValueError, with a text for the user, if it is invalid."""

    @abstractmethod
    def has_label(self, label: Tensor) -> bool:
        """False for a label that says nothing (all pixels ignored); such a row counts as unlabelled."""

    @abstractmethod
    def filler(self, size: Size) -> Tensor:
        """What stands where a row has no label, in the type and shape of a label under a view of `size`."""

    def label_size(self, label: Tensor) -> Size | None:
        """Height and width that the label's picture must have; None: a label that no pixel belongs to."""
        return None

    def check_size(self, label: Tensor, picture: Size) -> None:
        """Raises ValueError if the label belongs to a picture of another height and width than `picture`."""
        needed = self.label_size(label)
        if needed is not None and needed != picture:
            turned = " EXIF may turn the picture: turn the label with it." if needed == picture[::-1] else ""
            raise ValueError(
                f"the label has {needed[1]}x{needed[0]} pixels, its picture {picture[1]}x{picture[0]}. Both must have "
                f"the same size.{turned}"
            )

    def transform_label(self, label: Tensor, view: View, picture: Size, size: Size) -> Tensor:
        """The label as it is under a view of its picture, in the shape of `filler`.

        Args:
            label: from `read_label`.
            view: box and flip.
            picture: height and width of the whole picture.
            size: height and width of the view.
        """
        return label

    def within(self, label: Tensor, known: Sequence[int]) -> Tensor:
        """A label of a data set that tells of some classes only: it says nothing of the others.

        Args:
            label: from `read_label`, or of a view.
            known: positions of these classes, ascending: one of the values of `knows`.

        Raises:
            ValueError: it shows a class that is not among them.
        """
        raise NotImplementedError(f"labels of kind {self.name} tell of all classes")

    def leaves_open(self, label: Tensor) -> bool:
        """Whether a label that `within` gave says nothing of some class."""
        return False

    def keep_known_classes(self, labels: Tensor, known: Sequence[int]) -> Tensor:
        """The labels with all classes unknown but those at the positions in `known`.

        Unchanged where classes exclude each other: a teacher that lacks the right one answers wrongly then.

        Args:
            labels: [R, ...], as `transform_label` gives them.
            known: the classes that a teacher knows.
        """
        return labels

    # ---- to a shard -------------------------------------------------------------------------------
    def write_label(self, decoded: Mapping[str, Tensor]) -> tuple[str, bytes]:
        """One row's answers as a label: file ending in a shard, and bytes that `read_label` reads as them.

        Args:
            decoded: of one row, from `decode` or `to_picture`; no dimension for the batch.

        Raises:
            UserError: answers of this kind cannot be written as labels.
        """
        raise UserError(
            f"kind {self.name} does not say how its answers become labels: define `write_label` in it."
        )

    def checked_label(self, decoded: Mapping[str, Tensor]) -> tuple[str, bytes]:
        """`write_label`, read back.

        Raises:
            UserError: as `write_label`; the written label is not one that `read_label` accepts.
        """
        ending, payload = self.write_label(decoded)
        try:
            self.read_label(payload)
        except ValueError as error:
            raise UserError(f"the answer cannot be written as a label of kind {self.name}: {error}") from None
        return ending, payload

    @classmethod
    def label_from_cells(cls, cells: Mapping[str, Any]) -> bytes:
        """A label from the cells of a table's row; here the text of its one column.

        Not asked where `from_table` is "file": the label is the file's bytes then.

        Args:
            cells: column -> text, or a value of JSON. At least one of them is not empty.

        Raises:
            ValueError: a cell is invalid; the message names its column.
        """
        (cell,) = cells.values()
        return cell.strip().encode() if isinstance(cell, str) else to_json(cell)

    @classmethod
    def classes_in(cls, labels: Iterable[bytes], columns: Sequence[str]) -> tuple[str, ...] | int | None:
        """The classes of a data set as a recipe lists them: their names, or how many numbers there are.

        Here the names of the columns; None where the kind has classes of its own, or only numbers its classes.

        Args:
            labels: of all rows, from `label_from_cells`; none where the labels are files.
            columns: of the table.

        Raises:
            ValueError: a class could be meant by its name or by its number.
        """
        return None if cls.fixed_classes is not None or cls.open_classes else tuple(columns)

    @classmethod
    def options_in(cls, labels: Iterable[bytes]) -> dict[str, Any]:
        """Those of `label_options` that a data set needs so that its labels can be read, beyond the defaults."""
        return {}

    # ---- counted ----------------------------------------------------------------------------------
    def count_label(self, label: Tensor, picture: Size, counts: "LabelCounts") -> None:  # noqa: B027
        """Add one row's label to the counts of a data set; here nothing.

        Args:
            label: from `read_label`.
            picture: height and width of its picture.
            counts: to add to; that the row was read and has a label is counted already.
        """

    def counts_table(self, counts: "LabelCounts") -> "CountsTable":
        """A text about what was counted; here how many rows have a label."""
        lines = [("with a label", f"{counts.labelled:,}"), ("without", f"{counts.rows - counts.labelled:,}")]
        return CountsTable(("", "rows"), lines)

    def doubts(self, counts: "LabelCounts") -> list[Doubt]:
        """What makes sense as labels and is seldom meant; here labels of which none says anything.

        Args:
            counts: of all rows of a data set, or of one of its sets.
        """
        if counts.labelled or not counts.rows:
            return []
        found = f"none of the {counts.rows:,} labels says anything: {self.silent_label}"
        return [Doubt(f"{found}. Is this the right file, column or option?", fatal=True)]

    def classes_counted(self, counts: "LabelCounts") -> int:
        """How many classes the labels number, for kinds with `open_classes`."""
        raise NotImplementedError(f"kind {self.name} has open_classes and does not define classes_counted")

    def options_counted(self, counts: "LabelCounts") -> dict[str, Any]:
        """Options of a recipe that follow from the labels of a data set, such as its mean; here none."""
        return {}


@dataclass(frozen=True)
class NumberStats:
    """Statistics of numbers: how many, mean, sum of squared distances from the mean, smallest and largest."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    least: float = math.inf
    largest: float = -math.inf

    @classmethod
    def of(cls, numbers: Tensor) -> "NumberStats":
        """Of the numbers [N], N > 0, which are finite."""
        numbers = numbers.double()
        mean = float(numbers.mean())
        squares = float((numbers - mean).square().sum())
        return cls(len(numbers), mean, squares, float(numbers.min()), float(numbers.max()))

    def __add__(self, other: "NumberStats") -> "NumberStats":
        """Of both together: Chan, Golub & LeVeque, "Algorithms for computing the sample variance", 1983, eq. 2.1."""
        if not (self.count and other.count):
            return self if self.count else other
        count = self.count + other.count
        apart = other.mean - self.mean
        return NumberStats(
            count,
            self.mean + apart * other.count / count,
            self.squares + other.squares + apart * apart * self.count * other.count / count,
            min(self.least, other.least),
            max(self.largest, other.largest),
        )

    @property
    def std(self) -> float:
        """Of the numbers themselves, not of a larger population."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0


@dataclass
class LabelCounts:
    """What the labels of some rows say, counted by their kind of task.

    Attributes:
        rows: that were read.
        labelled: of them, those whose label says something (`has_label`).
        counts: what is counted -> value -> how often, such as "pixels" -> class number -> pixels.
        numbers: what is measured -> its statistics.
    """

    rows: int = 0
    labelled: int = 0
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    numbers: dict[str, NumberStats] = field(default_factory=dict)

    def add_label(self, kind: LabelForm, label: Tensor, picture: Size, times: int = 1) -> None:
        """Take in the label of one row, or of several with the same, whose picture has this height and width."""
        if times > 1:
            one = LabelCounts()
            one.add_label(kind, label, picture)
            self.add(one.repeated(times))
            return
        self.rows += 1
        self.labelled += kind.has_label(label)
        kind.count_label(label, picture, self)

    def repeated(self, times: int) -> "LabelCounts":
        """The counts of so many times the same rows."""
        return LabelCounts(
            self.rows * times,
            self.labelled * times,
            {
                what: Counter({value: count * times for value, count in values.items()})
                for what, values in self.counts.items()
            },
            {
                what: replace(numbers, count=numbers.count * times, squares=numbers.squares * times)
                for what, numbers in self.numbers.items()
            },
        )

    def count_values(self, what: str, numbers: Iterable[float]) -> None:
        """Count numbers by their value, to three digits."""
        self.count(what, Counter(map(short_number, numbers)))

    def count(self, what: str, values: Mapping[str, int]) -> None:
        """Add to a count."""
        self.counts.setdefault(what, Counter()).update(values)

    def measure(self, what: str, numbers: Tensor | float) -> None:
        """Add numbers [N], or a single one, to the statistics of what is measured."""
        if isinstance(numbers, float):  # many times faster than as a tensor
            stats = NumberStats(1, numbers, 0.0, numbers, numbers)
        elif len(numbers):
            stats = NumberStats.of(numbers)
        else:
            return
        self.numbers[what] = self.numbers.get(what, NumberStats()) + stats

    def add(self, other: "LabelCounts") -> None:
        """Take in the counts of further rows."""
        self.rows += other.rows
        self.labelled += other.labelled
        for what, values in other.counts.items():
            self.count(what, values)
        for what, numbers in other.numbers.items():
            self.numbers[what] = self.numbers.get(what, NumberStats()) + numbers

    def to_json(self) -> dict[str, Any]:
        """Plain values for a line of JSON."""
        return {
            "rows": self.rows,
            "labelled": self.labelled,
            "counts": {what: dict(values) for what, values in self.counts.items()},
            "numbers": {what: [*vars(numbers).values()] for what, numbers in self.numbers.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "LabelCounts":
        """What `to_json` gave."""
        return cls(
            value["rows"],
            value["labelled"],
            {what: Counter(values) for what, values in value["counts"].items()},
            {what: NumberStats(*numbers) for what, numbers in value["numbers"].items()},
        )


class CountsTable(NamedTuple):
    """Counts of labels as a table for people.

    Attributes:
        columns: their heads; all but the first hold numbers.
        lines: the cells of each.
        title: how many there are of what, or nothing.
    """

    columns: tuple[str, ...]
    lines: Sequence[tuple[str, ...]]
    title: str = ""


def class_text(name: str) -> str:
    """The text in the shard for a class as people write it: `007` is class number 7."""
    name = name.strip()
    return str(int(name)) if is_class_number(name) else name


def is_class_number(name: str) -> bool:
    """Whether the text of a class is a number."""
    return name.isascii() and name.isdecimal()


def list_classes(texts: Iterable[str]) -> tuple[str, ...] | int:
    """The classes in the order of a recipe: names sorted, or their number where all of them are numbers.

    Args:
        texts: of the labels, as `class_text` gives them.

    Raises:
        ValueError: a class could be meant by its name or by its number; numbers that cannot be class numbers.
    """
    names = sorted(set(texts))
    numbers = [name for name in names if is_class_number(name)]
    if names and len(numbers) == len(names):
        largest = max(map(int, names))
        if largest >= MOST_CLASSES:
            raise ValueError(
                f"the class {largest} is a number, but too large for the number of a class. Give the classes names "
                "that are not numbers, or numbers from 0."
            )
        return largest + 1
    for name in numbers:
        if int(name) < len(names):
            raise ValueError(
                f"the class '{name}' could be a name or class number {name}. Give the classes names that are not "
                "numbers, or all of them numbers from 0."
            )
    return tuple(names)


def by_count(counts: Counter[str]) -> list[tuple[str, int]]:
    """The most frequent first, by name where several are equally frequent."""
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))


def percent(part: int, whole: int) -> str:
    """A share for a table."""
    return f"{100 * part / max(whole, 1):.1f} %"


def count_pixels(valid: Tensor, counts: LabelCounts) -> None:
    """Count the pixels [H, W] with and without a label."""
    labelled = int(torch.count_nonzero(valid))
    counts.count("pixels", {"labelled": labelled, "unlabelled": valid.numel() - labelled})


def to_json(value: Any) -> bytes:
    """A value as the JSON of a label."""
    return json_text(value).encode()
