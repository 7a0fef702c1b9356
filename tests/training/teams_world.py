"""A small world on disk of two teams: each has trained a network for its own classes, and labelled its own pictures.

Pictures are noise with a brighter channel; what is there is told by the channels: red, green and blue.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import toy_world
import toys

from distill_mtl.tasks.base import build_kind

ROWS = 24
COLORS = ("red", "green", "blue")
SPLITS = ("train", "validation", "test")
MEMBERS = {
    "classification": "cls",
    "multilabel": "attributes.json",
    "segmentation": "seg.png",
    "heatmap": "boxes.json",
}


def build(
    folder: Path, kind: str, teams: dict[str, Sequence[str]], *, knows: bool = True, more: str = ""
) -> Path:
    """Write shards, teachers and a recipe with one task `paint` of this kind.

    Args:
        folder: for everything.
        kind: of the task.
        teams: name -> the classes that its network knows and its labels tell of; of a segmentation without background.
        knows: whether the recipe says what each data set knows.
        more: further keys of the task.
    """
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    teachers, data = [], []
    for number, (team, classes) in enumerate(teams.items(), start=1):
        for split in SPLITS:
            rows = _rows(f"{team}-{split}", generator, kind, classes)
            toy_world.write_rows(folder / f"{team}-{split}.tar", rows)
        teacher(folder, kind, team, classes, seed=number)
        teachers.append(f"{{path: {folder}/models/{team}, expect: 0, precision: fp32}}")
        said = f", knows: [{', '.join(classes)}]" if knows else ""
        data.append(
            f"  {team}:\n    shards: {folder}/{team}-train.tar\n"
            f"    split: {{validation: {folder}/{team}-validation.tar, test: {folder}/{team}-test.tar}}\n"
            f"    labels: {{paint: {{member: {MEMBERS[kind]}{said}}}}}\n"
        )
    recipe = folder / "teams.yaml"
    recipe.write_text(
        'student: {model: "toy:net", init: random}\n'
        f"tasks:\n  paint:\n    kind: {kind}\n    teacher: [{', '.join(teachers)}]\n{more}"
        f"data:\n{''.join(data)}"
        "training: {steps: 4, batch_size: 12, log_every: 2, precision: fp32, checkpoint_every: 2}\n"
        "evaluation: {bootstrap: 100}\nacceptance: 100\n"
    )
    return recipe


def teacher(folder: Path, kind: str, team: str, classes: Sequence[str], *, seed: int) -> None:
    """Write a team's network, which has random weights."""
    own = (["background"] if kind == "segmentation" else []) + list(classes)
    toys.toy_teacher_folder(folder / "models" / team, "paint", build_kind(kind, own), seed=seed)


def _rows(
    stem: str, generator: np.random.Generator, kind: str, classes: Sequence[str]
) -> Iterator[dict[str, str | bytes]]:
    for row in range(ROWS):
        pixels = generator.integers(0, 120, (toys.SIZE, toys.SIZE, 3)).astype(np.uint8)
        color = classes[row % len(classes)] if kind == "classification" else COLORS[row % 3]
        pixels[..., COLORS.index(color)] += 120
        label = _label(kind, classes, color, pixels)
        yield {"__key__": f"{stem}-{row:03d}", "png": toy_world.png(pixels), MEMBERS[kind]: label}


def _label(kind: str, classes: Sequence[str], color: str, pixels: np.ndarray) -> bytes:
    """As the team writes it: of what it does not know it says no, or nothing."""
    if kind == "classification":
        return color.encode()
    if kind == "multilabel":
        return json.dumps({one: int(one == color) for one in COLORS}).encode()
    if kind == "heatmap":
        box = {"class": color, "box": [1, 1, 4, 4]}
        return json.dumps([box] if color in classes else []).encode()
    # Class numbers of the union: background, red, green, blue.
    shown = pixels[..., COLORS.index(color)] > 150
    number = 1 + COLORS.index(color) if color in classes else 0
    return toy_world.png((shown * number).astype(np.uint8))
