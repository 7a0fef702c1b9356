"""From the signature and docstring of a job to its command: arguments, help, defaults, choices, epilog.

Source is read, not imported: a job's module imports torch, and help has to come at once. Typer, cyclopts and
jsonargparse would import the function (and take 0.2 to 0.35 s of their own), and none of them can say
`--set KEY=VALUE` again and again beside `--against MODEL MODEL` and `--preprocess [uint8]`. argparse can.

What argparse needs beyond Python's signature stands in the docstring, in the brackets of Google's style:

    Args:
        against (MODEL ...): one value or several; without brackets one value, called as the parameter.
        overrides (--set KEY=VALUE, repeated): an option of another name, that may be given again and again.
        preprocess ([float]): the value may be left out, and is `float` then.
        shuffle (SEED): what a value says. None: what --no-shuffle says.

A section `Args TITLE:` is a group in the help, `Usage:` replaces the usage line, `Examples:` is the epilog, and
`KeyboardInterrupt` under `Raises:` says what an interrupted command leaves. `console` is not one. An argument that
a function does not describe is described by its module, or by another one of jobs/ that its module imports. What is not
given is not passed.
"""

import argparse
import ast
import re
import textwrap
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from distill_mtl.errors import UserError

REQUIRED = object()
_SECTION = re.compile(r"^(Usage|Args(?: [^:\n]+)?|Returns|Raises|Examples):\n", re.MULTILINE)
_ENTRY = re.compile(r"^(\w+)(?: \((.+?)\))?: ", re.MULTILINE)
_FORM = re.compile(
    r"(?P<flag>--[\w-]+)? ?(?P<bare>\[\w+\])?(?P<metavar>[^ ]*?)(?P<several> \.\.\.)?(?P<repeated>, repeated)?"
)


@dataclass(frozen=True)
class Parameter:
    """A parameter: its name, type and default as they are written, and what the docstring says of it."""

    name: str
    annotation: str
    default: Any
    keyword: bool
    form: str = ""
    help: str = ""
    group: str = ""


class Docstring:
    """A docstring, taken apart.

    Attributes:
        description: what stands before the sections.
        sections: by title, without their indentation.
        arguments: by name: form, text, and title of the group.
    """

    def __init__(self, text: str) -> None:
        self.description, *rest = _SECTION.split(text)
        self.description = self.description.strip()
        self.sections = {
            title: textwrap.dedent(body).strip("\n")
            for title, body in zip(rest[::2], rest[1::2], strict=True)
        }
        self.arguments = {
            name: (form, told, title.removeprefix("Args").strip())
            for title in self.sections
            if title.startswith("Args")
            for name, (form, told) in self._entries(title).items()
        }

    @property
    def summary(self) -> str:
        """The first line, as it stands in a list of commands."""
        first = self.description.partition("\n")[0].rstrip(".")
        return first[:1].lower() + first[1:]

    @property
    def interrupted(self) -> str:
        """What to say where the user interrupts it."""
        return self._entries("Raises").get("KeyboardInterrupt", ("", "interrupted."))[1]

    @property
    def parser(self) -> dict[str, Any]:
        """Arguments for argparse's parser."""
        usage = self.sections.get("Usage", "").replace("\n", "\n       ").replace("%", "%%")
        return {
            "description": self.description,
            "epilog": self.sections.get("Examples"),
            "usage": usage or None,
            "formatter_class": _HelpFormatter,
        }

    def _entries(self, title: str) -> dict[str, tuple[str, str]]:
        _, *rest = _ENTRY.split(self.sections.get(title, ""))
        entries = zip(rest[::3], rest[1::3], rest[2::3], strict=True)
        return {name: (form or "", " ".join(text.split())) for name, form, text in entries}


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps paragraphs, and leaves those with indented lines as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(
            part if re.search(r"^ ", part, re.MULTILINE) else textwrap.fill(" ".join(part.split()), width)
            for part in text.split("\n\n")
        )


@cache
def _source(module: str) -> ast.Module:
    return ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))


def module_docstring(module: str) -> Docstring:
    """Of a module whose functions are the ways of one command."""
    return Docstring(ast.get_docstring(_source(module)) or "")


