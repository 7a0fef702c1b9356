import numpy as np

from distill_mtl.splitmix import draws, fold, splitmix64, uniforms


def test_the_numbers_are_those_of_the_published_generator() -> None:
    # The reference sequence for seed 1234567 (Vigna's splitmix64.c).
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert draws(np.array([1234567], np.uint64), 4)[0].tolist() == expected


def test_a_number_depends_on_every_part_of_its_purpose_and_on_their_order() -> None:
    purposes = [
        (1, "pets", 2),
        (2, "pets", 1),
        (1, "cats", 2),
        ("pets", 1, 2),
        (1, "pets", 2, 0),
        (1, "pets"),
    ]
    assert len({int(fold(*purpose)[0]) for purpose in purposes}) == len(purposes)


def test_arrays_of_parts_give_what_single_parts_give() -> None:
    rows = np.arange(5)
    assert fold(3, "pets", rows).tolist() == [int(fold(3, "pets", row)[0]) for row in range(5)]


def test_uniforms_fill_the_unit_interval_evenly() -> None:
    numbers = uniforms(fold(0, "test", np.arange(20_000)), 3)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    shares = np.histogram(numbers, 10, (0, 1))[0] / numbers.size
    np.testing.assert_allclose(shares, 0.1, atol=0.005)
    assert abs(np.corrcoef(numbers[:, 0], numbers[:, 1])[0, 1]) < 0.03


def test_splitmix_is_one_to_one() -> None:
    assert len(np.unique(splitmix64(np.arange(100_000, dtype=np.uint64)))) == 100_000
