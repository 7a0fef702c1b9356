"""One file of annotations in COCO's form (https://cocodataset.org/#format-data), read and checked by itself.

What a picture's label needs is kept, as little of it as possible: a file may list a million objects.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, NotRequired

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

from distill_mtl.errors import ShardError, a_few
from distill_mtl.reading import Remedy, shown
from distill_mtl.shards.annotations import refuse, refuse_class_names
from distill_mtl.shards.json_lists import read_lists

Asked = Literal["boxes", "points", "masks"]
Id = int | str
_REMEDY = Remedy(
    "Correct it, or choose another file: COCO's form has the lists images, annotations, categories.",
    ShardError,
)
_CORRECT = "Correct the file."
_LEAST_CORNERS = 6  # numbers, of three corners


class _Category(TypedDict):
    id: Id
    name: str
    keypoints: NotRequired[list[str]]


class _Picture(TypedDict):
    id: Id
    file_name: Annotated[str, Field(min_length=1)]
    width: NotRequired[int | None]
    height: NotRequired[int | None]


class _RunLengths(TypedDict):
    size: Annotated[list[int], Field(min_length=2, max_length=2)]
    counts: str | list[int]


class _Segment(TypedDict):
    id: int
    category_id: Id


class _Annotation(TypedDict):
    image_id: Id
    category_id: NotRequired[Id | None]
    iscrowd: NotRequired[int | None]
    segments_info: NotRequired[list[_Segment]]
    file_name: NotRequired[str]


class _Boxed(_Annotation):
    bbox: NotRequired[list[FiniteFloat] | None]


class _Posed(_Annotation):
    keypoints: NotRequired[list[FiniteFloat] | None]


class _Masked(_Annotation):
    segmentation: NotRequired[list[list[FiniteFloat]] | _RunLengths | None]


# Exporters leave what they do not use null, or in a form of their own: only what is asked for has to be COCO's.
_ANNOTATIONS = {"boxes": _Boxed, "points": _Posed, "masks": _Masked}


class Thing(NamedTuple):
    """An annotation.

    Attributes:
        category: id of its category; None: a picture of segments.
        crowd: it stands for many.
        value: its box [left, top, width, height]; its points [x, y, visibility, …]; its polygons or run lengths as
            JSON; of a picture of segments the file, and pairs of segment and category as JSON.
    """

    category: Id | None
    crowd: bool
    value: Any


class Listed(NamedTuple):
    """A picture of the file: path, height and width if they are said."""

    file: str
    size: tuple[int, int] | None


@dataclass
class CocoFile:
    """What a file holds of one label.

    Attributes:
        path: of it.
        names: id of each category -> its name, by id.
        points: id of a category -> the names of its keypoints.
        pictures: id -> picture.
        things: id of a picture -> its annotations.
        left_out: what is not taken -> how often.
        panoptic: its annotations are pictures of segments.
    """

    path: Path
    names: dict[Id, str] = field(default_factory=dict)
    points: dict[Id, list[str]] = field(default_factory=dict)
    pictures: dict[Id, Listed] = field(default_factory=dict)
    things: dict[Id, list[Thing]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    panoptic: bool = False

    @classmethod
    def read(cls, path: Path, asked: Asked, allow_missing: bool) -> "CocoFile":
        """Read a file.

        Args:
            path: the file.
            asked: what the labels are.
            allow_missing: annotations of pictures that the file does not list are left out, not refused.

        Raises:
            ShardError: it cannot be read, or contradicts itself.
        """
        file = cls(path)
        findings, categories = list[str](), list[tuple[Id, str]]()
        schemas = {"images": _Picture, "annotations": _ANNOTATIONS[asked], "categories": _Category}
        for key, place, item in read_lists(path, schemas, _REMEDY):
            if key == "categories":
                categories.append((item["id"], item["name"]))
                file.points[item["id"]] = item.get("keypoints", [])
            elif key == "images":
                findings += file._add_picture(item)
            elif (finding := file._add(item, asked)) is not None:
                findings.append(f"annotations[{place}] {finding}")
        if file.panoptic and any(
            thing.category is not None for found in file.things.values() for thing in found
        ):
            findings.append("some annotations are pictures of segments, others are objects")
        refuse(path, findings, _CORRECT)
        file._name(categories)
        file._refuse_strangers(allow_missing)
        return file

    def _name(self, categories: list[tuple[Id, str]]) -> None:
        numbers = Counter(number for number, _ in categories)
        refuse(
            self.path,
            [f"two categories have the id {shown(one)}" for one in numbers if numbers[one] > 1],
            _CORRECT,
        )
        if not categories:
            raise ShardError(f"{self.path}: `categories` is empty. {_CORRECT}")
        self.names = dict(sorted(categories, key=lambda one: (isinstance(one[0], str), one[0])))
        refuse_class_names(self.path, [*self.names.values()])

    def _add_picture(self, item: Any) -> list[str]:
        if item["id"] in self.pictures:
            return [f"two pictures have the id {shown(item['id'])}"]
        height, width = item.get("height"), item.get("width")
        self.pictures[item["id"]] = Listed(item["file_name"], (height, width) if height and width else None)
        return []

    def _add(self, item: Any, asked: Asked) -> str | None:
        """Keep an annotation, or count it as left out; what is wrong with it."""
        thing: Thing | str | None
        if asked == "masks" and "segments_info" in item:
            self.panoptic = True
            pairs = [[one["id"], one["category_id"]] for one in item["segments_info"]]
            thing = Thing(None, False, (item.get("file_name", ""), json.dumps(pairs)))
        elif item.get("category_id") is None:
            panoptic = " These are pictures of segments: write them with --label masks." * (
                "segments_info" in item
            )
            return f"has no category_id.{panoptic}"
        else:
            thing = {"boxes": self._box, "points": self._points, "masks": self._mask}[asked](item)
        if isinstance(thing, str):
            return thing
        if thing is not None:
            self.things.setdefault(item["image_id"], []).append(thing)
        return None

    def _box(self, item: Any) -> Thing | str | None:
        box = item.get("bbox")
        if box is None or len(box) != 4:
            return "has no `bbox: [left, top, width, height]`"
        if item.get("iscrowd"):
            self.left_out["boxes around crowds (iscrowd)"] += 1
            return None
        if min(box[2:]) < 0:
            return f"has a box of negative width or height, {box}"
        if min(box[2:]) == 0:
            self.left_out["boxes without area"] += 1
            return None
        return Thing(item["category_id"], False, box)

    def _points(self, item: Any) -> Thing | str | None:
        points = item.get("keypoints") or []
        if len(points) % 3:
            return f"has {len(points)} numbers in `keypoints`, and x, y, visibility are expected for each"
        return Thing(item["category_id"], bool(item.get("iscrowd")), points)

    def _mask(self, item: Any) -> Thing | str | None:
        shape = item.get("segmentation")
        if shape is None:
            return "has no `segmentation`. Boxes are written with --label boxes"
        if isinstance(shape, list):
            if any(len(polygon) % 2 for polygon in shape):
                return "has a polygon with an x without its y"
            whole = [polygon for polygon in shape if len(polygon) >= _LEAST_CORNERS]
            self.left_out["polygons of fewer than three corners"] += len(shape) - len(whole)
            if not whole:
                self.left_out["objects without an area"] += 1
                return None
            shape = whole
        return Thing(item["category_id"], bool(item.get("iscrowd")), json.dumps(shape))

    def _refuse_strangers(self, allow_missing: bool) -> None:
        """Annotations of pictures or categories that the file does not list; pictures that it lists twice."""
        strangers = {
            number: len(found) for number, found in self.things.items() if number not in self.pictures
        }
        if strangers and not allow_missing:
            raise ShardError(
                f"{self.path}: {sum(strangers.values()):,} annotations are of pictures that it does not list (image_id "
                f"{a_few([shown(one) for one in strangers], 5)}). {_CORRECT} Or leave them out with --allow-missing."
            )
        for number in strangers:
            del self.things[number]
        self.left_out["annotations of pictures that are not listed"] += sum(strangers.values())
        unknown: Counter[Id] = Counter(
            category
            for found in self.things.values()
            for thing in found
            for category in self.categories_of(thing)
            if category not in self.names
        )
        if unknown:
            raise ShardError(
                f"{self.path}: {unknown.total():,} annotations are of categories that it does not list (category_id "
                f"{a_few([shown(one) for one in unknown], 5)}). {_CORRECT}"
            )
        files = Counter(picture.file for picture in self.pictures.values())
        twice = [f"the picture {shown(one)} is listed {files[one]} times" for one in files if files[one] > 1]
        refuse(self.path, twice, _CORRECT)

    def categories_of(self, thing: Thing) -> list[Id]:
        """Of an annotation, or of the segments in its picture."""
        return (
            [thing.category] if thing.category is not None else [one for _, one in json.loads(thing.value[1])]
        )
