"""What the columns of a data set of Hugging Face mean: which is the picture, which are labels, and of which form.

Types come from the package `datasets`, which is not imported here: they are told by their names.
"""

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL import Image

from distill_mtl.errors import ShardError, a_few, brief, nearest
from distill_mtl.picture_bytes import MOST_BYTES, format_of
from distill_mtl.reading import read_bytes, shown
from distill_mtl.shards.annotations import BOXES, MASK
from distill_mtl.shards.label_kinds import LabelKinds
from distill_mtl.shards.listed_rows import LabelError, png
from distill_mtl.shards.tables import refuse_wrong_columns
from distill_mtl.tasks.heatmap import MOST_OBJECTS
from distill_mtl.tasks.label import class_text, list_classes, to_json

BoxForm = Literal["xywh", "xyxy"]
_PICTURES = ("image", "img", "picture", "photo", "pixel_values", "rgb")
_CLASSES = ("label", "labels", "class", "category", "target")
_BOX_KEYS = ("bbox", "bboxes", "box", "boxes")
_CLASS_KEYS = (
    *("category", "categories", "category_id", "label", "labels"),
    *("class", "classes", "class_id", "name"),
)
_UNKNOWN = -1  # class of rows whose class is kept secret


def described(features: Mapping[str, Any]) -> str:
    """Columns and their types, for messages."""
    return ", ".join(f"{key} ({_type(feature)})" for key, feature in features.items())


def _type(feature: Any) -> str:
    if isinstance(feature, dict):
        return f"{{{', '.join(feature)}}}"
    inner = getattr(feature, "feature", None)
    if inner is not None:
        return f"list of {_type(inner)}"
    return str(getattr(feature, "dtype", None) if _named(feature, "Value") else type(feature).__name__)


def _named(feature: Any, *names: str) -> bool:
    return type(feature).__name__ in names


def is_image(feature: Any) -> bool:
    """Also one that a table holds as bytes and path, without saying that they are a picture."""
    return _named(feature, "Image") or (isinstance(feature, dict) and feature.keys() == {"bytes", "path"})


def _inner(feature: Any) -> Any:
    """What a list holds; None: it is no list."""
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)


def _fields(feature: Any) -> dict[str, Any] | None:
    """The fields of a list of mappings, or of a mapping of lists."""
    if isinstance(feature, dict):
        return {key: _inner(value) for key, value in feature.items() if _inner(value) is not None}
    inner = _inner(feature)
    return inner if isinstance(inner, dict) else None


def _key(fields: Mapping[str, Any] | None, names: Sequence[str]) -> str | None:
    return next((key for key in names if key in (fields or {})), None)


