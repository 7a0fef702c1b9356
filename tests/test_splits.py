import numpy as np

from distill_mtl.splits import SPLITS, split_by_hash

IDENTITIES = [f"pets/pets-000/{row:05d}" for row in range(20_000)]


def shares(sets: np.ndarray) -> list[float]:
    return [round(float((sets == number).mean()), 2) for number in range(len(SPLITS))]


def test_a_hash_cuts_ninety_five_five() -> None:
    assert shares(split_by_hash(IDENTITIES, {"validation", "test"})) == [0.9, 0.05, 0.05]


def test_a_set_that_has_shards_of_its_own_is_not_cut() -> None:
    assert shares(split_by_hash(IDENTITIES, {"validation"})) == [0.95, 0.05, 0]
    assert shares(split_by_hash(IDENTITIES, {"test"})) == [0.95, 0, 0.05]


def test_a_row_stays_in_its_set_when_others_come_and_go_or_the_other_set_gets_shards() -> None:
    both = split_by_hash(IDENTITIES, {"validation", "test"})
    assert np.array_equal(split_by_hash(IDENTITIES[::7], {"validation", "test"}), both[::7])
    test, validation = SPLITS.index("test"), SPLITS.index("validation")
    assert np.array_equal(split_by_hash(IDENTITIES, {"test"}) == test, both == test)
    assert np.array_equal(split_by_hash(IDENTITIES, {"validation"}) == validation, both == validation)


def test_the_cut_stays_the_same_for_ever() -> None:
    sets = split_by_hash(IDENTITIES[:100], {"validation", "test"})
    assert np.flatnonzero(sets == SPLITS.index("test")).tolist() == [37, 43, 84]
