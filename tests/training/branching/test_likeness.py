import pytest
import torch

from distill_mtl.training.branching.likeness import cka, hard_together, rsa


def rows(seed, count=80, width=12):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("measure", [rsa, cka])
def test_the_same_features_are_alike_whatever_their_scale(measure):
    first = rows(0)
    assert measure(first, first) == pytest.approx(1)
    assert measure(first, 7 * first) == pytest.approx(1)


def test_cka_does_not_see_a_rotation():
    turn = torch.linalg.qr(rows(1, 12)).Q
    assert cka(rows(0), rows(0) @ turn + 3) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("measure", [rsa, cka])
def test_features_that_have_nothing_to_do_with_each_other_are_near_zero(measure):
    assert abs(measure(rows(0, 200), rows(1, 200))) < 0.1


@pytest.mark.parametrize("measure", [rsa, cka])
def test_features_without_any_difference_are_like_nothing(measure):
    assert measure(torch.ones(20, 3), rows(0, 20)) == pytest.approx(0, abs=0.3)


@pytest.mark.parametrize("make", [lambda each: each, lambda each: each.sign()])
def test_rsa_is_scipys_rank_correlation_of_dissimilarities(make):
    """Also where many dissimilarities are equal."""
    from scipy.stats import spearmanr

    one, other = rows(0), rows(0) + rows(2)
    one, other = make(one), make(other)
    pairs = torch.triu_indices(len(one), len(one), 1)
    alike = [torch.corrcoef(each.double())[pairs[0], pairs[1]].round(decimals=9) for each in (one, other)]
    expected = spearmanr(*(1 - each for each in alike))[0]
    assert rsa(one, other) == pytest.approx(expected)


def test_rows_without_any_difference_do_not_count_in_rsa():
    one, other = rows(0), rows(0) + rows(2)
    expected = rsa(one, other)
    dead = torch.cat([one, torch.zeros(30, 12)]), torch.cat([other, torch.zeros(30, 12)])
    assert rsa(*dead) == pytest.approx(expected)


def test_rows_are_hard_together_against_the_mean_of_each_task():
    assert hard_together(torch.tensor([0.0, 0.0, 9.0]), torch.tensor([1.0, 1.0, 2.0])) == 1
    assert hard_together(torch.tensor([0.0, 9.0]), torch.tensor([9.0, 0.0])) == 0
