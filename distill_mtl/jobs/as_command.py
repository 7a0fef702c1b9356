"""From the signature and docstring of a job to its command: arguments, help, defaults, choices, epilog.

Source is read, not imported: a job's module imports torch, and help has to come at once. Typer, cyclopts and
jsonargparse would import the function (and take 0.2 to 0.35 s of their own), and none of them can say
`--set KEY=VALUE` again and again beside `--against MODEL MODEL` and `--preprocess [uint8]`. argparse can.

What argparse needs beyond Python's signature stands in the docstring, in the brackets of Google's style:

    Args:
        against (MODEL ...): one value or several; without brackets one value, called as the parameter.
        overrides (--set KEY=VALUE, repeated): an option of another name, that may be given again and again.
        preprocess ([float]): the value may be left out, and is `float` then.

A section `Args TITLE:` is a group in the help, `Usage:` replaces the usage line, `Examples:` is the epilog, and
`KeyboardInterrupt` under `Raises:` says what an interrupted command leaves. `console` is no argument. What is not
given is not passed, so that a default stands in one place.
"""

import argparse
import ast
import importlib.util
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from distill_mtl.jobs import Job

REQUIRED = object()
_SECTION = re.compile(r"^(Usage|Args(?: [^:\n]+)?|Returns|Raises|Examples):\n", re.MULTILINE)
_ENTRY = re.compile(r"^(\w+)(?: \((.+?)\))?: ", re.MULTILINE)
_FORM = re.compile(
    r"(?P<flag>--[\w-]+)? ?(?P<bare>\[\w+\])?(?P<metavar>[^ ]*?)(?P<several> \.\.\.)?(?P<repeated>, repeated)?"
)


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function: its name, type and default as they are written, and what its docstring says."""

    name: str
    annotation: str
    default: Any
    keyword: bool
    form: str
    help: str
    group: str


@dataclass(frozen=True)
class Signature:
    """What the source of a function, or of a module, says of a command."""

    description: str
    usage: str
    examples: str
    interrupted: str
    parameters: list[Parameter]

    @property
    def summary(self) -> str:
        """The first line, as it stands in a list of commands."""
        first = self.description.partition("\n")[0].rstrip(".")
        return first[:1].lower() + first[1:]


def read_function(module: str, name: str) -> Signature:
    """A function of a module; where it is overloaded, the last definition counts."""
    node = [each for each in _source(module).body if isinstance(each, ast.FunctionDef) and each.name == name][
        -1
    ]
    positional, keywords = node.args.args, node.args.kwonlyargs
    defaults = [
        *[None] * (len(positional) - len(node.args.defaults)),
        *node.args.defaults,
        *node.args.kw_defaults,
    ]
    arguments = [
        (one, default, one in keywords)
        for one, default in zip([*positional, *keywords], defaults, strict=True)
        if one.arg != "console"
    ]
    return _signature(ast.get_docstring(node) or "", arguments, ast.get_docstring(_source(module)) or "")


def read_module(name: str) -> Signature:
    """The docstring of a module, whose functions are the ways of one command."""
    return _signature(ast.get_docstring(_source(name)) or "", [], "")


@cache
def _source(module: str) -> ast.Module:
    """Parsed; only the packages around it are imported."""
    found = importlib.util.find_spec(module)
    assert found is not None
    assert found.origin is not None
    return ast.parse(Path(found.origin).read_text(encoding="utf-8"))


def _signature(
    text: str, arguments: Sequence[tuple[ast.arg, ast.expr | None, bool]], around: str
) -> Signature:
    """What a docstring says of arguments; of those that it does not name, the docstring `around` it."""
    description, sections = _sections(text)
    said: dict[str, tuple[str, str, str]] = {}
    for title, body in [*_sections(around)[1].items(), *sections.items()]:
        if title.startswith("Args"):
            group = title.removeprefix("Args").strip()
            said |= {name: (form, told, group) for name, form, told in _entries(body)}
    raised = {name: told for name, _, told in _entries(sections.get("Raises", ""))}
    return Signature(
        description,
        sections.get("Usage", ""),
        sections.get("Examples", ""),
        raised.get("KeyboardInterrupt", "interrupted."),
        [
            Parameter(
                one.arg,
                ast.unparse(one.annotation) if one.annotation is not None else "",
                REQUIRED if default is None else ast.literal_eval(default),
                keyword,
                *said.get(one.arg, ("", "", "")),
            )
            for one, default, keyword in arguments
        ],
    )


def _sections(text: str) -> tuple[str, dict[str, str]]:
    """What stands before the sections of a docstring, and each section by its title."""
    description, *rest = _SECTION.split(text)
    return description.strip(), {
        title: textwrap.dedent(body).strip("\n") for title, body in zip(rest[::2], rest[1::2], strict=True)
    }


def _entries(body: str) -> Iterator[tuple[str, str, str]]:
    """Name, form and text of each entry of a section."""
    _, *rest = _ENTRY.split(body)
    for name, form, text in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        yield name, form or "", " ".join(text.split())


class HelpFormatter(argparse.HelpFormatter):
    """Wraps paragraphs, and leaves those with indented lines as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            part if re.search(r"^ ", part, re.MULTILINE) else textwrap.fill(" ".join(part.split()), width)
            for part in text.split("\n\n")
        )


