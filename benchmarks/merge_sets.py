"""The merges of the merge bench: their data, teachers, student and length.

A merge is a recipe without `optimizer` and `balance`, so that the bench measures what a user gets who names neither.
Shards and teachers are made once, in the work folder. `merges.py` runs them.
"""

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from distill_mtl.recipe import dump_recipe, load_recipe

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("DISTILL_MTL_DATA", ROOT.parent / "shared" / "data"))
SETS = {"train": "shards", "val": "validation", "test": "test"}
TEACHER = {"model": "resnet10t", "input_size": 32, "init": "random"}
PHOTO_TEACHER = {**TEACHER, "args": {"output_stride": 16}}
SMALL = {"model": "test_resnet", "input_size": 32, "init": "random"}
PHOTO_STUDENT = {**SMALL, "args": {"output_stride": 8}}
STREET = {**SMALL, "input_size": [96, 128]}
STREETS = [
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign",
    "fence",
    "car",
    "pedestrian",
    "cyclist",
]
VOID = 11
FEW = 100
"""Labels that each task keeps in the merges `-few`."""


@dataclass(frozen=True)
class Merge:
    """One merge.

    Attributes:
        about: a line for people.
        recipe: makes the recipe, given the work folder, which has the shards and teachers that it names.
        short: steps of the short budget; the long one is five times that.
        shards: what makes its shards in a folder, where it needs some.
        teachers: name -> the recipe of its training, given the work folder.
        loop_views: how the loop varies its pictures: `pad-crop` (and flips where the recipe flips), or the recipe's own
            views where labels move with the picture in ways that a short loop would not write.
        loop_optimizer: of the loop: sgd, or adamw for transformers.
        before: keys of the recipe as it was shipped when defaults were the old ones.
    """

    about: str
    recipe: Callable[[Path], dict[str, Any]]
    short: int
    shards: Mapping[str, Callable[[Path], None]] = field(default_factory=dict)
    teachers: Mapping[str, Callable[[Path], dict[str, Any]]] = field(default_factory=dict)
    loop_views: str = "pad-crop"
    loop_optimizer: str = "sgd"
    before: Mapping[str, Any] = field(default_factory=dict)

    def steps(self, budget: str) -> int:
        """Optimizer steps of a budget."""
        return self.short * {"short": 1, "long": 5}[budget]


OLD_TASK = {
    "temperature": 4.0,
    "soft_targets": "kl",
    "teacher_weight": {},
    "weights": {"supervised": 1.0, "soft_targets": 1.0, "hint": 0.1},
    "hints": [{}],
}
OLD_AUGMENT = {"crop": [0.5, 1.0], "flip": True, "color": 0.2}
OLD = {
    "optimizer": {
        "name": "adamw",
        "schedule": "cosine",
        "lr": 1e-3,
        "weight_decay": 0.05,
        "betas": [0.9, 0.999],
        "warmup": 0.05,
        "min_lr": 0.01,
    },
    "balance": {"method": "mgda_ub", "options": {"method": "exact", "normalize": "l2", "scale": "tasks"}},
    "training": {"precision": "fp32", "teachers_on": "missing", "clip": 1.0, "ema": None, "select": "last"},
}
"""The defaults as they were before issue 14. A default that is new since gets its old value here."""


