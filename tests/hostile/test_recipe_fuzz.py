"""Recipes and `--set` at random: a recipe, or a RecipeError that names a place; never a traceback, never a hang.

The suite runs 300 cases; `pytest -m slow tests/hostile/test_recipe_fuzz.py -n0` runs 5,000, DISTILL_MTL_CASES=N others.
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from distill_mtl.errors import RecipeError
from distill_mtl.recipe import dump_recipe, load_recipe

RECIPE = """\
student: {model: resnet18, init: random}
tasks:
  breed:
    teacher: teachers/breed
    data: {shards: [breed.tar], member: cls}
    gate: {entropy: 0.5}
  part:
    kind: segmentation
    classes: [back, ear]
    teacher: {path: part.onnx, input: {mean: [0.5], std: [0.5]}, output: {gives: logits}}
    weights: {hint: 0.1}
    options: {ignore_index: 255}
  own:
    teacher: self
    classes: 3
    data: own.tar
data:
  pool: {shards: p.tar, labels: {breed: cls}, limit: 5, split: {test: t.tar}, augment: {crop: [0.5, 1]}}
schedule: [{until: 0.5, weights: {hint: 1}, tasks: {part: {temperature: 2}}}, {train: [heads, 'trunk:layer1']}]
balance: {method: uniform}
training: {steps: 100, batch_size: 32, trackers: []}
acceptance: {margin: {breed: 2}, rule: point}
"""
_LONG = "n" * 5000
EXTREMES: list[Any] = [
    *(
        0,
        -1,
        1,
        2**31,
        2**63,
        10**30,
        -(10**30),
        0.0,
        -0.0,
        1e308,
        1e-308,
        5e-324,
        float("inf"),
        float("nan"),
    ),
    *(
        True,
        False,
        None,
        "",
        " ",
        "x",
        "self",
        "null",
        "1e5",
        "0x10",
        _LONG,
        "\x1b[2J",
        "a\nb",
        "=1+1",
        "<b>",
        "é\u202e",
    ),
    *(
        "hf_hub:a/b",
        "pipe:rm",
        "torchjd:",
        "my_tasks:",
        ":",
        "../..",
        "~",
        "{0..999}",
        "dir://",
        "\U0001f40d",
        "a.b.c",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        [1, "x", {}],
        {"": 1},
        {"x": {"y": []}},
        {"path": "t"},
        {"student": "ema"},
        ["a"] * 1000,
    ),
]
"""Put where any value of the recipe stands."""
_SIGNS = "ab: -{}[],&*<\n'\"!#|>%@`\t0.~?=\\\x00\x7fé\u2028\ufeff"
_CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
found: Counter[str] = Counter()
"""What the cases were."""


def _places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of every value below the top."""
    entries = (
        enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    )
    return [at for key, item in entries for at in ((*path, key), *_places(item, (*path, key)))]


PLAIN = yaml.safe_load(RECIPE)
PLACES = _places(PLAIN)
KEYS = sorted({str(key) for path in PLACES for key in path} | {"lr", "head", "workers", "views", "device"})

values = st.one_of(
    st.sampled_from(EXTREMES),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
        max_leaves=8,
    ),
)
changes = st.tuples(st.sampled_from(PLACES), st.sampled_from(["set", "remove", "rename", "move"]), values)
overrides = st.one_of(
    st.text(max_size=30),
    st.builds(
        lambda path, value: f"{'.'.join(map(str, path))}={json.dumps(value)}",
        st.one_of(st.sampled_from(PLACES), st.lists(st.sampled_from(KEYS), min_size=1, max_size=5)),
        values,
    ),
    st.builds(
        lambda key, text: f"{key}={text}", st.sampled_from(KEYS), st.text(alphabet=_SIGNS, max_size=30)
    ),
)


@st.composite
def _garbled(draw: st.DrawFn) -> str:
    at, text = draw(st.integers(0, len(RECIPE))), draw(st.text(alphabet=_SIGNS, max_size=40))
    return RECIPE[:at] + text + RECIPE[at + draw(st.integers(0, 5)) :]


@st.composite
def _changed(draw: st.DrawFn) -> str:
    recipe = json.loads(json.dumps(PLAIN))
    for path, what, value in draw(st.lists(changes, min_size=1, max_size=3)):
        section: Any = recipe
        try:
            for step in path[:-1]:
                section = section[step]
            old = section[path[-1]]
        except (KeyError, IndexError, TypeError):  # an earlier change took it away
            continue
        if what == "set":
            section[path[-1]] = value
        elif what == "remove":
            del section[path[-1]]
        elif isinstance(section, dict):
            section[draw(st.sampled_from(KEYS))] = old
            if what == "move":
                section.pop(path[-1], None)
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)


