"""How a signature and its docstring become arguments and help, on a function made up for it."""

import argparse
from pathlib import Path

import pytest

from distill_mtl.jobs import as_command
from distill_mtl.jobs.as_command import add_arguments, read_function

SOURCE = '''
"""A module.

Args:
    rows (N): of all its functions.
"""

import torch_that_is_not_there

def pour(
    cup: Path | str,
    milk: str | None = None,
    sugars: Sequence[str] = (),
    *,
    rows: int = 64,
    stir: int | None = 3,
    form: Literal["round", "square"] | None = None,
    hot: bool = False,
    wishes: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> None:
    """Pour a cup.

    At 95 % of its height it is full.

    Args:
        cup (CUP): a cup; there may be
            two lines.
        milk: which, if any.
        sugars (--sugar KIND, repeated): as often as you like.
        stir (TIMES): how often. None: not at all.
        form ([round]): of the cup.
        console: where it is said.

    Args of a good cup:
        hot: as it should be.
        wishes (KEY=VALUE ..., repeated): what else.

    Raises:
        KeyboardInterrupt: interrupted. The cup is
            half full.

    Examples:
        two of them, one after the other, and this line is as long as lines of prose are, and longer than a screen:
          pour cup
          pour cup --hot
    """
'''


@pytest.fixture
def parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    (tmp_path / "made_up.py").write_text(SOURCE)
    monkeypatch.setattr(as_command, "__file__", str(tmp_path / "as_command.py"))
    told, parameters = read_function("made_up", "pour")
    assert told.summary == "pour a cup"
    assert told.interrupted == "interrupted. The cup is half full."
    parser = argparse.ArgumentParser(prog="pour", **told.parser)
    add_arguments(parser, parameters)
    return parser


def test_what_is_given_is_passed_and_nothing_else(parser: argparse.ArgumentParser) -> None:
    assert vars(parser.parse_args(["c"])) == {"cup": Path("c"), "milk": None}
    line = "c oat --sugar a --sugar b --rows 3 --no-stir --form --hot --wishes x=1 y=z --wishes v=[2]"
    assert vars(parser.parse_args(line.split())) == {
        "cup": Path("c"),
        "milk": "oat",
        "sugars": ["a", "b"],
        "rows": 3,
        "stir": None,
        "form": "round",
        "hot": True,
        "wishes": {"x": 1, "y": "z", "v": [2]},
    }
    assert vars(parser.parse_args(["c", "--form", "square", "--stir", "2"])).keys() == {
        "cup",
        "milk",
        "form",
        "stir",
    }


def test_help_teaches(parser: argparse.ArgumentParser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = parser.format_help()
    flat = " ".join(text.split())
    assert "Pour a cup.\n\nAt 95 % of its height" in text
    assert "CUP a cup; there may be two lines" in flat
    assert "--rows N of all its functions; default 64" in flat, "described by the module"
    assert "--no-stir not at all --stir TIMES how often; default 3" in flat
    assert "--form [{round,square}]" in flat
    assert "of a good cup:\n  --hot" in text
    assert text.endswith("  pour cup\n  pour cup --hot\n"), "indented lines stay as they are"
    assert "console" not in text


@pytest.mark.parametrize(
    "line",
    ["", "c --rows many", "c --form oval", "c --wishes x", "c --wishes x=1 x=2", "c --stir 1 --no-stir"],
)
def test_what_does_not_fit_is_refused(parser: argparse.ArgumentParser, line: str) -> None:
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(line.split())
    assert ended.value.code == 2
