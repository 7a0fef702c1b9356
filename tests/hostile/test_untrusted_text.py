"""Names from outside stand in everything that is written: each writer escapes them, and what it wrote is parsed."""

import io
import json
import re
from collections import Counter
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token
from result_toys import evaluation_of, task_result
from rich.table import Table as RichTable

from distill_mtl.display import PlainConsole
from distill_mtl.evaluation.result import ClassDelta, Disagreement
from distill_mtl.prediction.outputs import JsonLines
from distill_mtl.prediction.predictions import Unread
from distill_mtl.recipe.mistakes import Mistake, recipe_error
from distill_mtl.recipe.yaml_reader import read_document
from distill_mtl.recipe.yaml_writer import Noted, write_yaml
from distill_mtl.report import blocks, charts
from distill_mtl.report.console import console_table
from distill_mtl.report.html import page
from distill_mtl.report.markdown import code, code_block, markdown, markdown_table, plain
from distill_mtl.report.model_card import model_card
from distill_mtl.report.run_report import report_of_result
from distill_mtl.tasks.base import build_kind
from distill_mtl.untrusted_text import from_sheet_cell, sheet_cell, visible

PAYLOADS = {
    "script": "<script>alert(1)</script>",
    "attribute": "\"><img src=x onerror=alert(1)> ' & &lt;b&gt; &#60; &nbsp;",
    "end of style and title": "</style></title></svg><b>",
    "cells": "a | b \\| c ||",
    "newlines": "one\n\n# two\r\n| 3 | 4 |\n",
    "front matter": "---\nlicense: stolen\n---",
    "link": "[click](javascript:alert(1)) ![x](http://x/y.png) [r]: z",
    "fence": "```\n~~~\n````python",
    "code": "`a` ``b`` \\`",
    "emphasis": "*a* _b_ __c__ ~~d~~ $e^2$ \\ <http://f>",
    "list": "- 1. + > = # x",
    "ordered": "1. x",
    "rich": "[red]x[/red] [/] [link=http://x]y[/link] :cat:",
    "formula": "=HYPERLINK(1)",
    "terminal": "\x1b[2J\x1b]0;x\x07\x9b31m\x00\x08\x7f",
    "direction": "\u202egpj.exe\u2066 \u2028x\u2029\u0085y",
    "not UTF-8": "caf\udce9 \ud800",
    "YAML": "{a: [b]} # c\n- !!python/name:os.system : 'd' \"e\" &f *g %h @i",
    "spaces": "    four, and a tab\t",
}
EACH = pytest.mark.parametrize("text", PAYLOADS.values(), ids=PAYLOADS)


def _shown(text: str) -> str:
    """What a reader of Markdown should see."""
    return re.sub(r"[\n\t]+", " ", visible(text)).strip()


def _tokens(text: str) -> list[Token]:
    # As a hub or a merge request reads it.
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def _words(inline: Token) -> str:
    children = inline.children or []
    assert {child.type for child in children} <= {"text", "text_special", "softbreak"}
    return "".join(child.content for child in children)


@EACH
def test_markdown_shows_text_as_it_is(text: str) -> None:
    tokens = _tokens(plain(text) + "\n")
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert _words(tokens[1]) == _shown(text)


@EACH
def test_a_cell_of_a_spreadsheet_is_no_formula_and_is_read_back(text: str) -> None:
    for each in (text, f"={text}", f"-{text}", f"+{text}", f"@{text}", f"'{text}"):
        assert sheet_cell(each)[:1] not in ("=", "+", "-", "@", "\t", "\r")
        assert from_sheet_cell(sheet_cell(each)) == each


@EACH
def test_markdown_shows_code_as_it_is(text: str) -> None:
    (inline,) = (token for token in _tokens(f"x {code(text)}") if token.type == "inline")
    first, second = inline.children or []
    assert (first.content, second.type, second.content.strip()) == ("x ", "code_inline", _shown(text))
    (fence,) = _tokens(code_block(text))
    assert (fence.type, fence.content.rstrip("\n")) == ("fence", visible(text).rstrip("\n"))


@EACH
def test_a_markdown_table_keeps_its_columns(text: str) -> None:
    cells = [blocks.Cell(text), blocks.Cell(text, "code"), blocks.Cell(text, aside=text)]
    tokens = _tokens(markdown_table(blocks.Table(text, ["a", text, text], [cells, cells], frozenset("a"))))
    kinds = Counter(token.type for token in tokens)
    assert (kinds["th_open"], kinds["td_open"], kinds["tr_open"], kinds["table_open"]) == (3, 6, 3, 1)
    assert tokens[-1].type == "table_close"
    inner = [token for token in tokens if token.type == "inline"]
    assert _words(inner[1]) == _words(inner[3]) == _shown(text)


