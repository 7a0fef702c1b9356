"""The recipe as a JSON Schema that admits short forms too: `distill-mtl schema > docs/recipe.schema.json`.

Editors check and complete recipes with it (`# yaml-language-server: $schema=...`). Validation takes from it what its
messages say is expected at a path, so there is no second list of rules. Draft 7, which every editor knows.
"""

import copy
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from distill_mtl.recipe.long_form import MARGIN, SCHEDULES
from distill_mtl.recipe.mistakes import KeyPath, either
from distill_mtl.recipe.schema import STORE_SIZE, Recipe

Schema = dict[str, Any]


@cache
def recipe_json_schema() -> Schema:
    """The schema of what a user may write. One object for all callers: do not change it."""
    schema = _plain(Recipe.model_json_schema())
    sections, top = schema["$defs"], schema["properties"]
    _need_one_of(sections["SourceSection"], "shards", "split")
    _need_one_of(sections["StudentSection"], "model", "module", "init")
    sections["TaskData"] = _data_of_a_task(sections["SourceSection"], sections["LabelSection"])
    sections["TaskSection"]["properties"]["data"] = {
        "anyOf": [*_shards(), _section("TaskData"), {"type": "null"}],
        "description": "A data set labelled for this task only: its shards, or a source with its settings.",
    }
    _admit(top, "student", {"type": "string"})
    _admit(top, "balance", {"type": "string"})
    _admit(top, "schedule", {"type": "string", "enum": list(SCHEDULES)})
    _admit(
        top, "targets", {"type": "string", "enum": sections["TargetsSection"]["properties"]["from"]["enum"]}
    )
    teacher = sections["TaskSection"]["properties"]["teacher"]
    _admit(next(one for one in teacher["anyOf"] if one.get("type") == "array"), "items", {"type": "string"})
    _admit(sections["TaskSection"]["properties"], "teacher", {"type": "string"})
    for name in ("SourceSection", "TaskData"):
        _admit(sections[name]["properties"], "augment", {"type": "null"})
        _admit(sections[name]["properties"], "limit", {"type": "integer", "exclusiveMinimum": 0})
    kinds = sections["ColumnsSection"]["properties"]["kind"]["enum"]
    _admit(sections["StudentSection"]["properties"], "columns", {"type": "string", "enum": kinds})
    modes = sections["StreamSection"]["properties"]["mode"]["enum"]
    _admit(sections["TrainingSection"]["properties"], "stream", {"type": "string", "enum": modes})
    _admit(sections["SourceSection"]["properties"]["labels"], "additionalProperties", {"type": "string"})
    margins = sections["AcceptanceSection"]["properties"]
    margin = {"type": "number", "minimum": 0}
    by_task = {"type": "object", "additionalProperties": margin}
    _admit(margins, "margin", margin)
    margins["margin"]["default"] = MARGIN
    # The section's own keys are not tasks.
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
    if "oneOf" in plain:
        plain["anyOf"] = plain.pop("oneOf")
    if "prefixItems" in plain:
        # Every tuple of a recipe has items of one type, which draft 7 says with `items` and the two counts.
        plain["items"] = plain.pop("prefixItems")[0]
    if "patternProperties" in plain:
        plain["additionalProperties"] = False
    return plain


def _data_of_a_task(source: Schema, labels: Schema) -> Schema:
    data = copy.deepcopy(source)
    del data["properties"]["labels"]
    data["description"] = "One data set in WebDataset shards, labelled for this task only."
    data["properties"] |= labels["properties"]
    return data


def _admit(parent: Schema, key: str, short: Schema) -> None:
    """Let `parent[key]` have a short form; its description and default stay beside the alternatives."""
    long = parent[key]
    beside = {word: long.pop(word) for word in ("description", "default") if word in long}
    parent[key] = {"anyOf": [short, *long.get("anyOf", [long])], **beside}


