"""The JSON Schema for editors accepts what load_recipe accepts, and its committed copy is current."""

from pathlib import Path

import jsonschema
import pytest
import yaml
from recipe_texts import Load

from distill_mtl.recipe import dump_recipe
from distill_mtl.recipe.json_schema import recipe_json_schema, recipe_json_schema_text

ROOT = Path(__file__).parents[2]
BALANCE = "balance: uniform\nacceptance: 2\ntargets: cached\n"
POOL = "data: {pool: {shards: [a.tar], labels: {breed: cls}, augment: null, limit: 9}}\n"
OWN = "tasks: {a: {classes: 2, data: {shards: a.tar, member: cls, augment: null, limit: 9}}}\nstudent: {model: x}\n"
STREAM = "training: {stream: alternate}\n"


def valid(text: str) -> bool:
    return jsonschema.Draft7Validator(recipe_json_schema()).is_valid(yaml.safe_load(text))


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(recipe_json_schema())


def test_the_committed_copy_is_current() -> None:
    committed = (ROOT / "docs" / "recipe.schema.json").read_text(encoding="utf-8")
    assert committed == recipe_json_schema_text(), "run `distill-mtl schema > docs/recipe.schema.json`"


def test_editors_accept_short_forms(ten_lines: str, load: Load) -> None:
    for text in (ten_lines, ten_lines + BALANCE + POOL + STREAM, OWN):
        load(text)
        assert valid(text)


def test_editors_accept_the_resolved_recipe(ten_lines: str, load: Load) -> None:
    assert valid(dump_recipe(load(ten_lines)))


@pytest.mark.parametrize(
    "wrong",
    [
        "seeed: 1",
        "seed: -1",
        "tasks: {}",
        "tasks: {1a: {teacher: t}}",
        "tasks: {a: {teacher: 5}}",
        "tasks: {a: {data: {shards: a, labels: {}}}}",
        "tasks: {a: {data: {member: cls}}}",
        "student: {args: {norm_layer: groupnorm1}}",
        "balance: {methd: uniform}",
        "targets: cachd",
        "targets: {form: live}",
        "data: {a: {shards: a, augment: {crop: [0.1, 0.2, 0.3]}}}",
        "training: {precision: fp8}",
        "training: {stream: turning}",
        "data: {a: {shards: a, limit: 0}}",
    ],
)
def test_editors_refuse_what_loading_refuses(ten_lines: str, wrong: str) -> None:
    section = wrong.partition(":")[0]
    assert not valid(yaml.safe_dump(yaml.safe_load(ten_lines) | {section: yaml.safe_load(wrong)[section]}))


def test_every_key_tells_editors_what_it_means() -> None:
    silent = [
        f"{name}.{key}"
        for name, section in recipe_json_schema()["$defs"].items()
        for key, schema in section["properties"].items()
        if "description" not in schema
    ]
    obvious = ["SplitSection.test"]
    assert sorted(silent) == sorted([*obvious, "SplitSection.validation"])
