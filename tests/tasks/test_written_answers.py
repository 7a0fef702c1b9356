"""Answers on disk: plain values for JSON, labels that are read as what was answered, and places in the picture."""

import json
import math

import pytest
import torch
from kind_examples import CLASSES, EXAMPLES
from torch import Tensor

from distill_mtl.errors import UserError
from distill_mtl.geometry.views import View
from distill_mtl.tasks.base import TaskKind, build_kind

SIZE = (6, 9)
NAMES = [*EXAMPLES, "heatmap"]


def kind_of(name: str) -> TaskKind:
    return build_kind(name, CLASSES) if name == "heatmap" else EXAMPLES[name].kind(name)


def answered(kind: TaskKind, size: tuple[int, int] = SIZE) -> dict[str, Tensor]:
    """One row's answers."""
    if kind.name == "heatmap":
        logits = torch.full((1, kind.outputs, 6, 9), -9.0)
        logits[0, 0, 1, 2], logits[0, 1, 4, 6] = 3.0, 2.0
        logits[0, len(kind.classes) :] = 0.5
        if kind.extra_channels == 4:
            logits[0, len(kind.classes) : len(kind.classes) + 2] = 2.0
    else:
        logits = EXAMPLES[kind.name].draw(kind)[0][:1]
    return {name: value[0] for name, value in kind.decode(logits, size).items()}


_WRITTEN = ("label", "values", "depth", "normals", "embedding")
"""Names of the answers that are written as they are."""


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_written_as_a_label_is_read_as_itself(name: str) -> None:
    kind = kind_of(name)
    decoded = answered(kind)
    member, content = kind.write_label(decoded)
    assert member in kind.member.split(";")
    label = kind.read_label(content)
    assert kind.has_label(label)
    if name == "heatmap":
        assert label[:2, 0].tolist() == [0, 1]
        assert label[2:, 0].eq(-1).all()
        left, top, right, bottom = decoded["boxes"][0].tolist()
        assert label[0, 1:].tolist() == pytest.approx(
            [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
        )
        return
    wanted = next(value for key, value in decoded.items() if key in _WRITTEN)
    assert label.shape == wanted.shape
    torch.testing.assert_close(
        label.to(wanted.dtype), wanted, atol=0.01 if name == "normals" else 1e-6, rtol=0
    )


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_strict_json(name: str) -> None:
    kind = kind_of(name)
    said = kind.answers(answered(kind), top=2)
    assert json.loads(json.dumps(said, allow_nan=False)) == said


def test_the_likeliest_classes_come_with_their_probabilities() -> None:
    kind = build_kind("classification", CLASSES)
    decoded = {"probabilities": torch.tensor([0.2, 0.7, 0.1]), "label": torch.tensor(1)}
    assert kind.answers(decoded) == {"label": "dog", "probability": 0.7}
    assert kind.answers(decoded, top=2)["top"] == [
        {"label": "dog", "probability": 0.7},
        {"label": "cat", "probability": 0.2},
    ]
    assert len(kind.answers(decoded, top=9)["top"]) == 3


def test_numbers_have_their_names_and_what_is_no_number_is_unknown() -> None:
    kind = build_kind("regression", ["yaw", "pitch"])
    decoded = {"values": torch.tensor([12.5, math.inf])}
    assert kind.answers(decoded) == {"values": {"yaw": 12.5, "pitch": None}}
    assert kind.read_label(kind.write_label(decoded)[1])[1].isnan()


def test_a_segmentation_tells_the_share_of_each_class_that_is_there() -> None:
    kind = build_kind("segmentation", CLASSES)
    assert kind.answers({"label": torch.tensor([[2, 2, 2, 0, 255]])}) == {
        "pixels": {"bird": 0.75, "cat": 0.25}
    }


def test_masks_of_many_classes_have_16_bits_and_more_is_refused() -> None:
    kind = build_kind("segmentation", [f"c{place}" for place in range(300)], ignore_index=70_000)
    label = torch.tensor([[0, 299]])
    assert torch.equal(kind.read_label(kind.write_label({"label": label})[1]), label)
    with pytest.raises(UserError, match="at most 16 bits"):
        kind.write_label({"label": torch.tensor([[0, 70_000]])})


def test_only_objects_that_are_likely_enough_are_told_strongest_first() -> None:
    kind = build_kind("heatmap", CLASSES)
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 1, 4, 3], [5, 5, 6, 6]])
    decoded = {"boxes": boxes, "scores": torch.tensor([0.4, 0.9, 0.29]), "label": torch.tensor([0, 2, 1])}
    assert kind.answers(decoded)["objects"] == [
        {"class": "bird", "box": [1, 1, 3, 2], "score": 0.9},
        {"class": "cat", "box": [0, 0, 2, 2], "score": 0.4},
    ]


def test_points_are_told_as_points() -> None:
    kind = build_kind("heatmap", CLASSES, form="points")
    [first, second] = kind.answers(answered(kind))["objects"]
    assert first["class"] == "cat"
    assert first["point"] == pytest.approx([2.5, 1.5])
    assert kind.read_label(json.dumps([first, second]).encode())[1, 1:3].tolist() == pytest.approx([6.5, 4.5])


CENTRE, PADDED = View(0, 2, 6, 6), View(-2, 0, 10, 9)


@pytest.mark.parametrize("name", ["segmentation", "depth", "normals"])
@pytest.mark.parametrize("view", [CENTRE, PADDED])
def test_maps_lie_where_the_view_was_and_beyond_it_is_no_label(name: str, view: View) -> None:
    kind = kind_of(name)
    decoded = answered(kind, (view.height, view.width))
    placed = kind.to_picture(decoded, view, SIZE)
    # Cutting the view out of the picture again gives what was answered, but for what lay beyond it.
    [(key, whole)] = placed.items()
    assert whole.shape[-2:] == SIZE
    back = view.map(whole, (view.height, view.width), 0)
    inside = back if view == CENTRE else back[..., 2:8, :]
    assert torch.equal(inside, decoded[key] if view == CENTRE else decoded[key][..., 2:8, :])
    label = kind.read_label(kind.write_label(placed)[1])
    if view == CENTRE:
        nothing = label[..., :2]
        filler = kind.filler(SIZE)[..., :2]
        assert torch.equal(nothing, filler)


def test_boxes_move_with_the_view_and_end_at_the_pictures_border() -> None:
    kind = build_kind("heatmap", CLASSES)
    boxes = torch.tensor([[0.0, 0, 2, 3], [1, 0, 3, 1]])
    decoded = {"boxes": boxes, "scores": torch.tensor([0.9, 0.8]), "label": torch.tensor([0, 1])}
    placed = kind.to_picture(decoded, View(-2, 1, 10, 9), SIZE)
    # The second lies in the padded part alone, and is no answer about the picture.
    assert kind.answers(placed)["objects"] == [{"class": "cat", "box": [1, 0, 2, 1], "score": 0.9}]


def test_a_kind_of_ones_own_that_does_not_write_labels_says_so() -> None:
    class Own(type(build_kind("classification", CLASSES))):  # type: ignore[misc]
        name = "own:Kind"
        write_label = TaskKind.write_label
        answers = TaskKind.answers

    own = Own(CLASSES)
    decoded = {"values": torch.tensor([1.0, math.nan]), "map": torch.zeros(2, 3)}
    assert own.answers(decoded) == {"values": [1.0, None], "map": {"shape": [2, 3]}}
    with pytest.raises(UserError, match="define `write_label`"):
        own.write_label(decoded)
