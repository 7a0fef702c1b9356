"""Tables as pandas, Excel and a Mac write them: read as what was meant, or refused with the cause."""

import codecs
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_world

from distill_mtl.errors import ShardError
from distill_mtl.shards import table_rows
from distill_mtl.shards.listed_rows import FileRows

CLASS, ATTRIBUTES, VALUES = "cls", "attributes.json", "values.json"


def written(folder: Path, content: str | bytes, name: str = "table.csv", pictures: int = 4) -> Path:
    """A table beside the pictures img/0.png, img/1.png, …"""
    (folder / "img").mkdir()
    for number in range(pictures):
        (folder / "img" / f"{number}.png").write_bytes(toy_world.png(np.zeros((4, 4, 3), np.uint8)))
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def labels(rows: FileRows, member: str) -> list[Any]:
    """The label of every row, read from its files."""
    found = [rows.read(number).members[member].decode() for number in range(len(rows))]
    return found if member == CLASS else [json.loads(label) for label in found]


LINES = "image,cls\nimg/0.png,2\nimg/1.png,11\n"
READ: list[tuple[str, str | bytes, str, str, list[Any]]] = [
    ("plain", LINES, "table.csv", CLASS, ["2", "11"]),
    (
        "class numbers of a float column",
        LINES.replace("2", "2.0").replace("11", "11.0"),
        "t.csv",
        CLASS,
        ["2", "11"],
    ),
    ("some numbers with a point", LINES.replace("2", "2.0"), "t.csv", CLASS, ["2", "11"]),
    ("floats of JSON", '{"image": "img/0.png", "cls": 11.0}\n', "t.jsonl", CLASS, ["11"]),
    (
        "names with a point",
        LINES.replace("2", "v2.0").replace("11", "v2.5"),
        "t.csv",
        CLASS,
        ["v2.0", "v2.5"],
    ),
    ("numbers with a fraction", "image,cls\nimg/0.png,2.0\nimg/1.png,2.5\n", "t.csv", CLASS, ["2.0", "2.5"]),
    ("semicolons", LINES.replace(",", ";"), "t.csv", CLASS, ["2", "11"]),
    ("tabs in a .csv", LINES.replace(",", "\t"), "t.csv", CLASS, ["2", "11"]),
    ("commas in a .tsv", LINES, "t.tsv", CLASS, ["2", "11"]),
    ("sep=;", "sep=;\r\n" + LINES.replace(",", ";"), "t.csv", CLASS, ["2", "11"]),
    ("a byte order mark", codecs.BOM_UTF8 + LINES.encode(), "t.csv", CLASS, ["2", "11"]),
    ("Excel's Unicode text", LINES.replace(",", "\t").encode("utf-16"), "t.tsv", CLASS, ["2", "11"]),
    ("CRLF", LINES.replace("\n", "\r\n"), "t.csv", CLASS, ["2", "11"]),
    ("an old Mac's lines", LINES.replace("\n", "\r"), "t.csv", CLASS, ["2", "11"]),
    ("spaces in the head", LINES.replace("image,cls", " image , cls "), "t.csv", CLASS, ["2", "11"]),
    ("an index column", "," + LINES.replace("img", "0,img"), "t.csv", CLASS, ["2", "11"]),
    ("empty lines", LINES.replace("\nimg/1", "\n,\n\nimg/1") + ",\n,\n", "t.csv", CLASS, ["2", "11"]),
    ("columns without a name", "image,cls,,\nimg/0.png,2,,\nimg/1.png,11,,\n", "t.csv", CLASS, ["2", "11"]),
    ("cells behind the last", "image,cls\nimg/0.png,2,,\nimg/1.png,11\n", "t.csv", CLASS, ["2", "11"]),
    ("backslashes", LINES.replace("/", "\\"), "t.csv", CLASS, ["2", "11"]),
    (
        "attributes of a float column",
        "image,hat,coat\nimg/0.png,1.0,0.0\nimg/1.png,,1.0\nimg/2.png,nan,-1.0\nimg/3.png,<NA>,#N/A\n",
        "t.csv",
        ATTRIBUTES,
        [{"hat": 1, "coat": 0}, {"hat": None, "coat": 1}, {"hat": None, "coat": 0}],
    ),
    (
        "decimal commas",
        "image;hat;coat\nimg/0.png;1,5;7\nimg/1.png;-0,25;\n",
        "t.csv",
        VALUES,
        [{"hat": 1.5, "coat": 7}, {"hat": -0.25, "coat": None}],
    ),
    (
        "NaN of JSON",
        '{"image": "img/0.png", "hat": NaN, "coat": 1.5}\n',
        "t.jsonl",
        VALUES,
        [{"hat": None, "coat": 1.5}],
    ),
]


