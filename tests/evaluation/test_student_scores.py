"""The student alone, on validation rows while it trains and on training rows at the end."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from evaluation_world import CLASSES, ListedRows, make_rows
from torch import Tensor

from distill_mtl.errors import ShardError
from distill_mtl.evaluation.student_scores import LOOKS, MOST_ROWS, ValidationLooks, training_scores
from distill_mtl.tasks.base import build_kind

KINDS = {"hue": build_kind("classification", CLASSES)}


def recipe_of(batch_size: int) -> Any:
    return SimpleNamespace(
        seed=0, training=SimpleNamespace(batch_size=batch_size), evaluation=SimpleNamespace(batch_size=64)
    )


def rows(**splits: int) -> ListedRows:
    return ListedRows(
        {("hue", split): make_rows("hue", count, dense=False) for split, count in splits.items()}
    )


def first_class(images: Tensor) -> dict[str, Tensor]:
    return {"hue": torch.tensor([[1.0, 0.0, 0.0]]).repeat(len(images), 1)}


def test_a_run_is_looked_at_in_its_last_part_and_at_its_end() -> None:
    looks = ValidationLooks(rows(validation=100), KINDS, recipe_of(128), 1000)
    assert len(looks.after) == LOOKS
    assert min(looks.after) == 600
    assert max(looks.after) == 1000
    assert set(looks.scores(first_class)) == {"hue"}


@pytest.mark.parametrize(
    ("steps", "processes", "validation"),
    [(40, 1, 100), (1000, 20, 100), (1000, 1, 0)],
    ids=["too short", "a small share of the rows", "no rows"],
)
def test_a_run_is_not_looked_at_where_that_costs_too_much_or_there_are_no_rows(
    steps: int, processes: int, validation: int
) -> None:
    looks = ValidationLooks(rows(validation=validation), KINDS, recipe_of(128), steps, processes=processes)
    assert not looks.after


def test_rows_that_cannot_be_read_do_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    held = rows(validation=100, train=100)

    def damaged(*_: object, **__: object) -> None:
        raise ShardError("a picture is damaged")

    monkeypatch.setattr(held, "labelled", damaged)
    assert ValidationLooks(held, KINDS, recipe_of(128), 1000).scores(first_class) == {}
    assert training_scores(first_class, held, KINDS, recipe_of(128), most={"hue": 50}) == {}


def test_training_rows_are_scored_with_an_interval_on_a_few_rows() -> None:
    held = rows(train=2 * MOST_ROWS)
    found = training_scores(first_class, held, KINDS, recipe_of(128), most={"hue": 80})["hue"]
    assert found.rows == 80
    assert 0 < found.ci95[0] < found.score < found.ci95[1] < 100
    assert (
        training_scores(first_class, held, KINDS, recipe_of(128), most={"hue": 9999})["hue"].rows == MOST_ROWS
    )
    assert training_scores(first_class, rows(train=0), KINDS, recipe_of(128), most={"hue": 80}) == {}
