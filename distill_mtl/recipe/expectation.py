"""What the recipe's schema expects at a path, in the words of an error message.

Called by validation, so that every message says what is allowed without a second list of rules.
"""

from collections.abc import Iterator
from typing import Any

from distill_mtl.recipe.findings import KeyPath, either
from distill_mtl.recipe.json_schema import Schema, recipe_json_schema

BOUNDS = {
    "exclusiveMinimum": "greater than",
    "minimum": "at least",
    "exclusiveMaximum": "less than",
    "maximum": "at most",
}
NAME = "a name of letters, digits, - and _ that begins with a letter"
PATTERNS = {"^[0-9a-f]{64}$": "64 hexadecimal digits"}
"""What a pattern asks for in words, where that is no name."""


def expected(path: KeyPath) -> str:
    """`a number greater than 0`, `crop, pad or squash`, `text or a mapping`."""
    return either(list(dict.fromkeys(_words(schema) for schema in _alternatives(path))))


def known_keys(path: KeyPath) -> list[str]:
    """Keys that the section at a path may have."""
    return list(dict.fromkeys(key for schema in _alternatives(path) for key in schema.get("properties", {})))


def choices(path: KeyPath) -> list[str]:
    """The values allowed at a path, where it takes one of a few."""
    return [value for schema in _alternatives(path) for value in schema.get("enum", [])]


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
            return either(schema["enum"]) if "enum" in schema else "text"
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


def _list_words(schema: Schema) -> str:
    item = either([_words(flat) for flat in _flatten(schema["items"])])
    if "minItems" in schema:
        return f"a list of {schema['minItems']}, each {item}"
    return {"text": "a list of text", "a mapping": "a list of mappings"}.get(item, f"a list, each {item}")
