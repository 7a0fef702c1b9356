"""What each form of keeping answers costs in accuracy, as bounds that hold for every answer."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from torch import Tensor
from torch.nn import functional as F

from distill_mtl.networks.features import FeatureShape
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.weights import RecordedScore
from distill_mtl.targets.encoding import AnswerCodec, Codec, Half, Int8, Numbers, TopK, Whole
from distill_mtl.targets.facts import TeacherFacts
from distill_mtl.tasks.base import KINDS
from distill_mtl.teachers.card import TeacherCard
from distill_mtl.teachers.label_map import LabelMap
from distill_mtl.teachers.teacher import TeacherOutput
from distill_mtl.training.target_providers import logits_kept_in

CPU = torch.device("cpu")
ROWS = st_numpy.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(3, 40)),
    elements=st.floats(-50, 50, width=32),
)


def back(codec: Codec, values: Tensor) -> Tensor:
    stored = codec.encode(values)
    assert {name: (array.dtype, array.shape[1:]) for name, array in stored.items()} == {
        name: (slot.dtype, slot.shape) for name, slot in codec.slots.items()
    }
    assert torch.all(codec.deviation(stored, stored) == 0)
    decoded = codec.decode(stored, CPU)
    assert decoded.dtype == torch.float32
    assert decoded.shape == values.shape
    return decoded


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_fp16_errs_by_at_most_its_last_bit(rows: np.ndarray) -> None:
    values = torch.from_numpy(rows)
    error = (back(Half("x", rows.shape[1:]), values) - values).abs()
    assert torch.all(error <= values.abs() * 2**-11 + 2**-25)


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_int8_errs_by_at_most_half_a_step_of_its_row(rows: np.ndarray) -> None:
    values = torch.from_numpy(rows)
    error = (back(Int8("x", rows.shape[1:]), values) - values).abs().amax(1)
    assert torch.all(error <= values.abs().amax(1) / 254 * 1.0001 + 1e-30)


def test_values_in_a_unit_of_their_own_are_kept_whole() -> None:
    values = torch.tensor([[12345.6], [1e-5], [70000.25]])
    codec = Whole("x", (1,))
    assert torch.equal(back(codec, values), values)
    # Near 0 a value has no size of its own to measure rounding by.
    apart = codec.deviation(codec.encode(values), codec.encode(values + torch.tensor([[0.0], [1e-4], [0.0]])))
    assert apart.max() < 1e-6
    with pytest.raises(ValueError, match="not finite"):
        codec.encode(torch.tensor([[math.nan]]))


def test_int8_holds_what_fp16_cannot_and_each_row_has_its_own_scale() -> None:
    values = torch.tensor([[1e6, -2e6, 0.0], [1e-6, 2e-6, 0.0]])
    with pytest.raises(ValueError, match=r"x holds 2e\+06, and fp16 ends at 65504"):
        Half("x", (3,)).encode(values)
    decoded = back(Int8("x", (3,)), values)
    assert torch.all((decoded - values).abs() <= values.abs().amax(1, keepdim=True) / 250)


@pytest.mark.parametrize("kind", ["depth", "segmentation"])
def test_what_the_refusal_of_large_logits_advises_holds_them(kind: str) -> None:
    millimetres = torch.full((2, 1, 2, 2), 70_000.0)
    depth = facts((1, 2, 2))
    with pytest.raises(ValueError, match=r"fp16 ends at 65504.*`targets\.logits: fp32`.* metres"):
        AnswerCodec(depth, {}, logits=logits_kept_in(KINDS[kind], "fp16")).encode(
            TeacherOutput(millimetres, {})
        )
    codec = AnswerCodec(depth, {}, logits=logits_kept_in(KINDS[kind], "fp32"))
    stored = codec.encode(TeacherOutput(millimetres, {}))
    assert torch.equal(codec.decode(stored, CPU).logits, millimetres)


def test_large_features_and_top_k_are_told_what_holds_them() -> None:
    teacher, large = facts((50,), flat=FeatureShape(1, None)), torch.full((2, 50), 1e5)
    with pytest.raises(ValueError, match=r"hidden\.flat .*`targets\.features: int8`"):
        AnswerCodec(teacher, {"flat": True}).encode(TeacherOutput(large * 0, {"flat": large[:, :1]}))
    with pytest.raises(ValueError, match=r"`targets\.logits: fp32` without `top_k`"):
        AnswerCodec(teacher, {}, top_k=2).encode(TeacherOutput(large, {}))


@pytest.mark.parametrize("codec", [Half("x", (2,)), Int8("x", (2,)), TopK("x", (2,), 1)])
@pytest.mark.parametrize("strange", [math.nan, math.inf])
def test_an_answer_that_is_not_finite_is_refused(codec: Codec, strange: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        codec.encode(torch.tensor([[0.0, strange]]))


@settings(max_examples=100, deadline=None)
@given(ROWS, st.integers(1, 39))
def test_top_k_keeps_the_largest_and_the_mass_of_the_rest(rows: np.ndarray, k: int) -> None:
    """At temperature 1 the divergence is at most the mass of the rest times the logarithm of how many they are."""
    values = torch.from_numpy(rows)
    classes = rows.shape[1]
    k = min(k, classes - 1)
    decoded = back(TopK("x", rows.shape[1:], k), values)
    top = values.topk(k, 1).indices
    assert torch.all((decoded - values).gather(1, top).abs() <= values.gather(1, top).abs() * 2**-11 + 2**-25)
    rest = 1 - values.double().softmax(1).gather(1, top).sum(1)
    kept = 1 - decoded.double().softmax(1).gather(1, top).sum(1)
    rounding = 4 * 50 * 2**-11  # fp16 of a logit of up to 50, on both sides
    assert torch.all((kept - rest).abs() <= rounding)
    divergence = F.kl_div(
        decoded.double().log_softmax(1), values.double().log_softmax(1), reduction="none", log_target=True
    ).sum(1)
    assert torch.all(divergence <= rest * math.log(classes - k) + rounding)


def test_top_k_of_a_map_is_taken_pixel_by_pixel() -> None:
    values = torch.randn(2, 70_000, 1, 2)
    codec = TopK("x", tuple(values.shape[1:]), 3)
    assert codec.slots["x.classes"].dtype == np.int32
    decoded = back(codec, values)
    assert torch.equal(decoded.argmax(1), values.argmax(1))


def test_top_k_forgives_a_change_of_place_at_its_border_alone() -> None:
    codec = TopK("x", (5,), 2)
    stored = codec.encode(torch.tensor([[9.0, 4.001, 4.0, 0.0, 0.0]]))
    swapped = codec.encode(torch.tensor([[9.0, 4.0, 4.001, 0.0, 0.0]]))
    other = codec.encode(torch.tensor([[0.0, 4.0, 4.001, 9.0, 0.0]]))
    assert codec.deviation(stored, swapped) < 0.001
    assert codec.deviation(stored, other) > 0.4


def facts(logits: tuple[int, ...], **layers: FeatureShape) -> TeacherFacts:
    classes = tuple(map(str, range(logits[0])))
    card = TeacherCard(
        place=Path("/t"),
        files={Path("/t/model.safetensors"): "s"},
        kind="classification",
        labels=LabelMap(classes, tuple(range(len(classes))), None, len(classes)),
        inputs=InputContract((8, 8), (0.5,) * 3, (0.5,) * 3),
        assumed=(),
        layers=tuple(layers),
        last_map="deep",
        shapes=layers,
        fingerprint="f",
        score=RecordedScore("accuracy", 90.0, 100),
    )
    return TeacherFacts(card, logits)


@pytest.mark.parametrize("numbers", ["fp32", "fp16"])
def test_what_no_int8_could_hold_takes_nothing_from_better_numbers(numbers: Numbers) -> None:
    whole = facts((4,))
    labels = LabelMap(("a", "b", "c", "d"), (0, 1), (0, 1), 2)
    partly = replace(whole, card=replace(whole.card, labels=labels))
    assert AnswerCodec(partly, {}, logits=numbers).describe()["logits"] == numbers
    assert AnswerCodec(partly, {}, logits="int8").describe()["logits"] == "fp16"


def test_an_answer_comes_back_with_maps_pooled_where_asked() -> None:
    teacher = facts((4,), deep=FeatureShape(3, (2, 2), pyramid=True), flat=FeatureShape(5, None))
    assert TeacherFacts.from_json(teacher.json) == teacher
    output = TeacherOutput(torch.randn(6, 4), {"deep": torch.randn(6, 3, 2, 2), "flat": torch.randn(6, 5)})
    whole = AnswerCodec(teacher, {"deep": False, "flat": False})
    pooled = AnswerCodec(teacher, {"deep": True, "flat": True}, logits="int8", features="int8")
    again = whole.decode(whole.encode(output), CPU)
    assert torch.allclose(again.logits, output.logits, atol=2e-3)
    assert torch.allclose(again.hidden["deep"], output.hidden["deep"], atol=2e-3)
    means = pooled.decode(pooled.encode(output), CPU).hidden
    assert torch.allclose(means["deep"], output.hidden["deep"].mean((2, 3)), atol=0.02)
    assert torch.allclose(means["flat"], output.hidden["flat"], atol=0.02)
    bytes_per_row = [sum(slot.size for slot in codec.slots.values()) for codec in (whole, pooled)]
    assert bytes_per_row == [2 * (4 + 12 + 5), (4 + 4) + (3 + 4) + (5 + 4)]


def test_top_k_is_taken_where_it_saves_room() -> None:
    few = {"logits.values", "logits.classes", "logits.rest"}
    for top_k, kept in ((50, {"logits"}), (24, few), (25, {"logits"}), (100, {"logits"})):
        assert set(AnswerCodec(facts((50,)), {}, top_k=top_k).slots) == kept, top_k
    assert set(AnswerCodec(facts((50,)), {}, top_k=20, logits="int8").slots) == {"logits", "logits.scale"}