def parser_options(read: Signature) -> dict[str, Any]:
    """What a docstring says to argparse's parser."""
    return {
        "description": read.description,
        "epilog": read.examples,
        "usage": read.usage.replace("\n", "\n       ").replace("%", "%%") or None,
        "formatter_class": HelpFormatter,
    }


def add_arguments(parser: argparse.ArgumentParser, job: Job, read: Signature) -> None:
    """An argument for each parameter; `arguments.job` and `arguments.interrupted` for cli.py."""
    groups: dict[str, Any] = {"": parser}
    for one in read.parameters:
        if one.group not in groups:
            groups[one.group] = parser.add_argument_group(one.group)
        _add(groups[one.group], one)
    if job.keeps_data:
        parser.add_argument(
            "--cache",
            type=Path,
            metavar="DIR",
            help="where generated and downloaded data is kept; default $DISTILL_MTL_CACHE, else ~/.cache/distill_mtl",
        )
    parser.set_defaults(job=job, interrupted=read.interrupted)


def _add(group: Any, one: Parameter) -> None:
    form, kind = _FORM.fullmatch(one.form), one.annotation.removesuffix(" | None")
    assert form is not None, f"{one.name}: {one.form}"
    options: dict[str, Any] = {"help": _help(one), "default": argparse.SUPPRESS}
    if kind == "bool":
        options["action"] = "store_true"
    else:
        options |= {"type": _type(kind), "metavar": form["metavar"] or None}
        if kind.startswith("Literal["):
            options |= {"choices": ast.literal_eval(kind.removeprefix("Literal")), "type": str}
        if form["several"]:
            options["nargs"] = "+"
        if form["bare"]:
            options |= {"nargs": "?", "const": form["bare"].strip("[]")}
        if form["repeated"]:
            options["action"] = _Pairs if kind.startswith("Mapping[") else "append"
    flag = form["flag"] or "--" + one.name.replace("_", "-")
    if not one.keyword and not form["flag"]:
        if one.default is not REQUIRED:
            options["nargs"] = "?"
        group.add_argument(one.name, **options)
        return
    if isinstance(one.default, int) and one.annotation.endswith(" | None"):
        group = group.add_mutually_exclusive_group()
        options["help"], none = options["help"].split(" None: ")
        without = {"action": "store_const", "const": None, "default": argparse.SUPPRESS, "help": none}
        group.add_argument(f"--no-{flag[2:]}", dest=one.name, **without)
    group.add_argument(flag, dest=one.name, required=one.default is REQUIRED, **options)


def _help(one: Parameter) -> str:
    text = one.help.rstrip(".").replace("%", "%%")
    shown = isinstance(one.default, int | str) and not isinstance(one.default, bool) and one.default != ""
    return f"{text}; default {one.default}" if shown else text


def _type(kind: str) -> Any:
    if kind.startswith("Mapping["):
        return _pair_of_yaml if "Any" in kind else _pair
    if "Path" in kind:
        return Path
    return _whole_number if kind == "int" else str


def _whole_number(text: str) -> int:
    if not text.removeprefix("-").isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text}")
    return int(text)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, found {text}")
    return key, value


def _pair_of_yaml(text: str) -> tuple[str, Any]:
    import yaml

    key, value = _pair(text)
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{value} is not YAML") from None


class _Pairs(argparse.Action):
    """Collects `KEY=VALUE`, given again and again, in a dictionary."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        found = getattr(namespace, self.dest, {})
        for key, value in [values] if isinstance(values, tuple) else values:
            if key in found:
                raise argparse.ArgumentError(self, f"{key} is given twice")
            found[key] = value
        setattr(namespace, self.dest, found)
