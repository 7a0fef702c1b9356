"""Two tasks of both kinds, their rows, their teachers and a student."""

import pytest
from evaluation_world import CLASSES, ListedRows, ToyStudent, ToyTeacher, make_rows
from torch import nn

from distill_mtl.tasks.base import TaskKind, build_kind


@pytest.fixture
def kinds() -> dict[str, TaskKind]:
    return {"word": build_kind("classification", CLASSES), "part": build_kind("segmentation", CLASSES)}


@pytest.fixture
def sources() -> ListedRows:
    return ListedRows(
        {
            ("word", "test"): make_rows("word", 90, dense=False, seed=1, rows_per_group=3),
            ("part", "test"): make_rows("part", 40, dense=True, seed=2),
            ("word", "validation"): make_rows("word", 30, dense=False, seed=3),
            ("part", "validation"): make_rows("part", 20, dense=True, seed=4),
        },
        hashed=("part",),
    )


@pytest.fixture
def teachers() -> dict[str, nn.Module | None]:
    return {"word": ToyTeacher(dense=False, seed=11), "part": ToyTeacher(dense=True, seed=12)}


@pytest.fixture
def student() -> ToyStudent:
    return ToyStudent(seed=13)
