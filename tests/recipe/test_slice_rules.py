"""What a rule of a slice holds for."""

import pytest
from recipe_texts import Load

from distill_mtl.recipe.slices import read_condition


@pytest.mark.parametrize(
    ("rule", "holds", "does_not"),
    [
        ("key~^night", ["night_01", "nightly"], ["midnight", 1]),
        ("key~[)*]_a+$", ["x)_aa"], ["x)_b"]),
        (r"key~\d{3}", ["a123"], ["a12"]),
        ("weather = rain", ["rain"], ["Rain", "rainy"]),
        ("weather==light rain", ["light rain"], ["rain"]),
        ("n=7", [7, 7.0, "7", "07"], [8, "seven"]),
        ("flash=true", [True], [False, 1]),
        ("weather!=rain", ["sun"], ["rain"]),
        ("area<400", [399, "12.5", -1], [400, "small", "nan"]),
        ("area<=400", [400], [401]),
        ("area > 4e2", [401], [400]),
        ("area>=-1", [-1, 0], [-2]),
    ],
)
def test_a_rule_compares_words_as_words_and_numbers_as_numbers(
    rule: str, holds: list, does_not: list
) -> None:
    condition = read_condition(rule)
    assert all(condition.holds([value]) for value in holds)
    assert not any(condition.holds([value]) for value in does_not)
    assert condition.holds([*does_not, *holds])  # of a list one is enough
    assert not condition.holds([])


def test_a_pattern_is_looked_for_in_the_beginning_of_a_long_text() -> None:
    assert read_condition("key~a*a*a*b").holds(["a" * 30 + "b"])
    assert not read_condition("key~b").holds(["a" * 10_000 + "b"])


def test_margins_of_slices_stand_beside_those_of_tasks(load: Load, ten_lines: str) -> None:
    recipe = load(
        f'{ten_lines}evaluation: {{slices: {{night: "key~^night", small: ["area<400", source=pets]}}}}\n'
        "acceptance: {slices: {night: 2, small: {part: 3}}}"
    )
    assert recipe.evaluation.slices == {"night": "key~^night", "small": ["area<400", "source=pets"]}
    assert recipe.acceptance.slices == {"night": 2, "small": {"part": 3}}
    assert recipe.acceptance.margin == {"breed": 1, "part": 1}
