"""The label of a kind of task: what is written is read back, cells of a table become labels, and counts add up."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from distill_mtl.errors import UserError
from distill_mtl.tasks.base import KINDS, build_kind, kinds_by_member
from distill_mtl.tasks.label import LabelCounts, NumberStats, class_text, list_classes


def test_every_label_has_one_built_in_kind_and_every_kind_a_label() -> None:
    owners = kinds_by_member()
    built_in = {ending: [kind for kind in kinds if ":" not in kind] for ending, kinds in owners.items()}
    assert all(len(kinds) == 1 for kinds in built_in.values())
    assert {kinds[0] for kinds in built_in.values()} == {kind for kind in KINDS.names() if ":" not in kind}


def test_of_more_objects_than_a_label_holds_the_strongest_are_written() -> None:
    kind = build_kind("heatmap", ["cup"], max_objects=2, top=4)
    decoded = {
        "boxes": torch.tensor([[0.0, 0, 2, 2], [1, 1, 4, 4], [2, 2, 5, 5], [0, 0, 6, 6]]),
        "scores": torch.tensor([0.5, 0.9, 0.8, 0.6]),
        "label": torch.zeros(4, dtype=torch.long),
    }
    ending, payload = kind.checked_label(decoded)
    assert ending == "boxes.json"
    assert [thing["score"] for thing in json.loads(payload)] == pytest.approx([0.9, 0.8])
    assert kind.read_label(payload)[:, 1].tolist() == [2.5, 3.5]


def test_an_answer_that_no_label_can_hold_is_refused() -> None:
    kind = build_kind(
        "classification", ["1", "0"]
    )  # '0' is the number of one class and the name of the other
    with pytest.raises(UserError, match=r"kind classification.*'0'.*class number 0"):
        kind.checked_label({"label": torch.tensor(0)})


@pytest.mark.parametrize(
    ("kind", "cells", "payload"),
    [
        ("classification", {"breed": " cat "}, b"cat"),
        ("classification", {"digit": "007"}, b"7"),
        ("classification", {"digit": 7}, b"7"),
        ("multilabel", {"wet": "-1", "big": "yes", "old": ""}, b'{"wet": 0, "big": 1, "old": null}'),
        ("multilabel", {"wet": True}, b'{"wet": 1}'),
        ("regression", {"yaw": "1.50", "pitch": "?"}, b'{"yaw": 1.5, "pitch": null}'),
        ("regression", {"yaw": "3.0"}, b"3"),
        ("heatmap", {"things": "[]"}, b"[]"),
        (
            "heatmap",
            {"things": [{"class": "ü", "box": [0, 0, 1, 1]}]},
            '[{"class": "ü", "box": [0, 0, 1, 1]}]'.encode(),
        ),
    ],
)
def test_cells_of_a_table_become_a_label(kind: str, cells: dict[str, Any], payload: bytes) -> None:
    assert KINDS[kind].label_from_cells(cells) == payload


def test_classes_come_from_columns_or_from_the_labels_themselves() -> None:
    assert KINDS["multilabel"].classes_in([b'{"a": 1, "b": 0}'], ["a", "b"]) == ("a", "b")
    assert KINDS["classification"].classes_in([b"dog", b"cat", b"dog"], ["breed"]) == ("cat", "dog")
    assert KINDS["classification"].classes_in([b"3", b"0"], ["digit"]) == 4
    things = [b'[{"class": "cup"}, {"class": "arm"}]', b"[]", b"7", b'[{"box": 1}]']
    assert KINDS["heatmap"].classes_in(things, ["things"]) == ("arm", "cup")
    assert KINDS["segmentation"].classes_in([], ["mask"]) is None
    assert KINDS["depth"].classes_in([], ["depth"]) is None
    assert list_classes(map(class_text, ("007", "2"))) == 8
    with pytest.raises(ValueError, match="'1' could be"):
        list_classes(["1", "cat", "dog"])


def test_many_numbered_classes_are_built_in_no_time() -> None:
    """A mask of 16 bits numbers 65,536 classes, and who writes it does not know how many there are."""
    names = tuple(map(str, range(KINDS["segmentation"].open_classes)))
    kind = build_kind("segmentation", names)
    assert kind.read_label(kind.write_label({"label": torch.tensor([[65_535, 0]])})[1]).tolist() == [
        [65_535, 0]
    ]


def test_counts_of_parts_add_up_to_those_of_all() -> None:
    kind = build_kind("regression", ["yaw", "pitch"])
    payloads = [b"[1, 2]", b"[null, 4]", b"[3, 9]", b"[null, null]"]
    whole, parts = LabelCounts(), LabelCounts()
    for payload in payloads:
        whole.add_label(kind, kind.read_label(payload), (8, 8))
        part = LabelCounts()
        part.add_label(kind, kind.read_label(payload), (8, 8))
        parts.add(LabelCounts.from_json(json.loads(json.dumps(part.to_json()))))
    assert (parts.rows, parts.labelled, parts.counts) == (4, 3, whole.counts)
    assert whole.counts["yaw"] == {"unknown": 2}
    for name, values in (("yaw", [1, 3]), ("pitch", [2, 4, 9])):
        stats = parts.numbers[name]
        assert (stats.count, stats.least, stats.largest) == (len(values), min(values), max(values))
        assert (stats.mean, stats.std) == pytest.approx((np.mean(values), np.std(values)))
    assert NumberStats().std == 0


def test_boxes_beyond_their_picture_are_counted_but_for_a_pixel_of_rounding() -> None:
    kind, counts = build_kind("heatmap", ["cup"]), LabelCounts()
    for box in ([0, 0, 9, 6], [-1, 0, 4, 4], [4, 4, 9, 6]):
        label = kind.read_label(json.dumps([{"class": 0, "box": box}]).encode())
        counts.add_label(kind, label, (6, 8))
    assert counts.counts["boxes beyond their picture"] == {"all": 3, "beyond": 1}
    (warning,) = kind.doubts(counts)
    assert warning.text.startswith("1 of 3 boxes")