def with_old_defaults(recipe: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with the old defaults written out; what it says itself stays, but for what it said before.

    Args:
        recipe: of a merge, its data sets in short form or under `data`.
        before: keys that the recipe of a merge had then.
    """
    old = merged(merged(OLD, recipe), before)
    for name, task in old["tasks"].items():
        sources = [task["data"]] if "data" in task else []
        old["tasks"][name] = merged(OLD_TASK, task)
        for source in sources:
            old["tasks"][name]["data"] = merged({"augment": OLD_AUGMENT}, source)
    for name, source in old.get("data", {}).items():
        old["data"][name] = merged({"augment": OLD_AUGMENT}, source)
    return old


def overrides(sets: Iterable[str], recipe: Mapping[str, Any]) -> list[str]:
    """The overrides of a variant for one merge: `*` stands for every task, in `data.*` for every data set.

    Args:
        sets: KEY=VALUE.
        recipe: of the merge, its data sets in short form or under `data`.
    """
    found = []
    for one in sets:
        if one.startswith("data.*."):
            rest = one.removeprefix("data.*.")
            own = [f"tasks.{name}.data" for name, task in recipe["tasks"].items() if "data" in task]
            found += [
                f"{place}.{rest}" for place in (*own, *(f"data.{name}" for name in recipe.get("data", {})))
            ]
        elif one.startswith("tasks.*."):
            found += [f"tasks.{name}.{one.removeprefix('tasks.*.')}" for name in recipe["tasks"]]
        else:
            found.append(one)
    return found


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings joined; what `above` says wins."""
    result = deepcopy(dict(below))
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else deepcopy(value)
    return result


# ---- recipes ------------------------------------------------------------------------------------------
def shipped(file: str) -> Callable[[Path], dict[str, Any]]:
    """A recipe of the project, without what chooses optimizer, rule and verdict."""

    def recipe(work: Path) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load((ROOT / "recipes" / file).read_text())
        for key in ("optimizer", "balance", "acceptance"):
            found.pop(key, None)
        found["training"].pop("steps", None)
        return found

    return recipe


def source(shards: Path, name: str, **keys: Any) -> dict[str, Any]:
    """The data section of shards `NAME-{train,val,test}-*.tar`."""
    paths = {key: str(shards / f"{name}-{split}-*.tar") for split, key in SETS.items()}
    return {
        "shards": paths["shards"],
        "split": {key: paths[key] for key in ("validation", "test")},
        **keys,
    }


def two_tasks(
    first: tuple[str, str],
    second: tuple[str, str],
    *,
    student: Mapping[str, Any] = PHOTO_STUDENT,
    limit: int | None = None,
    flip: bool = True,
) -> Callable[[Path], dict[str, Any]]:
    """Two classifiers and their data sets, each (name of the task, shards); `photos` are read where they lie."""

    def recipe(work: Path) -> dict[str, Any]:
        keys: dict[str, Any] = {} if limit is None else {"limit": limit}
        if not flip:
            keys["augment"] = {"flip": False}
        tasks = {
            name: {
                "teacher": str(work / "teachers" / name),
                "data": source(DATA / "photos" if shards == name else work / "shards" / shards, name, **keys),
            }
            for name, shards in (first, second)
        }
        return {"student": dict(student), "tasks": tasks, "training": {"batch_size": 128}}

    return recipe


def multimnist_recipe(work: Path) -> dict[str, Any]:
    """Both digits are labelled in every row, and both teachers speak about every row, the loop's to the end."""
    pairs = source(work / "shards" / "multimnist", "pairs", augment={"flip": False})
    return {
        "student": SMALL,
        "tasks": {task: {"teacher": str(work / "teachers" / task)} for task in ("left", "right")},
        "data": {"pairs": {**pairs, "labels": {"left": "left.cls", "right": "right.cls"}}},
        "training": {"batch_size": 128, "teachers_on": "annealed"},
    }


def camvid_recipe(work: Path) -> dict[str, Any]:
    """Half of the pictures have masks, the other half say which classes occur."""
    tasks = {
        name: {**section, "teacher": str(work / "teachers" / name)}
        for name, section in camvid_tasks(work).items()
    }
    return {"student": STREET, "tasks": tasks, "training": {"batch_size": 32}}


def camvid_tasks(work: Path) -> dict[str, dict[str, Any]]:
    folder = work / "shards" / "camvid"
    return {
        "street": {
            "kind": "segmentation",
            "classes": STREETS,
            "options": {"ignore_index": VOID},
            "data": source(folder, "street"),
        },
        "occurs": {
            "kind": "multilabel",
            "classes": STREETS,
            "data": source(folder, "occurs", augment={"crop": None}),
        },
    }


def teacher(
    task: str,
    data: Callable[[Path], dict[str, Any]],
    student: Mapping[str, Any],
    epochs: int,
    batch_size: int = 128,
    **keys: Any,
) -> Callable[[Path], dict[str, Any]]:
    """The recipe of a teacher's training; what decides about it is written out, so that it stays as it is."""

    def recipe(work: Path) -> dict[str, Any]:
        return {
            "name": f"teacher-{task}",
            "student": dict(student),
            "tasks": {task: {"data": data(work), **keys}},
            "optimizer": {"name": "adamw", "lr": 3e-3, "weight_decay": 0.05, "warmup": 0.05},
            "balance": "uniform",
            "training": {"epochs": epochs, "batch_size": batch_size, "precision": "bf16", "clip": 1.0},
        }

    return recipe


MILD = {"crop": [0.7, 1.0], "flip": True, "color": 0.2}
STILL = {"crop": [0.7, 1.0], "flip": False, "color": 0.2}
TEN = {"classes": 10}


def names_in(shards: Path) -> list[str]:
    """The classes of shards whose labels are names, in the order of the alphabet."""
    with tarfile.open(shards) as tar:
        files = (tar.extractfile(member) for member in tar if member.name.endswith(".cls"))
        return sorted({file.read().decode().strip() for file in files if file is not None})


def photo_teacher(task: str, epochs: int) -> Callable[[Path], dict[str, Any]]:
    def recipe(work: Path) -> dict[str, Any]:
        data = source(DATA / "photos", task, augment=MILD)
        classes = names_in(DATA / "photos" / f"{task}-val-000.tar")
        return teacher(task, lambda _: data, PHOTO_TEACHER, epochs, classes=classes)(work)

    return recipe


def grey_teacher(work: Path) -> dict[str, Any]:
    data = source(work / "shards" / "digits", "thing", augment=MILD | {"flip": False})
    classes = names_in(DATA / "photos" / "things-val-000.tar")
    return teacher("thing", lambda _: data, TEACHER, 20, classes=classes)(work)


# ---- shards -------------------------------------------------------------------------------------------
Row = Mapping[str, bytes]


def write_shards(folder: Path, name: str, rows: Iterable[Row], most: int = 5000) -> None:
    """Rows, each its members by file ending, as `NAME-00000.tar` and so on; the folder is there when they are whole."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = iter(rows)
    for number in count():
        some = list(islice(rows, most))
        if not some:
            return
        with tarfile.open(folder / f"{name}-{number:03d}.tar", "w") as tar:
            for place, row in enumerate(some, number * most):
                for ending, content in row.items():
                    member = tarfile.TarInfo(f"{name}{place:06d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W] or [H, W, 3] as a PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def read_idx(name: str) -> np.ndarray:
    """A gzipped IDX file of bytes of MNIST: two zeros, the type, the number of dimensions, the sizes, the values."""
    content = gzip.decompress((DATA / "mnist" / f"{name}.gz").read_bytes())
    sizes = np.frombuffer(content, ">u4", count=content[3], offset=4).astype(int)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(sizes)


def mnist(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Pictures uint8 [N, 28, 28] and labels [N] of a set: 20,000, 2,000 and 5,000 rows."""
    part = {"train": slice(20_000), "val": slice(58_000, 60_000), "test": slice(5_000)}[split]
    file = "t10k" if split == "test" else "train"
    return read_idx(f"{file}-images-idx3-ubyte")[part], read_idx(f"{file}-labels-idx1-ubyte")[part]


def digits_shards(folder: Path) -> None:
    """MNIST, and the photographs of things in grey at 28 pixels."""
    for split in SETS:
        images, labels = mnist(split)
        rows = (
            {"png": png(image), "cls": b"%d" % label} for image, label in zip(images, labels, strict=True)
        )
        write_shards(folder, f"digit-{split}", rows)
        write_shards(folder, f"thing-{split}", grey_rows(f"things-{split}-*.tar"))


def grey_rows(pattern: str) -> Iterator[Row]:
    """The rows of photographs in grey at 28 pixels."""
    for path in sorted((DATA / "photos").glob(pattern)):
        row: dict[str, bytes] = {}
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                row[member.name.partition(".")[2]] = file.read()
                if len(row) == 2:
                    small = (
                        Image.open(io.BytesIO(row["jpg"])).convert("L").resize((28, 28), Image.Resampling.BOX)
                    )
                    yield {"png": png(np.asarray(small)), "cls": row["cls"]}
                    row = {}


def multimnist_shards(folder: Path) -> None:
    """Two digits of MNIST in one picture, as in `multimnist.py`."""
    import torch
    from multimnist import compose

    for number, split in enumerate(SETS):
        images, labels = mnist(split)
        made = compose(torch.from_numpy(images.copy()), torch.from_numpy(labels.copy()), seed=number)
        rows = (
            {"png": png(image[0].numpy()), "left.cls": b"%d" % left, "right.cls": b"%d" % right}
            for image, left, right in zip(made.images, made.labels["left"], made.labels["right"], strict=True)
        )
        write_shards(folder, f"pairs-{split}", rows)


def camvid_shards(folder: Path) -> None:
    """Every second picture with its mask; the others with the classes that cover a thousandth of it."""
    for split in SETS:
        pictures = sorted((DATA / "camvid" / split / "images").iterdir())
        write_shards(folder, f"street-{split}", (street_row(path) for path in pictures[::2]))
        write_shards(folder, f"occurs-{split}", (occurs_row(path) for path in pictures[1::2]))


def mask_of(picture: Path) -> Path:
    return next((picture.parents[1] / "masks").glob(f"{picture.stem}.*"))


def street_row(picture: Path) -> Row:
    return {"jpg": picture.read_bytes(), "seg.png": mask_of(picture).read_bytes()}


def occurs_row(picture: Path) -> Row:
    counts = np.bincount(np.asarray(Image.open(mask_of(picture))).ravel(), minlength=VOID + 1)
    there = (counts[:VOID] > counts.sum() / 1000).astype(int).tolist()
    return {"jpg": picture.read_bytes(), "attributes.json": json.dumps(there).encode()}


# ---- the table ----------------------------------------------------------------------------------------
DIGITS = {"shards": {"digits": digits_shards}}
DIGIT_TEACHERS = {
    "digit": teacher(
        "digit", lambda work: source(work / "shards" / "digits", "digit", augment=STILL), TEACHER, 4, **TEN
    ),
    "thing": grey_teacher,
}


def pair_teacher(task: str) -> Callable[[Path], dict[str, Any]]:
    def recipe(work: Path) -> dict[str, Any]:
        found = teacher(task, lambda _: {}, TEACHER, 8, **TEN)(work)
        del found["tasks"][task]["data"]
        pairs = source(work / "shards" / "multimnist", "pairs", augment=STILL, labels={task: f"{task}.cls"})
        return {**found, "data": {"pairs": pairs}}

    return recipe


PAIR_TEACHERS = {task: pair_teacher(task) for task in ("left", "right")}
PHOTO_TEACHERS = {"animals": photo_teacher("animals", 20), "things": photo_teacher("things", 10)}


def street_teacher(task: str) -> Callable[[Path], dict[str, Any]]:
    def recipe(work: Path) -> dict[str, Any]:
        section = camvid_tasks(work)[task]
        data = merged({"augment": MILD}, section.pop("data"))
        return teacher(task, lambda _: data, {**TEACHER, "input_size": [96, 128]}, 60, 32, **section)(work)

    return recipe


PHOTOS = ("animals", "animals"), ("things", "things")
GREY = ("digit", "digits"), ("thing", "digits")
MERGES = {
    "quickstart": Merge(
        "two overlapping digits and their mask (recipes/multidigits.yaml)",
        shipped("multidigits.yaml"),
        300,
        before={"optimizer": {"lr": 3e-3}},
    ),
    "scenes": Merge(
        "five tasks on rendered scenes (recipes/scenes.yaml)",
        shipped("scenes.yaml"),
        200,
        loop_views="recipe",
        before={"optimizer": {"lr": 3e-3}},
    ),
    "multimnist": Merge(
        "left and right digit of MNIST, both labelled in every row",
        multimnist_recipe,
        400,
        shards={"multimnist": multimnist_shards},
        teachers=PAIR_TEACHERS,
        before={"training": {"teachers_on": "all"}},
    ),
    "digits": Merge(
        "MNIST beside photographs of things in grey at 28 px",
        two_tasks(*GREY, student=SMALL, flip=False),
        400,
        teachers=DIGIT_TEACHERS,
        **DIGITS,
    ),
    "digits-few": Merge(
        f"the same with {FEW} labels for each task",
        two_tasks(*GREY, student=SMALL, flip=False, limit=FEW),
        400,
        teachers=DIGIT_TEACHERS,
        **DIGITS,
    ),
    "photos": Merge(
        "animals and things in photographs at 32 px", two_tasks(*PHOTOS), 400, teachers=PHOTO_TEACHERS
    ),
    "photos-few": Merge(
        f"the same with {FEW} labels for each task",
        two_tasks(*PHOTOS, limit=FEW),
        400,
        teachers=PHOTO_TEACHERS,
    ),
    "camvid": Merge(
        "segmentation of streets, and which classes occur, on other halves of CamVid",
        camvid_recipe,
        200,
        shards={"camvid": camvid_shards},
        teachers={task: street_teacher(task) for task in ("street", "occurs")},
    ),
    "finetune": Merge(
        "photos, the student beginning with the trunk of the teacher of animals",
        two_tasks(*PHOTOS, student={**PHOTO_TEACHER, "init": "teacher:animals"}),
        150,
        teachers=PHOTO_TEACHERS,
    ),
    "vit": Merge(
        "photos, with a small vision transformer",
        two_tasks(*PHOTOS, student={**SMALL, "model": "test_vit", "args": {"patch_size": 4}}),
        200,
        teachers=PHOTO_TEACHERS,
        loop_optimizer="adamw",
    ),
}


def recipe_of(merge: Merge, work: Path, *, seed: int, steps: int, old: bool = False) -> dict[str, Any]:
    """The recipe of one run: that of the merge, with seed and length; `old`: under the old defaults."""
    recipe = merge.recipe(work)
    recipe = with_old_defaults(recipe, merge.before) if old else deepcopy(recipe)
    # Only the bench's own scores are shown, so the run's own intervals may be coarse.
    own = {"seed": seed, "training": {"steps": steps}, "acceptance": 100, "evaluation": {"bootstrap": 100}}
    return merged(recipe, {**own, "targets": "live"})


def write_recipe(recipe: Mapping[str, Any], folder: Path) -> Path:
    """The recipe as a file in the folder."""
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(dict(recipe), sort_keys=False))
    return file


def long_form(file: Path, sets: Iterable[str] = ()) -> str:
    """The recipe with every default of today, whatever checkout it is read from."""
    return dump_recipe(load_recipe(file, list(sets))).replace(str(ROOT), ".")
