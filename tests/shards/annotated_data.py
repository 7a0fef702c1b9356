"""Small data sets in the forms of COCO, YOLO and PASCAL VOC, as their tools write them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from people_data import save_picture
from PIL import Image

HEIGHT, WIDTH = 24, 32
POLYGON = [4, 4, 14, 4, 14, 16, 4, 16]


def coco(folder: Path, split: str = "train", **changed: Any) -> dict[str, Any]:
    """Three pictures in FOLDER/SPLIT2017 and their file; ids have gaps, and the last picture shows nothing."""
    content: dict[str, Any] = {
        "info": {"year": 2017, "contributor": [{"nested": [1, 2]}]},
        "annotations": [
            annotation(1, 10, 7, [4, 4, 10, 12], [POLYGON]),
            annotation(2, 10, 3, [8.5, 6, 12, 9.25], [[8.5, 6, 20.5, 6, 20.5, 15.25, 8.5, 15.25]]),
            annotation(
                3, 25, 7, [0, 0, 20, 20], {"size": [HEIGHT, WIDTH], "counts": [5, 20, HEIGHT * WIDTH - 25]}, 1
            ),
            annotation(4, 25, 7, [2, 3, 8, 0], [[1, 1]]),
            annotation(5, 25, 90, [20, 10, 6, 6], [[20, 10, 26, 10, 23, 16]]),
        ],
        "images": [
            {"id": number, "file_name": f"{split}-{number}.png", "width": WIDTH, "height": HEIGHT}
            for number in (10, 25, 31)
        ],
        "categories": [{"id": 7, "name": "cup"}, {"id": 90, "name": "spoon"}, {"id": 3, "name": "table"}],
    } | changed
    for picture in content["images"]:
        save_picture(
            folder / f"{split}2017" / picture["file_name"], picture["id"], height=HEIGHT, width=WIDTH
        )
    write_json(folder / "annotations" / f"instances_{split}2017.json", content)
    return content


def annotation(
    number: int, image: Any, category: Any, box: Sequence[float], segmentation: Any, crowd: int = 0
) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": box,
        "segmentation": segmentation,
        "iscrowd": crowd,
        "area": box[-2] * box[-1],
    }


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


LINES = {
    "a": "1 0.5 0.5 0.25 0.5\n0 0.25 0.25 0.125 0.25\n",
    "b": "",
    "c": "0 0.1 0.1 0.6 0.1 0.6 0.7 0.1 0.7\n",
}


def yolo(folder: Path, lines: Mapping[str, str | None] = LINES, split: str = "train", **changed: Any) -> Path:
    """Pictures in FOLDER/images/SPLIT, lines in FOLDER/labels/SPLIT (None: no file), and data.yaml."""
    data: dict[str, Any] = {"train": "images/train", "names": {0: "cup", 1: "spoon"}, "nc": 2} | changed
    for number, (name, text) in enumerate(lines.items()):
        save_picture(folder / "images" / split / f"{name}.png", number, height=HEIGHT, width=WIDTH)
        if text is not None:
            path = folder / "labels" / split / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    (folder / "data.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return folder


VOC = {
    "2007_000027": [("person", (5, 3, 14, 22), 0), ("cat", (1, 1, 32, 24), 0), ("cat", (2, 2, 4, 4), 1)],
    "2007_000032": [],
    "2007_000039": [("aeroplane", (10, 10, 10.5, 20), 0)],
}
Things = Sequence[tuple[str, tuple[float, float, float, float], int]]


def voc(
    folder: Path,
    rows: Mapping[str, Things] = VOC,
    lists: Mapping[str, Sequence[str]] | None = None,
    database: str = "The VOC2007 Database",
) -> Path:
    """Annotations, pictures, lists and masks."""
    for number, (name, things) in enumerate(rows.items()):
        save_picture(folder / "JPEGImages" / f"{name}.png", number, height=HEIGHT, width=WIDTH)
        write_xml(folder / "Annotations" / f"{name}.xml", things, database=database)
        save_palette(folder / "SegmentationClass" / f"{name}.png", number)
    for name, listed in ({"train": list(rows)} if lists is None else lists).items():
        for kind in ("Main", "Segmentation"):
            path = folder / "ImageSets" / kind / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{one}\n" for one in listed))
    return folder


def write_xml(path: Path, things: Things, width: int = WIDTH, database: str = "Unknown") -> Path:
    objects = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox><part><name>head</name></part></object>"
        for name, (left, top, right, bottom), difficult in things
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    size = f"<size><width>{width}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    source = f"<source><database>{database}</database></source>"
    path.write_text(f"<annotation><filename>{path.stem}.jpg</filename>{source}{size}{objects}</annotation>")
    return path


def palette_numbers(number: int) -> np.ndarray:
    """uint8 [H, W]: classes 0 and 15, and 255 around them."""
    numbers = np.where(np.random.RandomState(number).rand(HEIGHT, WIDTH) < 0.5, 0, 15).astype(np.uint8)
    numbers[:2] = 255
    return numbers


def save_palette(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(palette_numbers(number), "P")
    picture.putpalette([value for colour in range(256) for value in (colour, 255 - colour, colour // 2)])
    picture.save(path)


def mask_picture(number: int) -> Image.Image:
    """Of two classes, in the size of `people_data.pixels`."""
    return Image.fromarray(palette_numbers(number)[:6, :8] % 2)
