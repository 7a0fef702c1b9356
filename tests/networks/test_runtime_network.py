"""What a network in a file offers besides its answer: layers for hints, and what its answer is made from."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from distill_mtl.errors import UserError
from distill_mtl.networks.backbone import LOGITS
from distill_mtl.networks.features import FeatureShape
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.runtime import DeclaredInput, Runtime, classes_in
from distill_mtl.networks.runtime_network import RuntimeNetwork
from distill_mtl.recipe.schema import OutputSection
from distill_mtl.tasks.base import KINDS


class Steps(Runtime):
    """A chain of layers whose results have names; `broken` cannot be given, as a tuple cannot."""

    def __init__(self, steps: dict[str, nn.Module], outputs: Sequence[str]) -> None:
        super().__init__()
        self.steps, self.outputs, self.declared, self.files = (
            nn.ModuleDict(steps),
            tuple(outputs),
            DeclaredInput(),
            (),
        )
        self.taps: tuple[str, ...] = ()

    def names(self) -> list[str]:
        return [*self.steps]

    def tap(self, names: Sequence[str]) -> None:
        self.taps = tuple(names)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        if "broken" in self.taps:
            raise UserError("'broken' gives a tuple")
        results: dict[str, Tensor] = {}
        for name, step in self.steps.items():
            images = step(images)
            results[name] = images
        return {name: results[name] for name in (*self.outputs, *self.taps)}


def network(dense: bool = False) -> RuntimeNetwork:
    torch.manual_seed(0)
    steps: dict[str, nn.Module] = {
        "conv": nn.Conv2d(3, 8, 3, 2, 1),
        "broken": nn.ReLU(),
        "deep": nn.Conv2d(8, 12, 1),
    }
    if dense:
        steps |= {"logits": nn.Conv2d(12, 4, 1), "up": nn.Upsample(scale_factor=2)}
        return RuntimeNetwork(
            Steps(steps, ["up"]), InputContract((8, 8), (0.5,) * 3, (0.5,) * 3), OutputSection()
        )
    steps |= {
        "pool": nn.AdaptiveAvgPool2d(1),
        "flat": nn.Flatten(),
        "logits": nn.Linear(12, 4),
        "soft": nn.Softmax(1),
    }
    return RuntimeNetwork(
        Steps(steps, ["soft"]), InputContract((8, 8), (0.5,) * 3, (0.5,) * 3), OutputSection()
    )


def test_every_layer_that_can_be_read_is_listed_with_its_shape_and_the_others_left_out() -> None:
    subject = network()
    subject.tap(("deep",))
    assert subject.features() == {
        "conv": FeatureShape(8, (4, 4)),
        "deep": FeatureShape(12, (4, 4)),
        "pool": FeatureShape(12, (1, 1)),
        "flat": FeatureShape(12, None),
        "logits": FeatureShape(4, None),
    }
    assert set(subject(torch.rand(2, 3, 8, 8))) == {"logits", "deep"}, "its own layers are tapped again"


def test_an_answer_is_made_from_the_last_feature_that_is_not_as_wide_as_itself() -> None:
    assert network().answer_features == ("flat",)
    assert network(dense=True).answer_features == ("deep",)


def test_the_last_map_of_a_dense_network_is_not_its_answer_in_another_size() -> None:
    assert network(dense=True).last_map == "deep"
    assert network().last_map == "deep"


def test_what_it_returns_is_told_with_shapes() -> None:
    subject = network()
    assert subject.outputs == {"soft": (4,)}
    assert subject.answer == "soft"
    assert subject.gives == "logits"
    subject.read_as(KINDS["classification"])
    assert subject.gives == "probabilities"
    assert subject(torch.rand(2, 3, 8, 8))[LOGITS].max() <= 0


def test_a_wrong_name_is_answered_with_the_layers() -> None:
    with pytest.raises(UserError, match=r"no layer 'deap'.* 'deep'.*conv, broken, deep, pool, flat"):
        network().tap(("deap",))


def test_a_network_that_gives_nothing_but_its_answer_has_no_layers() -> None:
    steps = {"logits": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))}
    subject = RuntimeNetwork(
        Steps(steps, ["logits"]), InputContract((8, 8), (0.5,) * 3, (0.5,) * 3), OutputSection()
    )
    assert subject.features() == {}
    assert subject.last_map is None
    assert subject.answer_features == ()


def test_layers_for_a_block_leave_networks_of_one_file_as_they_were() -> None:
    first, second = network(), network()
    first.tap(("conv",))
    second.tap(("deep",))
    second.join(first)
    images = torch.rand(2, 3, 8, 8)
    before = second(images)
    with first.tapping(first.answer_features):
        assert set(first(images)) == {"logits", "flat"}
    assert set(first(images)) == {"logits", "conv"}
    after = second(images)
    assert all(torch.equal(after[name], before[name]) for name in ("logits", "deep"))


@pytest.mark.parametrize(
    ("notes", "names"),
    [
        ({"names": "{1: 'dog', 0: 'cat'}"}, ("cat", "dog")),
        ({"classes": '["cat", "dog"]'}, ("cat", "dog")),
        ({"character": "0\n180"}, ("0", "180")),
        ({"labels": "cat, dog"}, ("cat", "dog")),
        ({"labels": "made by our team"}, None),
        ({"names": "{0: 'cat', 2: 'dog'}"}, None),
        ({"classes": "cat,cat,dog"}, None),
        ({"names": "[" * 5000}, None),
        ({}, None),
    ],
)
def test_names_of_classes_are_read_from_notes_and_a_sentence_is_none(
    notes: dict[str, str], names: tuple[str, ...] | None
) -> None:
    assert classes_in(notes) == names