@dataclass
class HubColumns:
    """What the columns of a data set mean. It travels to reader processes.

    Attributes:
        name: of the data set, for messages.
        features: column -> type.
        image: column of the picture; None: found.
        labels: member -> its columns; None or empty: found, if `find`.
        boxes: form of a box.
        find: look for labels.
        classes: of objects, by their numbers.
        left_out: split -> what is not taken -> how often.
    """

    name: str
    features: Mapping[str, Any]
    image: Any
    labels: Any
    boxes: BoxForm
    find: bool
    classes: tuple[str, ...] = ()
    left_out: dict[str, Counter[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ShardError for a column that is not there, or that is not clear."""
        self.labels = {member: list(columns) for member, columns in (self.labels or {}).items()}
        for column in [self.image, *(one for columns in self.labels.values() for one in columns)]:
            if column is not None and column not in self.features:
                raise ShardError(
                    f"{self.name} has no column '{column}'.{nearest(column, self.features)} Columns: "
                    f"{described(self.features)}."
                )
        pictures = [key for key, feature in self.features.items() if is_image(feature)]
        free = [
            key for key in pictures if key not in {one for columns in self.labels.values() for one in columns}
        ]
        if self.image is None:
            usual = [key for key in free if key.lower() in _PICTURES]
            if len(usual or free) != 1:
                which = (
                    f"several columns are pictures ({', '.join(usual or free)})"
                    if free
                    else "no column is a picture"
                )
                raise ShardError(
                    f"{self.name}: {which}. Name it with --image. Columns: {described(self.features)}."
                )
            self.image = (usual or free)[0]
        elif self.image not in pictures:
            raise ShardError(
                f"{self.name}: the column {self.image} is no picture, but {_type(self.features[self.image])}."
            )
        if self.find:
            self._find()
        refuse_wrong_columns(self.labels, LabelKinds())
        for member, (column, *_) in self.labels.items():
            self._refuse_type(member, column)

    def _refuse_type(self, member: str, column: str) -> None:
        feature = self.features[column]
        if member == BOXES:
            self._box_keys(column)
        elif LabelKinds()[member].from_table == "file" and not is_image(feature):
            raise ShardError(
                f"{self.name}: {member} is a picture, and the column {column} is {_type(feature)}."
            )
        elif member == "cls" and not _named(feature, "ClassLabel", "Value"):
            raise ShardError(
                f"{self.name}: cls is a number or a name, and the column {column} is {_type(feature)}."
            )

    def _find(self) -> None:
        candidates: dict[str, list[str]] = {}
        for key, feature in self.features.items():
            if key != self.image and (member := self._member(key, feature)) is not None:
                candidates.setdefault(member, []).append(key)
        for member, keys in candidates.items():
            if len(keys) > 1 and member != "values.json":
                raise ShardError(
                    f"{self.name}: several columns could be {member}: {', '.join(keys)}. Choose with --label {member}="
                    f"{keys[0]}."
                )
        self.labels = candidates

    def _member(self, key: str, feature: Any) -> str | None:
        """The label that a column is, by its type and name."""
        if is_image(feature):
            return "depth.png" if "depth" in key.lower() else MASK
        if _named(feature, "ClassLabel"):
            return "cls"
        if _key(_fields(feature), _BOX_KEYS) and _key(_fields(feature), _CLASS_KEYS):
            return BOXES
        inner = _inner(feature)
        if _named(inner, "ClassLabel"):
            return "attributes.json"
        value = feature if inner is None else inner
        dtype = value.dtype if _named(value, "Value") else ""
        if dtype.startswith("float"):
            return "values.json"
        named = key.lower() in _CLASSES and inner is None
        return "cls" if named and dtype.startswith(("int", "string")) else None

    def notes(self) -> list[str]:
        """What was found, for people."""
        said = [f"picture: {self.image}"] + [
            f"{member}: {', '.join(columns)}" for member, columns in self.labels.items()
        ]
        used = {self.image, *(one for columns in self.labels.values() for one in columns)}
        others = [key for key in self.features if key not in used]
        return [f"columns: {'; '.join(said)}" + (f" (not used: {a_few(others)})" if others else "")]

    def scan(self, data: Mapping[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
        """Of every label the classes, and the options that it needs: what only all rows tell."""
        found = {}
        for member, columns in self.labels.items():
            feature, options = self.features[columns[0]], dict[str, Any]()
            known: Any = None
            if member == "cls":
                known = _class_names(feature) or self._classes_of(
                    cell for one in data.values() for cell in one[columns[0]]
                )
            elif member == BOXES:
                known, options = self._scan_boxes(data, columns[0], feature)
            elif member in ("attributes.json", "values.json"):
                known = tuple(columns)
                if (inner := _inner(feature)) is not None:
                    names = getattr(inner, "names", None)
                    length = next((len(cell) for one in data.values() for cell in one[columns[0]] if cell), 0)
                    known = tuple(names) if names else length
            found[member] = (known, options)
        return found

    def _classes_of(self, cells: Iterator[Any]) -> Any:
        texts = {class_text(str(cell)) for cell in cells if not is_unknown(cell)}
        try:
            return list_classes(texts)
        except ValueError as error:
            raise ShardError(f"{self.name}: {error}") from None

    def _scan_boxes(self, data: Mapping[str, Any], column: str, feature: Any) -> tuple[Any, dict[str, Any]]:
        most, seen = 0, set[Any]()
        fields = _fields(feature) or {}
        box, named = self._box_keys(column)
        names = getattr(fields[named], "names", None)
        for split, one in data.items():
            left_out = self.left_out.setdefault(split, Counter())
            for row, cell in enumerate(one[column]):
                try:
                    things = list(_things(cell))
                except ValueError:
                    raise ShardError(
                        f"{self.name}, {split}: the lists of {column} differ in length in row {row}."
                    ) from None
                most = max(most, len(things))
                left_out.update(why for thing in things if (why := self._why_not(thing, box)))
                if names is None:
                    seen |= {thing.get(named) for thing in things}
        classes = tuple(names) if names else self._classes_of(iter(seen))
        self.classes = classes if isinstance(classes, tuple) else tuple(map(str, range(classes)))
        return classes, {"max_objects": most} if most > MOST_OBJECTS else {}

    def label(self, member: str, row: Mapping[str, Any], kinds: LabelKinds) -> bytes:
        """The label of a row.

        Raises:
            LabelError: it is none.
        """
        columns = self.labels[member]
        feature, cell = self.features[columns[0]], row[columns[0]]
        try:
            if kinds[member].from_table == "file":
                return _file_label(member, cell)
            if member == BOXES:
                return to_json(list(self._objects(columns[0], cell)))
            if member == "cls":
                return class_text(str(cell)).encode()
            if (inner := _inner(feature)) is not None:
                names = getattr(inner, "names", None)
                return to_json({name: int(at in cell) for at, name in enumerate(names)} if names else cell)
            return kinds[member].label_from_cells({column: row[column] for column in columns})
        except (ValueError, TypeError) as error:
            raise LabelError(f"{', '.join(columns)}: {brief(error)}") from None

    def _box_keys(self, column: str) -> tuple[str, str]:
        """The keys of an object's box and class."""
        fields = _fields(self.features[column])
        box, named = _key(fields, _BOX_KEYS), _key(fields, _CLASS_KEYS)
        if fields is None or box is None or named is None or not _named(fields[named], "ClassLabel", "Value"):
            raise ShardError(
                f"{self.name}: the column {column} is {_type(self.features[column])}. A list of {{bbox, category}} is "
                "expected."
            )
        return box, named

    def _objects(self, column: str, cell: Any) -> Iterator[dict[str, Any]]:
        box, named = self._box_keys(column)
        for thing in _things(cell):
            if not self._why_not(thing, box):
                found = thing[named]
                if isinstance(found, int) and not 0 <= found < len(self.classes):
                    raise ValueError(
                        f"an object is of class number {found}, and there are {len(self.classes)}"
                    )
                name = self.classes[found] if isinstance(found, int) else class_text(str(found))
                yield {"class": name, "box": self._box(thing[box])}

    def _box(self, numbers: Sequence[float]) -> list[float]:
        """Left, top, width, height."""
        if not _are_numbers(numbers):
            raise ValueError(f"a box of four numbers is expected, found {shown(numbers)}")
        left, top, right, bottom = map(float, numbers)
        return [left, top, right - left, bottom - top] if self.boxes == "xyxy" else [left, top, right, bottom]

    def _why_not(self, thing: Mapping[str, Any], box: str) -> str:
        """Why an object is left out; empty: it is not."""
        if thing.get("iscrowd"):
            return "boxes around crowds (iscrowd)"
        numbers = thing[box]
        return "boxes without area" if _are_numbers(numbers) and min(self._box(numbers)[2:]) == 0 else ""


def _are_numbers(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(value, int | float) for value in box)


def _things(cell: Any) -> Iterator[Mapping[str, Any]]:
    """The objects of a row: a list of mappings, or a mapping of lists."""
    if isinstance(cell, Mapping):
        lists = {key: value for key, value in cell.items() if isinstance(value, list)}
        for values in zip(*lists.values(), strict=True):
            yield dict(zip(lists, values, strict=True))
    else:
        yield from cell or ()


def _class_names(feature: Any) -> tuple[str, ...] | int | None:
    """Names for a recipe; their count where a name could be taken for a class number; None where there are none."""
    names = getattr(feature, "names", None)
    return None if not names else len(names) if any(one.isdecimal() for one in names) else tuple(names)


def is_unknown(cell: Any) -> bool:
    """Whether a class is not said."""
    return cell is None or cell == _UNKNOWN or cell == ""


def picture_bytes(cell: Mapping[str, Any] | None) -> bytes:
    """Of a picture that was not decoded.

    Raises:
        ValueError: there is none.
        OSError: its file cannot be read.
    """
    if not cell or not (cell.get("bytes") or cell.get("path")):
        raise ValueError("there is no picture")
    return cell["bytes"] or read_bytes(cell["path"], MOST_BYTES)


def _file_label(member: str, cell: Any) -> bytes:
    """A mask or map as PNG."""
    try:
        content = picture_bytes(cell)
    except OSError as error:
        raise ValueError(f"{error.strerror or error}") from None
    if (form := format_of(content)) == "PNG":
        return content
    if form in ("JPEG", "WEBP"):
        raise ValueError(f"the picture of a label is a {form}, whose pixels are not exactly what was written")
    with Image.open(io.BytesIO(content), formats=[form]) as picture:
        return png(picture)
