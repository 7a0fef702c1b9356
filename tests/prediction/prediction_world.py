"""A student of every kind of task with random weights, and pictures to show it."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from toys import toy_student

from distill_mtl.students.student_folder import save_student
from distill_mtl.tasks.base import build_kind

KINDS = {
    "breed": build_kind("classification", ["cat", "dog", "owl"]),
    "part": build_kind("segmentation", ["ground", "thing"]),
    "far": build_kind("depth"),
    "facing": build_kind("normals"),
    "traits": build_kind("multilabel", ["big", "wet"]),
    "pose": build_kind("regression", ["yaw", "pitch"]),
    "things": build_kind("heatmap", ["cup", "pen"], top=4),
}


def student_folder(folder: Path, resize: str | None = None) -> Path:
    student = toy_student(KINDS)
    with torch.no_grad():
        for head in student.heads.values():
            for parameter in head.parameters():
                parameter.mul_(4)  # answers that differ between pictures
    save_student(student, folder, extra={"resize": resize} if resize else None)
    return folder


def pixels(seed: int, height: int = 12, width: int = 20) -> np.ndarray:
    """uint8 [H, W, 3], coarse, so that what survives of it differs between pictures."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST))


def picture(path: Path, seed: int, **size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, **size)).save(path)
    return path


def shard(path: Path, rows: dict[str, bytes | None]) -> Path:
    """Rows of a PNG picture each; None: a row without one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, content in rows.items():
            members = {f"{key}.cls": b"0"} | ({f"{key}.png": content} if content is not None else {})
            for name, payload in members.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(payload)
                archive.addfile(entry, io.BytesIO(payload))
    return path


def png(seed: int) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray(pixels(seed)).save(encoded, "PNG")
    return encoded.getvalue()


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]
