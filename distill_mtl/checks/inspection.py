"""`distill-mtl teacher inspect`: what a teacher's files state, what is assumed, and the lines for a recipe."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill_mtl.checks.recipe_draft import classes_in_words, teacher_lines
from distill_mtl.display import messages
from distill_mtl.networks.box_form import KEYS, BoxReading
from distill_mtl.networks.box_network import BoxNetwork
from distill_mtl.networks.features import FeatureShape
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.task_network import TaskNetwork
from distill_mtl.recipe.load import absolute_teacher
from distill_mtl.recipe.schema import OutputSection, TaskSection, TeacherSection
from distill_mtl.recipe.yaml_writer import write_yaml
from distill_mtl.tasks.base import is_user_kind
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.teachers.teacher import Teacher

_LAYERS_SHOWN = 24
_FILE, _GIVEN, _FOUND, _ASSUMED, _DEFAULT = (
    "the file",
    "command line",
    "found on a trial",
    "assumed",
    "default",
)

ContractRow = tuple[str, str, str]
"""A key, its value, and where it comes from."""


def print_inspection(section: TeacherSection, task: str, console: Console, *, everything: bool) -> None:
    """Load a teacher and print its input and output contract, its layers, and its lines for a recipe.

    Args:
        section: names the teacher; its paths are as they were typed.
        task: a name for its task.
        console: where to print.
        everything: print every layer instead of one of each shape.

    Raises:
        UserError: it cannot be loaded.
    """
    with messages().status("opening it and running it once"):
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
    yield f"{card.place}: {card.form}" + (" (code that you trust)" if card.program else "")
    for file, digest in card.files.items():
        yield f"{file.name}: {_bytes(file.stat().st_size)}, sha256 {digest}"
    parameters = sum(parameter.numel() for parameter in teacher.parameters()) or teacher.parameter_count
    # Some runtimes do not expose their weights.
    yield f"parameters: {parameters:,}" if parameters else "parameters: not known"
    if card.score is not None:
        rows = f" on {card.score.rows:,} rows" if card.score.rows else ""
        yield f"recorded: {card.score.metric} {card.score.score:.2f}{rows} (score.json)"


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _input(teacher: Teacher, section: TeacherSection) -> Iterator[ContractRow]:
    card, contract = teacher.card, teacher.card.inputs
    for key in (field.name for field in fields(InputContract)):
        value = getattr(contract, key)
        if getattr(section.input, key) is not None:
            source = _GIVEN
        else:
            tried = key == "channels" and value == "grey"  # otherwise it would be told, or assumed
            source = _FOUND if tried else _DEFAULT
            source = _FILE if key in card.told else _ASSUMED if key in card.assumed else source
        if key == "size":
            value = f"{value[0]} x {value[1]}"
        elif key == "crop":
            value = f"{value:.4g}"
        elif key in ("mean", "std"):
            value = "  ".join(f"{number:.4g}" for number in value)
        yield key, "any" if value is None else str(value), source


def _output(teacher: Teacher, section: TeacherSection) -> Iterator[ContractRow]:
    network, card, given = teacher.network, teacher.card, section.output
    reading = network.reading if isinstance(network, BoxNetwork) else None
    read = [network.answer] if reading is None else list(reading.outputs.values())
    others = [name for name in network.outputs if name not in read]
    first = "the first output" if others else "the only output"
    if reading is None:
        yield "answer", _shaped(network, network.answer), first if given.name is None else _GIVEN
    else:
        yield from _boxes(network, reading, given)
    for name in others:
        yield "", _shaped(network, name), "another output: `output.name`"
    if reading is None:
        form = "its form" if card.trunk is not None else _FOUND
        yield "gives", network.gives, _GIVEN if given.gives else form
    if network.one_logit:
        one = "one logit" if network.gives == "logits" else "one probability"
        yield (
            "",
            f"{one}: read as two classes, above {'0' if network.gives == 'logits' else '0.5'} the second",
            "",
        )
    kind_from = "the shape of its answer" if reading is None else "its boxes"
    yield "kind", card.kind, _FILE if "kind" in card.told else kind_from
    told = "classes" in card.told and not (network.one_logit and card.classes == ("0", "1"))
    named = _FILE if told else "the width of its answer"
    yield "classes", classes_in_words(card), named if section.classes is None else _GIVEN


def _boxes(network: TaskNetwork, reading: BoxReading, given: OutputSection) -> Iterator[ContractRow]:
    """How a detector's outputs are read."""
    for role, name in reading.outputs.items():
        yield ("answer" if role == next(iter(reading.outputs)) else ""), _shaped(network, name), role
    yield "gives", "boxes", _GIVEN if given.gives else _FOUND
    yield "form", f"{reading.form}: {reading.kind.words}", _GIVEN if given.form else "names and shapes"
    for key in KEYS:
        value = getattr(reading, key)
        source = _FOUND if key in reading.found else "its form"
        said = "none: the network does it" if value is None else str(value)
        yield key, said, _GIVEN if getattr(given, key) is not None else source


def _shaped(network: TaskNetwork, output: str) -> str:
    return f"{output} [{', '.join(['B', *map(str, network.outputs[output])])}]"


def _contract(title: str, rows: Iterator[ContractRow]) -> Table:
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
        console.print("layers: none, so its task learns without hints.")
        return
    shown = layers if everything or len(layers) <= _LAYERS_SHOWN else _one_of_each_shape(layers, default)
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


def _one_of_each_shape(layers: Mapping[str, FeatureShape], default: str | None) -> dict[str, FeatureShape]:
    """The last of the outermost layers of each shape, and the default layer."""
    chosen: dict[FeatureShape, str] = {}
    for name, shape in layers.items():
        if shape not in chosen or name.count(".") <= chosen[shape].count("."):
            chosen[shape] = name
    return {name: shape for name, shape in layers.items() if name in chosen.values() or name == default}


def _recipe(teacher: Teacher, section: TeacherSection, task: str) -> str:
    entry: dict[str, Any] = {}
    if teacher.card.kind != TaskSection.model_fields["kind"].default:
        entry["kind"] = teacher.card.kind
    if is_user_kind(teacher.card.kind):
        entry["trust"] = True
    entry["teacher"] = teacher_lines(section, teacher)
    return write_yaml({"tasks": {task: entry}}).rstrip()