@pytest.mark.parametrize(
    ("content", "name", "member", "found"), [case[1:] for case in READ], ids=[case[0] for case in READ]
)
def test_what_a_program_wrote_is_read_as_it_was_meant(
    content: str | bytes, name: str, member: str, found: list[Any], tmp_path: Path
) -> None:
    columns = {CLASS: ["cls"]}.get(member, ["hat", "coat"])
    rows = table_rows(written(tmp_path, content, name), {member: columns}, allow_missing=True)
    assert labels(rows, member) == found


def test_class_numbers_are_counted_and_not_sorted_as_text(tmp_path: Path) -> None:
    (label,) = table_rows(written(tmp_path, LINES.replace("2", "2.0")), {CLASS: ["cls"]}).labels
    assert label.classes == 12


def test_the_index_of_pandas_is_not_a_label(tmp_path: Path) -> None:
    table = written(tmp_path, "Unnamed: 0,image,hat\n0,img/0.png,1\n")
    (label,) = table_rows(table, {ATTRIBUTES: ["*"]}).labels
    assert label.classes == ("hat",)


def test_a_picture_is_found_however_a_mac_wrote_its_name(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "Österreich.png")
    table = written(tmp_path, f"image,cls\n{unicodedata.normalize('NFC', name)},0\n")
    (tmp_path / "img" / "0.png").rename(tmp_path / name)
    assert labels(table_rows(table, {CLASS: ["cls"]}), CLASS) == ["0"]


REFUSED: list[tuple[str, str | bytes, str, list[str]]] = [
    ("an empty cell", "image,cls\nimg/0.png,\n", "t.csv", ["line 2", "cls", "--allow-missing"]),
    ("NaN", "image,cls\nimg/0.png,0\nimg/1.png,NaN\n", "t.csv", ["line 3", "cls", "--allow-missing"]),
    ("Excel's own letters", "image,cls\nimg/0.png,Öl\n".encode("cp1252"), "t.csv", ["UTF-8", "CSV UTF-8"]),
    ("a name twice", "image,cls,cls\nimg/0.png,0,1\n", "t.csv", ["more than one column is called cls"]),
    (
        "a drive of Windows",
        "image,cls\nC:\\data\\0.png,0\n",
        "t.csv",
        ["line 2", "drive of Windows", "--images"],
    ),
    ("a line too short", "image,cls\nimg/0.png\n", "t.csv", ["line 2", "fewer cells"]),
    ("a negative number", "image,cls\nimg/0.png,-1.0\nimg/1.png,2.0\n", "t.csv", ["line 2", "begin at 0"]),
    ("a fraction in JSON", '{"image": "img/0.png", "cls": 1.5}\n', "t.jsonl", ["line 1", "cls is 1.5"]),
    ("nested JSON", '{"image": ' + "[" * 100_000, "t.jsonl", ["line 1", "is not JSON"]),
    ("a workbook", b"PK\x03\x04\xff\x00", "t.csv", ["UTF-8"]),
    ("an .xlsx", b"PK\x03\x04", "t.xlsx", [".csv, .tsv or .jsonl"]),
    ("UTF-16 without a mark", LINES.encode("utf-16-le"), "t.csv", ["UTF-8"]),
    ("no lines", "image,cls\n", "t.csv", ["no rows"]),
    ("nothing", "", "t.csv", ["has no column 'cls'"]),
]


@pytest.mark.parametrize(
    ("content", "name", "found"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_what_cannot_be_read_is_refused_with_the_cause(
    content: str | bytes, name: str, found: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ShardError) as error:
        table_rows(written(tmp_path, content, name), {CLASS: ["cls"]})
    for part in found:
        assert part in str(error.value)
