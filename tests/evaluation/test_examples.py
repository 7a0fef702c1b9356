"""Examples of every task, and the picture that shows them."""

from collections.abc import Mapping

import numpy as np
import torch
from evaluation_world import ListedRows, ToyStudent
from PIL import Image
from torch import nn

from distill_mtl.evaluation import Comparison, EvaluationSet, Processes
from distill_mtl.evaluation.examples import examples, examples_of
from distill_mtl.report.sample_grid import sample_grid
from distill_mtl.tasks.base import TaskKind

Kinds = Mapping[str, TaskKind]
Teachers = Mapping[str, nn.Module | None]


def test_every_task_shows_image_label_teacher_and_student(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    found = examples(Comparison(student, teachers, kinds, EvaluationSet(sources, "test")), count=2)
    assert {task: len(rows) for task, rows in found.items()} == {"word": 2, "part": 2}
    word = found["word"][0]
    rows = sources.rows["word", "test"]
    assert word.label.caption == kinds["word"].classes[int(rows.labels["word"][0])]
    assert word.image.picture is not None
    assert torch.equal(word.image.picture, rows.images[0])
    assert word.student.caption.split()[0] in kinds["word"].classes
    part = found["part"][0].label.picture
    assert part is not None
    assert part.shape == (3, 8, 8)


def test_one_process_shows_all_rows_whatever_the_number_of_processes(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    alone = examples(Comparison(student, teachers, kinds, EvaluationSet(sources, "test")), count=3)
    first = examples(
        Comparison(
            student, teachers, kinds, EvaluationSet(sources, "test", processes=Processes(rank=0, world=2))
        ),
        count=3,
    )
    assert [row.key for row in first["word"]] == [row.key for row in alone["word"]]


def test_a_line_for_each_task_and_no_column_for_a_missing_teacher(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    view = EvaluationSet(sources, "test")
    both = sample_grid(examples(Comparison(student, teachers, kinds, view)))
    one = sample_grid(examples(Comparison(student, teachers, {"part": kinds["part"]}, view)))
    untaught = sample_grid(examples(Comparison(student, {}, {"part": kinds["part"]}, view)))
    assert both.size[1] > one.size[1]
    assert one.size[0] > untaught.size[0]
    assert both.size[0] == one.size[0]


def test_the_pixels_of_a_label_are_on_the_sheet(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    found = examples(
        Comparison(student, teachers, {"part": kinds["part"]}, EvaluationSet(sources, "test")), count=1
    )
    label = found["part"][0].label.picture
    assert label is not None
    enlarged = np.asarray(
        Image.fromarray(label.permute(1, 2, 0).numpy()).resize((112, 112), Image.Resampling.NEAREST)
    )
    sheet = np.asarray(sample_grid(found))
    windows = np.lib.stride_tricks.sliding_window_view(sheet, enlarged.shape)[:, :, 0]
    assert any((windows[top, left] == enlarged).all() for top in range(60) for left in range(200))


def test_rows_asked_for_by_key_come_in_that_order(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    keys = sources.rows["word", "test"].keys
    asked = [keys[4], keys[1], "no/such/row"]
    found = examples_of(
        {"word": asked, "part": []}, Comparison(student, teachers, kinds, EvaluationSet(sources, "test"))
    )
    assert {task: [row.key for row in rows] for task, rows in found.items()} == {"word": asked[:2]}


def test_a_legend_stands_beside_the_name_of_its_task(
    student: ToyStudent, teachers: Teachers, kinds: Kinds, sources: ListedRows
) -> None:
    found = examples(
        Comparison(student, teachers, {"part": kinds["part"]}, EvaluationSet(sources, "test")), count=2
    )
    legend = kinds["part"].legend()
    assert set(kinds["part"].classes) < set(legend.colors)
    plain, explained = (np.asarray(sample_grid(found, each)) for each in (None, {"part": legend}))
    assert plain.shape == explained.shape
    color = np.array(legend.colors[kinds["part"].classes[1]])
    first_line = slice(0, 28)
    assert (explained[first_line] == color).all(-1).any()
    assert not (plain[first_line] == color).all(-1).any()
