import pytest

from distill_mtl.recipe.yaml_reader import read_document
from distill_mtl.recipe.yaml_writer import Noted, in_line, write_yaml


def test_notes_stand_beside_their_values_and_change_nothing() -> None:
    tree = {
        "student": Noted("resnet18", "the usual"),
        "tasks": Noted(
            {"pet": {"classes": ["cat", "no"], "kind": Noted("classification", "its file\nsays so")}}, "one"
        ),
        "empty": {},
    }
    text = write_yaml(tree)
    assert text.splitlines() == [
        "student: resnet18  # the usual",
        "tasks:  # one",
        "  pet:",
        "    classes: [cat, 'no']",
        "    kind: classification  # its file says so",
        "empty: {}",
    ]
    assert read_document(text).value == {
        "student": "resnet18",
        "tasks": {"pet": {"classes": ["cat", "no"], "kind": "classification"}},
        "empty": {},
    }


VALUES = [
    *("a: b", "#5", "x # y", "12", "1e-3", "null", "", "- a", "long " * 80),
    *("a-{000..009}.tar", "multidigits:left", "ä\u2028b"),
    *(3, 0.5, True, None, [0.485, 1], ["a, b", "c: d"], [{"a": [1, "x"]}]),
]


@pytest.mark.parametrize("value", VALUES)
def test_every_value_stands_in_one_line_and_is_read_back_as_it_was(value: object) -> None:
    line = write_yaml({"key": Noted(value, "note")})
    assert line.count("\n") == 1
    assert read_document(line).value == {"key": value}
    assert in_line(value) in line
