import math

import torch

from distill_mtl.targets.combined import Gate

SURE, TORN, EVEN = [9.0, 0.0, 0.0], [4.0, 4.0, -9.0], [0.0, 0.0, 0.0]


def test_rows_that_a_teacher_guesses_on_are_masked() -> None:
    logits = torch.tensor([SURE, TORN, EVEN])
    assert Gate("entropy", 0.7).masked(logits).tolist() == [False, False, True]
    assert Gate("entropy", 0.5).masked(logits).tolist() == [False, True, True]
    assert Gate("confidence", 0.6).masked(logits).tolist() == [False, True, True]
    assert Gate("confidence", 0.4).masked(logits).tolist() == [False, False, True]


def test_entropy_is_a_share_of_that_of_an_even_guess() -> None:
    torn = math.log(2) / math.log(3)
    logits = torch.tensor([TORN])
    assert not Gate("entropy", torn + 0.001).masked(logits).item()
    assert Gate("entropy", torn - 0.001).masked(logits).item()
    assert not Gate("entropy", 1.0).masked(torch.tensor([EVEN])).item()


def test_only_the_classes_that_the_teacher_knows_are_looked_at() -> None:
    of_two = torch.tensor([[0.0, 0.0, -1e4]])
    assert not Gate("entropy", 0.9).masked(of_two).item()
    assert Gate("entropy", 0.9, known=(0, 1)).masked(of_two).item()


def test_a_map_is_judged_by_the_mean_over_its_pixels() -> None:
    sure, even = torch.tensor(SURE), torch.tensor(EVEN)
    maps = torch.stack(
        [torch.stack([sure, sure, sure, even], 1), torch.stack([sure, even, even, even], 1)]
    ).view(2, 3, 2, 2)
    assert Gate("entropy", 0.5).masked(maps).tolist() == [False, True]