def _imported(module: str) -> list[str]:
    """The modules beside a module that it imports from."""
    package = f"{__name__.rpartition('.')[0]}."
    found = [str(node.module) for node in _source(module).body if isinstance(node, ast.ImportFrom)]
    return [name.removeprefix(package) for name in found if name.startswith(package)]


def read_function(module: str, name: str) -> tuple[Docstring, list[Parameter]]:
    """A function of a module; where it is overloaded, the last definition counts."""
    node = [each for each in _source(module).body if isinstance(each, ast.FunctionDef) and each.name == name][
        -1
    ]
    told = Docstring(ast.get_docstring(node) or "")
    said = dict[str, Any]()
    for described in (*_imported(module), module):
        said |= module_docstring(described).arguments
    said |= told.arguments
    positional, keywords = node.args.args, node.args.kwonlyargs
    defaults = [
        *[None] * (len(positional) - len(node.args.defaults)),
        *node.args.defaults,
        *node.args.kw_defaults,
    ]
    return told, [
        Parameter(
            one.arg,
            ast.unparse(one.annotation) if one.annotation is not None else "",
            REQUIRED if default is None else ast.literal_eval(default),
            one in keywords,
            *said.get(one.arg, ()),
        )
        for one, default in zip([*positional, *keywords], defaults, strict=True)
        if one.arg != "console"
    ]


def add_arguments(parser: argparse.ArgumentParser, parameters: list[Parameter]) -> None:
    """An argument of the parser for each parameter."""
    groups: dict[str, Any] = {"": parser}
    for one in parameters:
        if one.group not in groups:
            groups[one.group] = parser.add_argument_group(one.group)
        _add(groups[one.group], one)


def _add(group: Any, one: Parameter) -> None:
    form, kind = _FORM.fullmatch(one.form), one.annotation.removesuffix(" | None")
    assert form is not None, f"{one.name}: {one.form}"
    text, _, without = one.help.rstrip(".").replace("%", "%%").partition(" None: ")
    options: dict[str, Any] = {"help": text.rstrip("."), "default": argparse.SUPPRESS}
    if kind == "bool":
        options["action"] = "store_true"
    else:
        options |= {"type": _type(kind), "metavar": form["metavar"] or None}
        if kind.startswith("Literal["):
            options["choices"] = ast.literal_eval(kind.removeprefix("Literal"))
        if form["several"]:
            options["nargs"] = "+"
        if form["bare"]:
            options |= {"nargs": "?", "const": form["bare"].strip("[]")}
        if form["repeated"]:
            options["action"] = _Pairs if kind.startswith("Mapping[") else "append"
        if one.default not in (REQUIRED, None, "", ()):
            options["help"] += f"; default {one.default}"
    flag = form["flag"] or "--" + one.name.replace("_", "-")
    if not one.keyword and not form["flag"]:
        if one.default is not REQUIRED:
            options |= {
                "nargs": "?",
                "default": one.default,
            }  # argparse would give SUPPRESS itself to the type
        group.add_argument(one.name, **options)
        return
    if without:
        group = group.add_mutually_exclusive_group()
        none = {"action": "store_const", "const": None, "default": argparse.SUPPRESS, "help": without}
        group.add_argument(f"--no-{flag[2:]}", dest=one.name, **none)
    group.add_argument(flag, dest=one.name, required=one.default is REQUIRED, **options)


def _type(kind: str) -> Any:
    if kind.startswith("Mapping["):
        return _pair_of_yaml if "Any" in kind else _pair
    if "Path" in kind:
        return _place if "str" in kind else Path
    return {"int": _whole_number, "float": _number}.get(kind, str)


def _place(text: str) -> Path | str:
    """A path, or a URL as it is: a path would lose a slash of it."""
    return text if "://" in text else Path(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, found {text}") from None


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
    from distill_mtl.recipe.yaml_reader import parse_yaml

    key, value = _pair(text)
    try:
        return key, parse_yaml(value, Any, key)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class _Pairs(argparse.Action):
    """Collects `KEY=VALUE`, given again and again, in a dictionary."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        found = getattr(namespace, self.dest, {})
        for key, value in [values] if isinstance(values, tuple) else values:
            if key in found:
                raise argparse.ArgumentError(self, f"{key} is given twice")
            found[key] = value
        setattr(namespace, self.dest, found)
