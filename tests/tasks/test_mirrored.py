"""The option `mirrored`: which pairs make sense, and what they do to class numbers."""

import pytest
import torch

from distill_mtl.errors import UserError
from distill_mtl.tasks.base import build_kind
from distill_mtl.tasks.options import mirror_partners, read_mirrored, swap_classes

NAMES = ("ground", "left", "right", "up", "down")


def test_both_of_a_pair_change_places_and_the_others_stay() -> None:
    pairs = read_mirrored([["right", "left"], ["up", "down"]], NAMES)
    partner = mirror_partners(pairs, NAMES)
    assert partner == [0, 2, 1, 4, 3]
    numbers = torch.tensor([[0, 1, 2], [3, 255, -1]])
    assert swap_classes(numbers, partner).tolist() == [[0, 2, 1], [4, 255, -1]]
    assert torch.equal(swap_classes(swap_classes(numbers, partner), partner), numbers)
    assert mirror_partners(read_mirrored([], NAMES), NAMES) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", ["classification", "segmentation"])
@pytest.mark.parametrize(
    ("said", "words"),
    [
        ([["left", "rigth"]], "'rigth'. Did you mean 'right'"),
        ([["left", "right"], ["right", "up"]], "once: right"),
        ([["left", "left"]], "once: left"),
        (["left", "right"], "[[left, right]]"),
        ([["left", "right", "up"]], "[[left, right]]"),
        ("lr", "[[left, right]]"),
        (True, "[[left, right]]"),
    ],
)
def test_pairs_that_make_no_sense_are_refused(kind: str, said: object, words: str) -> None:
    with pytest.raises(UserError, match=r"options\.mirrored") as caught:
        build_kind(kind, NAMES, mirrored=said)
    assert words in str(caught.value)
