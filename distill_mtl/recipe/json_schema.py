"""The recipe as a JSON Schema that admits short forms too: `distill-mtl schema > docs/recipe.schema.json`.

Editors check and complete recipes with it (`# yaml-language-server: $schema=...`), and the error messages of
validation take their "expected ..." and their known keys from it. Draft 7, which every editor knows.
"""

import copy
import json
from functools import cache
from typing import Any

from distill_mtl.recipe.acceptance import MARGIN
from distill_mtl.recipe.schema import Recipe
from distill_mtl.recipe.shorthand import SCHEDULES

Schema = dict[str, Any]


@cache
def recipe_json_schema() -> Schema:
    """The schema of what a user may write. One object for all callers: do not change it."""
    schema = _plain(Recipe.model_json_schema())
    sections, top = schema["$defs"], schema["properties"]
    _need_one_of(sections["SourceSection"], "shards", "split")
    _need_one_of(sections["StudentSection"], "model", "init")
    sections["TaskData"] = _data_of_a_task(sections["SourceSection"])
    sections["TaskSection"]["properties"]["data"] = {
        "anyOf": [*_shards(), _section("TaskData"), {"type": "null"}],
        "description": "A data set labelled for this task alone: its shards, or a source with its settings.",
    }
    _admit(top, "student", {"type": "string"})
    _admit(top, "balance", {"type": "string"})
    _admit(top, "schedule", {"type": "string", "enum": list(SCHEDULES)})
    _admit(
        top, "targets", {"type": "string", "enum": sections["TargetsSection"]["properties"]["from"]["enum"]}
    )
    _admit(sections["TaskSection"]["properties"], "teacher", {"type": "string"})
    for name in ("SourceSection", "TaskData"):
        _admit(sections[name]["properties"], "augment", {"type": "null"})
        _admit(sections[name]["properties"], "limit", {"type": "integer", "exclusiveMinimum": 0})
    modes = sections["StreamSection"]["properties"]["mode"]["enum"]
    _admit(sections["TrainingSection"]["properties"], "stream", {"type": "string", "enum": modes})
    _admit(sections["SourceSection"]["properties"]["labels"], "additionalProperties", {"type": "string"})
    margins = sections["AcceptanceSection"]["properties"]
    margin = {"type": "number", "minimum": 0}
    by_task = {"type": "object", "additionalProperties": margin}
    _admit(margins, "margin", margin)
    margins["margin"]["default"] = MARGIN
    # The section's own keys are no tasks.
    _admit(top, "acceptance", by_task | {"properties": dict.fromkeys(margins, False)})
    _admit(top, "acceptance", {"type": "string", "enum": margins["rule"]["enum"]})
    _admit(top, "acceptance", margin)
    top["acceptance"]["default"] = MARGIN
    schema["required"].remove("data")
    return {"$schema": "http://json-schema.org/draft-07/schema#"} | schema


def recipe_json_schema_text() -> str:
    """The schema as the committed copy holds it."""
    return json.dumps(recipe_json_schema(), indent=2, ensure_ascii=False) + "\n"


def _plain(schema: Any) -> Any:
    """Pydantic's schema without generated titles, in draft 7's words, closed to names that do not fit."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {
        key: _plain(value) for key, value in schema.items() if not (key == "title" and isinstance(value, str))
    }
    if "prefixItems" in plain:
        # Every tuple of a recipe has items of one type, which draft 7 says with `items` and the two counts.
        plain["items"] = plain.pop("prefixItems")[0]
    if "patternProperties" in plain:
        plain["additionalProperties"] = False
    return plain


def _data_of_a_task(source: Schema) -> Schema:
    data = copy.deepcopy(source)
    del data["properties"]["labels"]
    data["description"] = "One data set in WebDataset shards, labelled for this task alone."
    data["properties"]["member"] = {
        "anyOf": [{"type": "string"}, {"type": "null"}],
        "default": None,
        "description": "File ending of the label inside a shard. Default: the kind's.",
    }
    return data


def _admit(parent: Schema, key: str, short: Schema) -> None:
    """Let `parent[key]` have a short form; its description and default stay beside the alternatives."""
    long = parent[key]
    beside = {word: long.pop(word) for word in ("description", "default") if word in long}
    parent[key] = {"anyOf": [short, *long.get("anyOf", [long])], **beside}


def _need_one_of(section: Schema, key: str, other: str) -> None:
    """One of two keys must be there; `load_recipe` looks closer."""
    section |= {"if": {"not": {"required": [key]}}, "then": {"required": [other]}}


def _section(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _shards() -> list[Schema]:
    return [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