texts = st.one_of(_garbled(), _changed(), st.just(RECIPE))


def _try(path: Path, text: str, given_overrides: list[str]) -> None:
    """Load it, and load again what it became."""
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        recipe = load_recipe(path, given_overrides)
    except RecipeError as error:
        found["refused"] += 1
        message = str(error)
        assert str(path) in message or "--set" in message
        assert message.encode()
        assert len(max(message.splitlines(), key=len)) < 20_000
        return
    found["loaded"] += 1
    written = path.with_name("resolved.yaml")
    written.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(written) == recipe


@pytest.fixture(autouse=True, scope="module")
def _imported(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The first recipe imports all that registers names, which a deadline is not about."""
    path = tmp_path_factory.mktemp("first") / "pets.yaml"
    path.write_text(RECIPE)
    load_recipe(path)


def _cases(number: int, *, same: bool = True) -> Any:
    return settings(
        max_examples=number,
        deadline=20_000,
        suppress_health_check=_CHECKS,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        derandomize=same,
        database=None,
    )


@_cases(300)
@given(text=texts, given_overrides=st.just([]) | st.lists(overrides, max_size=2))
def test_a_random_recipe_is_a_recipe_or_a_recipe_error(
    tmp_path: Path, text: str, given_overrides: list[str]
) -> None:
    _try(tmp_path / "pets.yaml", text, given_overrides)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_thousands_of_random_recipes_are_recipes_or_recipe_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found.clear()

    @_cases(int(os.environ.get("DISTILL_MTL_CASES", "5000")), same=False)
    @given(text=texts, given_overrides=st.just([]) | st.lists(overrides, max_size=2))
    def cases(text: str, given_overrides: list[str]) -> None:
        _try(tmp_path / "pets.yaml", text, given_overrides)

    cases()
    with capsys.disabled():
        sys.stdout.write(f"\n{sum(found.values())} recipes: {dict(found)}\n")


@pytest.mark.parametrize("value", EXTREMES, ids=range(len(EXTREMES)))
def test_each_extreme_value_is_taken_or_refused_at_places_of_every_kind(tmp_path: Path, value: Any) -> None:
    text = json.dumps(value)
    for key in (
        "student",
        "tasks.part.classes",
        "training.batch_size",
        "optimizer.lr",
        "data.pool.shards",
        "schedule",
    ):
        _try(tmp_path / "pets.yaml", RECIPE, [f"{key}={text}"])


def _sections(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of every mapping whose keys the schema fixes."""
    free = [("tasks",), ("data",), ("acceptance",), ("acceptance", "margin"), ("acceptance", "slices")]
    if isinstance(value, list):
        return [found for at, item in enumerate(value) for found in _sections(item, (*path, at))]
    if not isinstance(value, dict) or path[-1:] in (("args",), ("options",)):
        return []
    below = [found for key, item in value.items() for found in _sections(item, (*path, key))]
    return below if path in free or path[-1:] in (("labels",), ("weights",)) else [path, *below]


@_cases(60)
@given(
    data=st.data(),
    key=st.from_regex(r"\Azq[a-z]{3,8}\Z"),
    value=st.sampled_from([1, "x", None, [1], {"a": 1}]),
)
def test_an_unknown_key_anywhere_is_named_with_its_line(
    tmp_path: Path, data: st.DataObject, key: str, value: object
) -> None:
    path = tmp_path / "pets.yaml"
    path.write_text(RECIPE)
    recipe = yaml.safe_load(dump_recipe(load_recipe(path)))
    where = data.draw(st.sampled_from(_sections(recipe)))
    section = recipe
    for step in where:
        section = section[step]
    items = list(section.items())
    at = data.draw(st.integers(0, len(items)))
    section.clear()
    section.update([*items[:at], (key, value), *items[at:]])
    text = yaml.safe_dump(recipe, sort_keys=False)
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    line = next(number for number, line in enumerate(text.splitlines(), 1) if f"{key}:" in line)
    dotted = ".".join(str(step) for step in (*where, key))
    assert str(caught.value).startswith(
        f"Recipe error in {path}, line {line}, {dotted}:\n  found an unknown key."
    )
    assert "\n\n" not in str(caught.value)
