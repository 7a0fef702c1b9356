"""The resolved recipe is the same recipe, from anywhere, with nothing left to guess."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recipe_texts import TEN_LINES, Load

from distill_mtl.recipe import Recipe, dump_recipe, load_recipe

PLAIN = st.none() | st.booleans() | st.integers(-9, 10**6) | st.floats(allow_nan=False, allow_infinity=False)
TEXT = st.text(
    st.characters(codec="utf-8", max_codepoint=0xFFFF, exclude_characters="\x7f"), max_size=12
) | st.sampled_from(
    [
        ":\u2028\\",
        "no",
        "on",
        "1e-3",
        "0o17",
        "010",
        "1_000",
        "~",
        "",
        "1:30",
        "2020-01-01",
        "a: b",
        "- x",
        "<<",
        "=",
        "0x1F",
        ".5",
    ]
)
VALUES = st.recursive(PLAIN | TEXT, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXT, v, max_size=3))
OVERRIDES = {
    "seed": st.integers(0, 2**31 - 1),
    "student.args": st.dictionaries(TEXT, VALUES, max_size=4),
    "student.input_size": st.none()
    | st.integers(1, 512)
    | st.lists(st.integers(1, 512), min_size=2, max_size=2),
    "student.init": st.sampled_from(["random", "teacher:breed", "w.safetensors", "/abs/w"]),
    "tasks.breed.classes": st.none() | st.integers(1, 99) | st.lists(TEXT, max_size=4),
    "tasks.breed.temperature": st.floats(1e-6, 1e6),
    "tasks.part.hints": st.lists(st.fixed_dictionaries({"student": st.none() | TEXT}), max_size=2),
    "tasks.part.teacher": st.sampled_from(["t", {"path": "../t", "expect": 90.5}]),
    "data.breed.shards": st.sampled_from(
        ["a-{0..9}.tar", ["a.tar", "b.tar"], "multidigits:left", "s3://b/x.tar"]
    ),
    "data.breed.augment": st.sampled_from([None, {"crop": None}, {"crop": [0.1, 0.9], "color": 0.5}]),
    "targets": st.sampled_from(
        ["auto", "live", "cached", {"from": "cached", "views": 4, "features": "int8"}]
    ),
    "training.steps": st.none() | st.integers(1, 10**6),
    "training.ema": st.none() | st.floats(0.5, 0.999),
    "acceptance": st.one_of(
        st.floats(0, 9),
        st.fixed_dictionaries({"breed": st.floats(0, 9)}),
        st.just("point"),
        st.fixed_dictionaries({}, optional={"margin": st.floats(0, 9), "rule": st.just("point")}),
    ),
}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.fixed_dictionaries({}, optional=OVERRIDES))
def test_loading_a_dumped_recipe_gives_an_equal_one(tmp_path: Path, chosen: dict[str, Any]) -> None:
    source, resolved = tmp_path / "pets.yaml", tmp_path / "recipe.resolved.yaml"
    source.write_text(TEN_LINES)
    # JSON is YAML, and writing it involves no dumper of ours.
    recipe = load_recipe(source, [f"{key}={json.dumps(value)}" for key, value in chosen.items()])
    resolved.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(resolved) == recipe
    assert dump_recipe(load_recipe(resolved)) == dump_recipe(recipe)


def test_the_resolved_recipe_runs_from_another_folder(
    load: Load, ten_lines: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = load(ten_lines)
    (tmp_path / "resolved.yaml").write_text(dump_recipe(recipe))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_recipe(tmp_path / "resolved.yaml") == recipe


def test_every_key_of_every_section_is_written_out(load: Load, ten_lines: str) -> None:
    text = dump_recipe(load(ten_lines))
    assert text.startswith("# Resolved by distill_mtl ")
    written = yaml.safe_load(text)
    assert list(written) == list(Recipe.model_fields)
    for name, section in Recipe.model_fields.items():
        if isinstance(section.annotation, type):
            fields = getattr(section.annotation, "model_fields", {})
            keys = [field.alias or key for key, field in fields.items()]
            assert not fields or list(written[name]) == keys


def test_a_recipe_made_in_python_is_dumped_with_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Recipe.model_validate(
        {
            "student": {"model": "resnet18"},
            "tasks": {"a": {"teacher": {"path": "t"}}},
            "data": {"a": {"shards": "a.tar"}},
        }
    )
    assert f"path: {tmp_path}/t\n" in dump_recipe(recipe)
    assert f"shards: {tmp_path}/a.tar\n" in dump_recipe(recipe)


def test_a_resolved_recipe_with_empty_keys_of_the_other_form_of_teacher_loads(load: Load) -> None:
    """Earlier versions wrote out the keys of a network and of a self-teacher in one section."""
    network = "{path: t, student: null, every: null, decay: null}"
    itself = (
        "{path: null, args: {}, student: ema, decay: 0.9, input: {size: null}, trust: false, precision: auto}"
    )
    first, second = f"teacher: {network}, data: a.tar", f"teacher: {itself}, classes: 2, data: b.tar"
    tasks = load(f"student: r\ntasks: {{a: {{{first}}}, b: {{{second}}}}}\n").tasks
    assert tasks["a"].networks
    assert tasks["b"].self_teacher is not None
    assert tasks["b"].self_teacher.decay == 0.9
