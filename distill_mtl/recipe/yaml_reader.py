"""YAML into plain values that remember where each of them stands.

`load_recipe` reads the file with it, `--set` its values. Only YAML 1.2's core types exist here (text,
numbers, true and false, null, lists, mappings): `no`, `on` and dates stay text, `1e-3` is a number, as
in the editors that check a recipe against its JSON Schema. No tag is ever executed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from distill_mtl.reading import MAX_DEPTH, REMEDY, Remedy, fit, read_text
from distill_mtl.recipe.mistakes import KeyPath, Mistake, Place, show

TAG = "tag:yaml.org,2002:"
MAX_VALUES = 1_000_000
"""In one document, with what its aliases stand for written out."""
FLOAT = re.compile(
    r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
)


@dataclass
class YamlDocument:
    """The values of a file, with the place of every key and list item.

    Attributes:
        value: what the file says: usually a mapping; None for an empty file.
        places: by path; a path that is not here stands where its nearest parent does.
        mistakes: what is wrong already: duplicate keys, tags, keys that are not text.
    """

    value: Any = None
    places: dict[KeyPath, Place] = field(default_factory=dict)
    mistakes: list[Mistake] = field(default_factory=list)

    def place(self, path: KeyPath) -> Place:
        """Where a key stands, or the nearest key above it that does."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return 1


class YamlSyntaxError(ValueError):
    """The text is not YAML. `line` counts from 1."""

    def __init__(self, problem: str, line: int) -> None:
        super().__init__(problem)
        self.line = line


def read_document(text: str) -> YamlDocument:
    """Parse one YAML document.

    Raises:
        YamlSyntaxError: the text is not YAML, more than one document, nested too deep, or too large.
    """
    try:
        root = yaml.compose(text, Loader=CoreLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(part for part in (error.context, error.problem) if part)
        raise YamlSyntaxError(problem, mark.line + 1 if mark else 1) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlSyntaxError(
            f"the character #x{ord(text[error.position]):04x} is not allowed", line
        ) from error
    document = YamlDocument()
    if root is not None:
        document.places[()] = _line(root)
        document.value = _Builder(document).build(root, ())
    return document


def read_yaml(path: Path | str, schema: Any = Any, *, remedy: Remedy = REMEDY) -> Any:
    """What a YAML file that is not a recipe to be checked holds, as its schema: the resolved recipe of a run.

    Raises:
        UserError: the file cannot be read, is not YAML, or does not fit the schema.
    """
    return parse_yaml(read_text(path, remedy=remedy), schema, str(path), remedy=remedy)


def parse_yaml(text: str, schema: Any, where: str, *, remedy: Remedy = REMEDY) -> Any:
    """As `read_yaml`, of a text that has been read; `where` names its place.

    Raises:
        UserError: it is not YAML, or does not fit the schema.
    """
    try:
        document = read_document(text)
    except YamlSyntaxError as error:
        raise remedy.error(f"{where}, line {error.line}: not valid YAML: {error}. {remedy.mend}") from error
    for mistake in document.mistakes:
        line = mistake.place or document.place(mistake.path)
        raise remedy.error(f"{where}, line {line}: {mistake.text} {remedy.mend}")
    return fit(document.value, schema, where, remedy=remedy)


@dataclass(frozen=True)
class _Extent:
    """How many values a node stands for, aliases written out, and how deep they are nested."""

    values: int = 0
    depth: int = 0


class CoreLoader(yaml.SafeLoader):
    """Resolves plain scalars as YAML 1.2's core schema does (section 10.3.2 of its specification).

    Refuses, before it is built, what is nested too deep or what aliases make too large.
    """

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own form)

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._values = self._deepest = 0
        self._anchored: dict[str, _Extent] = {}

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = self.peek_event()
        before, outer = self._values, self._deepest
        alias = isinstance(event, yaml.AliasEvent)
        known = self._anchored.get(event.anchor, _Extent()) if alias else _Extent()
        self._values += 1 + known.values
        self._deepest = self._depth + known.depth
        if self._deepest > MAX_DEPTH or self._values > MAX_VALUES:
            what = f"nested more than {MAX_DEPTH} deep" if self._deepest > MAX_DEPTH else "too large"
            raise yaml.MarkedYAMLError(problem=f"found a value that is {what}", problem_mark=event.start_mark)
        self._depth += 1
        node: Node | None = super().compose_node(parent, index)
        self._depth -= 1
        if not alias and event.anchor is not None:
            self._anchored[event.anchor] = _Extent(self._values - before, self._deepest - self._depth)
        self._deepest = max(outer, self._deepest)
        return node


