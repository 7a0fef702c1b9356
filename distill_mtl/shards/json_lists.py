"""A JSON file of long lists, item by item: as Python's objects its whole content takes many times its bytes."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from distill_mtl.reading import Remedy, fit, read_text, shown

_SPACE = re.compile(r"[ \t\n\r]*")
_LARGEST = 4 << 30  # bytes


def read_lists(path: Path, schemas: Mapping[str, Any], remedy: Remedy) -> Iterator[tuple[str, int, Any]]:
    """The items of the lists in the JSON object that a file holds: key, place in its list, item.

    Args:
        path: the file.
        schemas: key of each list that is wanted -> what its items are, for pydantic. Other keys are passed over.
        remedy: the end of messages.

    Raises:
        UserError: the file cannot be read, is not a JSON object, lacks a list, or an item does not fit.
    """
    text = read_text(path, _LARGEST, remedy=remedy)
    seen = set[str]()
    try:
        for key, place, value in _Walk(text).items(schemas):
            if place is None:
                if key in seen:
                    raise remedy.error(f"{path}: {key} is there twice. {remedy.mend}")
                seen.add(key)
            else:
                yield key, place, fit(value, schemas[key], f"{path}, {key}[{place}]", remedy=remedy)
    except RecursionError:
        raise remedy.error(f"{path} is not valid JSON: it is nested too deep. {remedy.mend}") from None
    except ValueError as error:
        raise remedy.error(f"{path} is not valid JSON: {error}. {remedy.mend}") from None
    if missing := [key for key in schemas if key not in seen]:
        raise remedy.error(f"{path} has no list `{missing[0]}`. {remedy.mend}")


class _Walk:
    """A way through a text of JSON. Raises ValueError where it ends, or is none."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._decoder = text, 0, json.JSONDecoder()

    def items(self, wanted: Mapping[str, Any]) -> Iterator[tuple[str, int | None, Any]]:
        """Every wanted list, with None for its place, and then its items."""
        self._expect("{")
        while not self._found("}"):
            key = self._value()
            if not isinstance(key, str):
                raise ValueError(f"a key is {shown(key)}")
            self._expect(":")
            if key not in wanted:
                self._value()
            else:
                yield key, None, None
                self._expect("[", f"the list `{key}`")
                place = 0
                while not self._found("]"):
                    yield key, place, self._value()
                    place += 1
                    self._between("]")
            self._between("}")
        self._skip()
        if self._at < len(self._text):
            raise ValueError(f"text behind its end (character {self._at:,})")

    def _value(self) -> Any:
        self._skip()
        value, self._at = self._decoder.raw_decode(self._text, self._at)
        return value

    def _between(self, end: str) -> None:
        if not self._found(","):
            self._skip()
            if self._text[self._at : self._at + 1] != end:
                self._expect(",")

    def _found(self, mark: str) -> bool:
        self._skip()
        there = self._text.startswith(mark, self._at)
        self._at += there
        return there

    def _expect(self, mark: str, what: str = "") -> None:
        if not self._found(mark):
            found = shown(self._text[self._at : self._at + 20])
            raise ValueError(f"expected {what or mark} at character {self._at:,}, found {found}")

    def _skip(self) -> None:
        found = _SPACE.match(self._text, self._at)
        assert found is not None
        self._at = found.end()