class _Page(HTMLParser):
    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text = Counter[str](), Counter[str](), ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes.update(name for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def _report(text: str) -> blocks.Report:
    """Everything that a page can hold, with the text in every place that takes text from outside."""
    cells = [blocks.Cell(text, aside=text), blocks.Cell(text, "code", heat=0.5)]
    picture = blocks.PictureLine(
        text, [blocks.Picture(text, "data:,", text), blocks.Picture(text, None, text)]
    )
    chart = charts.bars("bars", text, [charts.BarGroup(text, text, [charts.Bar(1.0, text, charts.STUDENT)])])
    every: list[blocks.Block] = [
        blocks.Text(text),
        blocks.Table(text, [text, "b"], [cells], frozenset({text})),
        blocks.Charts([blocks.Chart(chart, "title", text)]),
        blocks.Pictures(text, [picture], {text: "rgb(1, 2, 3)"}, "note"),
        blocks.Code(text),
    ]
    section = blocks.Section(
        "one", text, [*every, blocks.Folded(text, every[:2])], summary=every[:2], notes=[text]
    )
    figure = blocks.Figure(text, text)
    return blocks.Report(text, text, "", [text], [figure], text, [section], text, blocks.Text(text))


@EACH
def test_a_page_has_the_same_elements_whatever_a_name_is(text: str) -> None:
    plain_page, written = _Page(page(_report("x"))), page(_report(text))
    found = _Page(written)
    # Of a text in a chart with several lines each is an element.
    for tags in (plain_page.tags, found.tags):
        for drawn in ("text", "g", "tspan"):
            tags.pop(drawn, None)
    assert found.tags == plain_page.tags
    assert {name for name in found.attributes if name.startswith("on")} == set()
    assert visible(text) in found.text
    assert written.encode()
    assert "\x1b" not in written


@EACH
def test_a_chart_is_well_formed(text: str) -> None:
    drawn = charts.bars(
        "bars", text, [charts.BarGroup(text, text, [charts.Bar(1.0, text, charts.STUDENT)])]
    ).svg
    root = ElementTree.fromstring(drawn)
    assert {part.tag.rpartition("}")[2] for part in root.iter()} <= {
        *("svg", "title", "defs", "style", "g", "path", "use", "text", "tspan", "clipPath", "rect")
    }


def _evaluation(text: str) -> object:
    result = task_result(0.4)
    changes = {
        "classes": (ClassDelta(text, 90.0, 91.0, 1.0), ClassDelta("b", 90.0, 80.0, -10.0)),
        "disagreements": (Disagreement(text, text, text, text, 1.0),),
    }
    return evaluation_of({text: task_result(0.4, **changes), "other": result})


@EACH
def test_a_terminal_obeys_no_name(text: str) -> None:
    def printed(name: str) -> str:
        stream = io.StringIO()
        console = PlainConsole(file=stream, force_terminal=True, width=10_000, color_system="truecolor")
        table = RichTable(name)
        table.add_row(name, style="red")
        console.print(table, name, console_table(_evaluation(name)), highlight=False)  # type: ignore[arg-type]
        return stream.getvalue()

    found = printed(text)
    controls = set(re.findall(r"\x1b\[[\d;]*m", found))
    assert set(re.findall(r"\x1b\[[\d;]*m", printed("x"))) == controls
    rest = re.sub(r"\x1b\[[\d;]*m", "", found)
    assert rest.encode()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\u2066]", rest.replace("\t", " "))
    if text.isprintable():
        assert rest.count(text) >= 3


@EACH
def test_a_report_and_a_card_have_the_same_headings_whatever_a_name_is(text: str) -> None:
    def structure(content: str) -> list[str]:
        beyond = ("text", "text_special", "code_inline", "softbreak", "inline")
        return [f"{token.type} {token.tag}" for token in _tokens(content) if token.type not in beyond]

    def card(name: str) -> str:
        return model_card(
            name=name,
            architecture=name,
            size=(32, 32),
            kinds={name: build_kind("classification", (name, name + "2"))},
            teachers={name: name},
            evaluation=_evaluation(name),  # type: ignore[arg-type]
            recipe_digest=name,
        )

    assert structure(markdown(_report(text))) == structure(markdown(_report("x")))
    assert structure(markdown(report_of_result(_evaluation(text)))) == structure(  # type: ignore[arg-type]
        markdown(report_of_result(_evaluation("x")))  # type: ignore[arg-type]
    )
    written = card(text)
    _, front, body = written.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "distill_mtl",
        "tags": ["multi-task", "distillation", "image-classification"],
    }
    assert structure(body) == structure(card("x").split("---\n", 2)[2])
    hub = ModelCard(written, ignore_metadata_errors=False)
    assert hub.data.to_dict() == yaml.safe_load(front)
    assert written.encode()


@EACH
def test_predictions_are_one_line_each(text: str) -> None:
    stream = io.StringIO()
    output = JsonLines(stream, 1)
    output.put(text, output.make({}, Unread(text, text, text)))
    (line,) = stream.getvalue().encode().decode().splitlines()
    assert set(json.loads(line).values()) == {text}


@EACH
def test_a_drafted_recipe_is_the_yaml_that_was_meant(text: str) -> None:
    values = {"a": {"b": Noted(text, text), "c": [text, "d"]}, "e": Noted(1, text)}
    document = read_document(write_yaml(values))
    assert not document.mistakes
    assert document.value == {"a": {"b": text, "c": [text, "d"]}, "e": 1}


@EACH
def test_a_finding_about_a_recipe_is_one_paragraph_of_two_lines(text: str) -> None:
    message = str(recipe_error(text, [Mistake(("tasks", text), text)], lambda path: 1))
    assert len(message.splitlines()) == 2
    assert message.encode()