CoreLoader.add_implicit_resolver(f"{TAG}null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
CoreLoader.add_implicit_resolver(
    f"{TAG}bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
CoreLoader.add_implicit_resolver(
    f"{TAG}int", re.compile(r"^([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$"), list("-+0123456789")
)
CoreLoader.add_implicit_resolver(f"{TAG}float", FLOAT, list("-+0123456789."))


class _Builder:
    """Turns nodes into values; what it cannot turn becomes a mistake of the document and the value None."""

    def __init__(self, document: YamlDocument) -> None:
        self.document = document
        self.open: list[Node] = []

    def build(self, node: Node, path: KeyPath) -> Any:
        """The value of a node. A node that contains itself through an alias is refused."""
        if any(node is parent for parent in self.open):
            self._note(path, node, "found an alias to the very value it stands in. Write the value out.")
            return None
        self.open.append(node)
        try:
            if isinstance(node, MappingNode) and node.tag == f"{TAG}map":
                return self._mapping(node, path)
            if isinstance(node, SequenceNode) and node.tag == f"{TAG}seq":
                return self._sequence(node, path)
            return self._scalar(node, path)
        finally:
            self.open.pop()

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        merges = [value for key, value in node.value if _is_merge(key)]
        values = self._merged(merges, path)
        own: set[str] = set()
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._note(path, key_node, "found a key that is a list or a mapping. Keys are text.")
                continue
            name = key_node.value
            here = (*path, name)
            if _is_merge(key_node):
                continue
            if name in own:
                text = f"the key stands here and in line {self.document.places[here]}. Remove one of the two."
                self._note(here, key_node, text)
                continue
            own.add(name)
            self.document.places[here] = _line(key_node)
            values[name] = self.build(value_node, here)
        return values

    def _merged(self, merges: list[Node], path: KeyPath) -> dict[str, Any]:
        """What `<<: *other` and `<<: [*one, *two]` bring in; of two, the first one's value counts."""
        flat = [n for merge in merges for n in (merge.value if isinstance(merge, SequenceNode) else [merge])]
        values: dict[str, Any] = {}
        for source in reversed(flat):
            brought = self.build(source, path)
            if isinstance(brought, dict):
                values |= brought
            elif isinstance(source, ScalarNode):
                self._note(
                    path, source, f"`<<` takes a mapping, found {show(source.value)}. Name its anchor."
                )
        return values

    def _sequence(self, node: SequenceNode, path: KeyPath) -> list[Any]:
        items = []
        for position, item in enumerate(node.value):
            self.document.places[(*path, position)] = _line(item)
            items.append(self.build(item, (*path, position)))
        return items

    def _scalar(self, node: Node, path: KeyPath) -> Any:
        read = _SCALARS.get(node.tag)
        if read is None or not isinstance(node, ScalarNode):
            tag = node.tag.replace(TAG, "!!")
            self._note(path, node, f"found the tag {tag}. A recipe holds plain values only: remove the tag.")
            return None
        try:
            return read(node.value)
        except ValueError:
            tag = node.tag.replace(TAG, "!!")
            self._note(path, node, f"found {show(node.value)}, which is not {tag}. Remove the tag.")
            return None

    def _note(self, path: KeyPath, node: Node, text: str) -> None:
        self.document.mistakes.append(Mistake(path, text, _line(node)))


def _is_merge(key: Node) -> bool:
    return isinstance(key, ScalarNode) and key.value == "<<" and key.style is None


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1


def _integer(text: str) -> int:
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


def _float(text: str) -> float:
    return float(re.sub(r"\.(inf|nan)", r"\1", text.lower()))


_SCALARS: dict[str, Callable[[str], Any]] = {
    f"{TAG}str": str,
    f"{TAG}null": lambda text: None,
    f"{TAG}bool": lambda text: text.lower() == "true",
    f"{TAG}int": _integer,
    f"{TAG}float": _float,
}
