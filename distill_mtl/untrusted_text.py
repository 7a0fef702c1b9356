"""Text from files and folders of others (names of classes, tasks, rows and files) in what is written for people and
programs. Each writer escapes its own marks; what none of them can show is escaped here.
"""

import json
import re
from typing import Any

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
"""Control characters but tab and newline, separators of lines, marks that turn the direction of writing, and the
halves of a pair: what a file name that is not UTF-8 holds in Python."""

_FORMULA = re.compile(r"'*[=+@\t\r-]")  # an apostrophe before one is read back as such


def visible(text: str) -> str:
    """For people: what a terminal or a page would obey, or cannot show, becomes its number, as in Python's source.

    Console, Markdown, page and charts call it. Tabs and newlines stay.
    """
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


def json_text(value: Any, **options: Any) -> str:
    """For programs: JSON that every encoding can hold, in one line for every reader of lines.

    Args:
        value: plain values.
        options: json's own.
    """
    text = json.dumps(value, ensure_ascii=False, **options)
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def sheet_cell(text: str) -> str:
    """For spreadsheets: what they would take for a formula begins with an apostrophe."""
    return f"'{text}" if _FORMULA.match(text) else text


def from_sheet_cell(text: str) -> str:
    """The text that `sheet_cell` was given, or that a person wrote in its place."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text