def _need_one_of(section: Schema, *keys: str) -> None:
    """One of the keys must be there; `load_recipe` looks closer."""
    *others, last = keys
    without = [{"required": [key]} for key in others]
    condition = without[0] if len(without) == 1 else {"anyOf": without}
    section |= {"if": {"not": condition}, "then": {"required": [last]}}


def _section(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _shards() -> list[Schema]:
    return [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]


BOUNDS = {
    "exclusiveMinimum": "greater than",
    "minimum": "at least",
    "exclusiveMaximum": "less than",
    "maximum": "at most",
}
NAME = "a name of letters, digits, - and _ that begins with a letter, 100 at most"
PATTERNS = {"^[0-9a-f]{64}$": "64 hexadecimal digits", STORE_SIZE: "a size such as 500MB or 1.5TB"}
"""A description of a pattern that is not a name."""


def expected(path: KeyPath) -> str:
    """`a number greater than 0`, `crop, pad or squash`, `text or a mapping`."""
    return either(list(dict.fromkeys(_words(schema) for schema in _alternatives(path))))


def known_keys(path: KeyPath) -> list[str]:
    """Keys that the section at a path may have."""
    return list(dict.fromkeys(key for schema in _alternatives(path) for key in schema.get("properties", {})))


def choices(path: KeyPath) -> list[str]:
    """The values allowed at a path, where it takes one of a few."""
    return [value for schema in _alternatives(path) for value in _values(schema)]


def description(path: KeyPath) -> str:
    """What the schema says about the key at a path."""
    for schema in _steps(path):
        if "description" in schema:
            return str(schema["description"])
    return ""


def _alternatives(path: KeyPath) -> list[Schema]:
    """The schemas that a value at a path may follow, without references and unions."""
    return [flat for schema in _steps(path) for flat in _flatten(schema)]


def _steps(path: KeyPath) -> list[Schema]:
    """The schemas at a path as they stand, with the description that belongs to the key."""
    here = [recipe_json_schema()]
    for step in path:
        here = [child for schema in here for flat in _flatten(schema) for child in _children(flat, step)]
    return here


def _flatten(schema: Schema) -> Iterator[Schema]:
    if "$ref" in schema:
        yield from _flatten(recipe_json_schema()["$defs"][schema["$ref"].rsplit("/", 1)[1]])
    elif "anyOf" in schema:
        for alternative in schema["anyOf"]:
            yield from _flatten(alternative)
    else:
        yield schema


def _children(schema: Schema, step: str | int) -> Iterator[Schema]:
    if isinstance(step, int):
        candidates: list[Any] = [schema.get("items")]
    elif step in schema.get("properties", {}):
        candidates = [schema["properties"][step]]
    else:
        candidates = [*schema.get("patternProperties", {}).values(), schema.get("additionalProperties")]
    yield from (child for child in candidates if isinstance(child, dict))


def _words(schema: Schema) -> str:
    match schema.get("type"):
        case "string":
            if "pattern" in schema:
                return PATTERNS.get(schema["pattern"], NAME)
            values = _values(schema)
            return either(values) if values else "text"
        case "integer" | "number" as kind:
            bounds = [f"{words} {schema[bound]}" for bound, words in BOUNDS.items() if bound in schema]
            return " ".join(
                ["a whole number" if kind == "integer" else "a number", " and ".join(bounds)]
            ).strip()
        case "boolean":
            return "true or false"
        case "array":
            return _list_words(schema)
        case "object":
            return "a mapping" + (" with at least one entry" if schema.get("minProperties") else "")
        case "null":
            return "null"
    return "any value"


def _values(schema: Schema) -> list[str]:
    """The values that a schema names; a choice of one is a `const`."""
    return [schema["const"]] if "const" in schema else list(schema.get("enum", []))


def _list_words(schema: Schema) -> str:
    item = either([_words(flat) for flat in _flatten(schema["items"])])
    if "minItems" in schema:
        return f"a list of {schema['minItems']}, each {item}"
    return {"text": "a list of text", "a mapping": "a list of mappings"}.get(item, f"a list, each {item}")
