"""What people write under `options`, and numbers in labels, is refused in words where it makes no sense."""

import math
from typing import Any

import pytest

from distill_mtl.errors import UserError
from distill_mtl.tasks.base import build_kind

ABC = ("a", "b", "c")


@pytest.mark.parametrize("value", ["x", None, True, [1], {}, math.nan, math.inf, 10**400, -1])
@pytest.mark.parametrize(
    ("kind", "classes", "option"),
    [
        ("classification", ABC, "label_smoothing"),
        ("classification", ABC, "dkd.alpha"),
        ("segmentation", ABC, "ignore_index"),
        ("segmentation", ABC, "dice"),
        ("regression", ABC, "scale"),
        ("depth", (), "scale"),
        ("depth", (), "typical"),
        ("heatmap", ABC, "top"),
        ("heatmap", ABC, "max_objects"),
    ],
)
def test_what_is_no_number_of_use_is_refused_by_name(
    kind: str, classes: tuple[str, ...], option: str, value: Any
) -> None:
    outer, _, inner = option.partition(".")
    with pytest.raises(UserError, match=outer):
        build_kind(kind, classes, **{outer: {inner: value} if inner else value})


@pytest.mark.parametrize("value", [None, "a", 5, ["x"], [["a"]]])
def test_negated_is_a_list_of_names(value: Any) -> None:
    with pytest.raises(UserError, match="negated: "):
        build_kind("regression", ABC, negated=value)


def test_names_that_yaml_reads_as_numbers_are_names() -> None:
    assert build_kind("regression", ("0", "1"), negated=[1]).describe()["negated"] == ["1"]


@pytest.mark.parametrize("value", [["l1"], {}, None, 3])
@pytest.mark.parametrize("kind", ["depth", "regression"])
def test_a_loss_is_a_name(kind: str, value: Any) -> None:
    with pytest.raises(UserError, match="loss"):
        build_kind(kind, ("depth",), loss=value)


@pytest.mark.parametrize(
    "payload", [b"[1" + b"0" * 400 + b"]", b"[1e200]", b"[-1e39]", b"[" * 100_000, b"[1e999]"]
)
def test_numbers_that_a_label_cannot_hold_are_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match="the label"):
        build_kind("regression", ("age",)).read_label(payload)


def test_boxes_that_a_label_cannot_hold_are_refused() -> None:
    box = b'[{"class": "a", "box": [1' + b"0" * 400 + b", 1, 1, 1]}]"
    with pytest.raises(ValueError, match="in pixels"):
        build_kind("heatmap", ABC).read_label(box)
