"""A run of random networks for five kinds of task, pictures without labels, and a truth about them."""

import csv
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import toys
from PIL import Image

from distill_mtl.students.student_folder import save_student
from distill_mtl.tasks.base import TaskKind, build_kind
from distill_mtl.untrusted_text import from_sheet_cell

PICTURES = 60
KINDS: dict[str, TaskKind] = {
    "hue": build_kind("classification", ("red", "green", "blue")),
    "shape": build_kind("segmentation", ("ground", "thing")),
    "pose": build_kind("regression", ("yaw", "pitch"), "mae"),
    "traits": build_kind("multilabel", ("big", "=wet")),  # which a spreadsheet would take for a formula
    "things": build_kind("heatmap", ("cup", "pen"), top=4),
}
_RECIPE = """
student: {model: "toy:net", init: random}
tasks:
TASKS
training: {steps: 6, batch_size: 12}
evaluation: {batch_size: 16}
acceptance: MARGINS
"""
_TASK = "  NAME: {kind: KIND, METRIC, teacher: FOLDER/teachers/NAME, data: {shards: FOLDER/NAME.tar}}"


def build(folder: Path, tasks: tuple[str, ...] = tuple(KINDS)) -> Path:
    """The run's folder, beside `teachers/` and `photos/`."""
    kinds, lines = {task: KINDS[task] for task in tasks}, []
    for seed, (task, kind) in enumerate(kinds.items(), 1):
        toys.toy_teacher_folder(folder / "teachers" / task, task, kind, seed=seed)
        line = (
            _TASK.replace("NAME", task).replace("KIND", kind.name).replace("METRIC", f"metric: {kind.metric}")
        )
        lines.append(line.replace("FOLDER", str(folder)))
    run = folder / "run"
    run.mkdir(parents=True)
    margins = "{pose: 3}" if "pose" in tasks else "1"
    recipe = _RECIPE.replace("TASKS", "\n".join(lines)).replace("MARGINS", margins)
    (run / "recipe.resolved.yaml").write_text(recipe)
    student = toys.toy_student(kinds, seed=9)
    for head in student.heads.values():
        for parameter in head.parameters():
            parameter.data *= 5
    save_student(student, run / "student")
    (folder / "photos").mkdir()
    for number in range(PICTURES):
        Image.fromarray(pixels(number)).save(folder / "photos" / f"{number:03d}.png")
    return run


def pixels(number: int) -> np.ndarray:
    """uint8 [8, 8, 3]."""
    draws = np.random.default_rng(number)
    picture = draws.integers(0, 120, (toys.SIZE, toys.SIZE, 3))
    picture[..., draws.integers(3)] += 120
    return picture.astype(np.uint8)


def truth(task: str, number: int) -> Any:
    """The label of a picture: a class, a mask, numbers or attributes by name, objects."""
    draws = np.random.default_rng((number, list(KINDS).index(task)))
    if task == "hue":
        return KINDS[task].classes[pixels(number).sum((0, 1)).argmax()]
    if task == "shape":
        return (pixels(number)[..., 0] > 128).astype(np.uint8)
    if task == "pose":
        return {name: round(float(draws.normal(0, 10)), 3) for name in KINDS[task].classes}
    if task == "traits":
        return {name: int(draws.integers(2)) for name in KINDS[task].classes}
    boxes = [[float(side) for side in draws.integers(1, 4, 4)] for _ in range(draws.integers(3))]
    return [{"class": str(draws.choice(KINDS[task].classes)), "box": box} for box in boxes]


def numbers(folder: Path) -> dict[str, int]:
    """Row -> number of its picture."""
    return {row: int(key[:3]) for row, key in json.loads((folder / "ask.json").read_text())["keys"].items()}


def lines_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "answers.csv", newline="") as file:
        return list(csv.DictReader(file))


def write_lines(path: Path, lines: list[Mapping[str, str]]) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ["row", "picture", "task", "name", "answer"])
        writer.writeheader()
        writer.writerows(lines)
    return path


def fill(folder: Path, some: Callable[[int], bool] = lambda place: True, to: str = "answers.csv") -> Path:
    """Answer the lines of the table for whose place in it `some` holds; masks are files beside it."""
    named, lines = numbers(folder), lines_of(folder)
    for place, line in enumerate(lines):
        if not some(place):
            continue
        said = truth(line["task"], named[line["row"]])
        if line["task"] == "shape":
            write_mask(folder / "masks" / f"{line['row']}.png", said)
            line["answer"] = f"masks/{line['row']}.png"
        elif line["name"]:
            line["answer"] = str(said[from_sheet_cell(line["name"])])
        else:
            line["answer"] = said if isinstance(said, str) else json.dumps(said)
    return write_lines(folder / to, [*lines])


def png_of(array: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(array).save(encoded, "PNG")
    return encoded.getvalue()


def write_mask(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_of(mask))
