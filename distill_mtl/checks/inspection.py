"""`distill-mtl teacher inspect`: what a teacher's files say, what is assumed, and the lines for a recipe."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill_mtl.checks.recipe_draft import classes_in_words, teacher_lines
from distill_mtl.networks.features import FeatureShape
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.task_network import TeacherNetwork
from distill_mtl.recipe.command_line import read_teacher
from distill_mtl.recipe.commented import write_yaml
from distill_mtl.recipe.paths import absolute_teacher
from distill_mtl.recipe.schema import TaskSection, TeacherSection
from distill_mtl.tasks.base import is_own
from distill_mtl.teachers.load import load_teacher
from distill_mtl.teachers.teacher import Teacher

_LONG = 24  # layers that are shown one by one
_FILE, _SAID, _FOUND, _ASSUMED, _DEFAULT = (
    "the file",
    "command line",
    "found on a trial",
    "assumed",
    "default",
)

Row = tuple[str, str, str]
"""A key, its value, and where it comes from."""


def inspect_teacher(
    values: Mapping[str, Any], overrides: Sequence[str], task: str, console: Console, *, everything: bool
) -> None:
    """Load a teacher and print both of its contracts, its layers, and what a recipe says to get it.

    Args:
        values, overrides, task: as in `read_teacher`.
        console: where to print.
        everything: every layer, not only one of each shape.

    Raises:
        UserError: it cannot be loaded.
    """
    section = read_teacher(values, overrides, task)
    with Console(stderr=True).status("opening it and running it once"):
        teacher = load_teacher(absolute_teacher(section), task=task, layers=(None,))
        layers = teacher.network.features()
    for line in _files(teacher):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(_contract("input", _input(teacher, section)))
    console.print(_contract("output", _output(teacher, section)))
    _show_layers(console, teacher, layers, everything)
    console.print("\nfor a recipe", style="bold")
    console.print(_recipe(teacher, section, task), highlight=False, markup=False, soft_wrap=True)


def _files(teacher: Teacher) -> Iterator[str]:
    card = teacher.card
    yield f"{card.place}: {card.form}" + (" (code, which you trust)" if card.program else "")
    for file, digest in card.files.items():
        yield f"{file.name}: {_bytes(file.stat().st_size)}, sha256 {digest}"
    parameters = sum(parameter.numel() for parameter in teacher.parameters()) or teacher.parameter_count
    # A runtime of its own keeps its weights to itself.
    yield f"parameters: {parameters:,}" if parameters else "parameters: not known"
    if card.score is not None:
        rows = f" on {card.score.rows:,} rows" if card.score.rows else ""
        yield f"recorded: {card.score.metric} {card.score.score:.2f}{rows} (score.json)"


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _input(teacher: Teacher, section: TeacherSection) -> Iterator[Row]:
    card, contract = teacher.card, teacher.card.inputs
    for key in (field.name for field in fields(InputContract)):
        value = getattr(contract, key)
        if getattr(section.input, key) is not None:
            source = _SAID
        else:
            source = _FILE if key in card.told else _ASSUMED if key in card.assumed else _DEFAULT
        if key == "size":
            value = f"{value[0]} x {value[1]}"
        elif key in ("mean", "std"):
            value = "  ".join(f"{number:.4g}" for number in value)
        yield key, "any" if value is None else str(value), source


def _output(teacher: Teacher, section: TeacherSection) -> Iterator[Row]:
    network, card, said = teacher.network, teacher.card, section.output
    others = [name for name in network.outputs if name != network.answer]
    first = "the first output" if others else "the only output"
    yield "answer", _shaped(network, network.answer), first if said.name is None else _SAID
    for name in others:
        yield "", _shaped(network, name), "another output: `output.name`"
    yield "gives", network.gives, _SAID if said.gives else "its form" if card.trunk is not None else _FOUND
    yield "kind", card.kind, _FILE if "kind" in card.told else "the shape of its answer"
    named = _FILE if "classes" in card.told else "the width of its answer"
    yield "classes", classes_in_words(card), named if section.classes is None else _SAID


def _shaped(network: TeacherNetwork, output: str) -> str:
    return f"{output} [{', '.join(['B', *map(str, network.outputs[output])])}]"


def _contract(title: str, rows: Iterator[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in (title, "", "from"):
        table.add_column(column)
    for key, value, source in rows:
        style = "yellow" if source == _ASSUMED else "dim" if source == _DEFAULT else ""
        table.add_row(key, Text(value), Text(source, style))
    return table


def _show_layers(
    console: Console, teacher: Teacher, layers: Mapping[str, FeatureShape], everything: bool
) -> None:
    default = teacher.card.last_map
    if not layers:
        console.print("layers: none. It gives nothing but its answer, so its task learns without hints.")
        return
    shown = layers if everything or len(layers) <= _LONG else _telling(layers, default)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("layer for hints", "what", "channels", "size", ""):
        table.add_column(column, justify="right" if column in ("channels", "size") else "left")
    for name, shape in shown.items():
        size = f"{shape.size[0]} x {shape.size[1]}" if shape.size is not None else ""
        mark = "the default" if name == default else ""
        table.add_row(name, "vector" if shape.size is None else "map", f"{shape.channels:,}", size, mark)
    console.print(table)
    if len(shown) < len(layers):
        console.print(
            f"{len(shown)} of {len(layers)} layers, one of each shape. All of them: --all", style="dim"
        )
    if not teacher.card.inputs.whole_view:
        text = "Its input is cropped or padded, so its maps do not lie over the view: hints take their mean."
        console.print(text, style="dim")


def _telling(layers: Mapping[str, FeatureShape], default: str | None) -> dict[str, FeatureShape]:
    """Of each shape the outermost layer, the last one of them; and the default."""
    chosen: dict[FeatureShape, str] = {}
    for name, shape in layers.items():
        if shape not in chosen or name.count(".") <= chosen[shape].count("."):
            chosen[shape] = name
    return {name: shape for name, shape in layers.items() if name in chosen.values() or name == default}


def _recipe(teacher: Teacher, section: TeacherSection, task: str) -> str:
    entry: dict[str, Any] = {}
    if teacher.card.kind != TaskSection.model_fields["kind"].default:
        entry["kind"] = teacher.card.kind
    if is_own(teacher.card.kind):
        entry["trust"] = True
    entry["teacher"] = teacher_lines(section, teacher.card)
    return write_yaml({"tasks": {task: entry}}).rstrip()
