"""A trained network as a teacher: it is opened, and its output is checked against its task.

`load_teacher` is for a recipe's `teacher`, `teachers_of` for a network that stands beside a student in a comparison.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distill_mtl.errors import TeacherError, UserError
from distill_mtl.networks.modes import usable_device
from distill_mtl.networks.network import Network, NetworkFiles
from distill_mtl.networks.opening import open_network
from distill_mtl.networks.task_network import TaskNetwork
from distill_mtl.networks.weights import read_score, sha256
from distill_mtl.recipe.schema import TaskSection, TeacherSection, teacher_keys, teacher_place
from distill_mtl.tasks.base import KINDS, TaskKind, build_kind, import_kind, named_classes, output_options_in
from distill_mtl.teachers.card import TeacherCard
from distill_mtl.teachers.label_map import LabelMap, match_classes, union_of
from distill_mtl.teachers.teacher import Teacher

# What a recipe may say of a teacher that changes nothing in its answers; files count by what is in them.
_SILENT = {
    *("path", "timm", "transformers", "smp", "weights"),
    *("trust", "sha256", "expect", "precision", "compile", "device"),
}


@dataclass(frozen=True)
class Asked:
    """What a network is asked to answer for a task.

    Attributes:
        kind: of the task; None: what the files say, or what the answer looks like.
        classes: names or number; None: the network's.
        options: of the kind; None: what the files say.
    """

    kind: str | None = None
    classes: Sequence[str] | int | None = None
    options: Mapping[str, Any] | None = None

    @classmethod
    def as_by(cls, kind: TaskKind, options: Mapping[str, Any] | None = None) -> "Asked":
        """What another network answers for the same task."""
        return cls(kind.name, named_classes(kind.classes) or len(kind.classes), options)


def load_teacher(
    section: TeacherSection,
    *,
    task: str,
    kind: str | None = None,
    layers: Sequence[str | None] = (),
    classes: Sequence[str] | int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Teacher:
    """The teacher of one task of a recipe.

    Args:
        section: where it lies, and what its files do not say.
        task: name of the task in the recipe.
        kind: what the recipe says the task is; None: what the files say, or what the answer looks like.
        layers: hidden features to give; None stands for the teacher's last map, if it gives one.
        classes: number or names that the recipe says; None: the teacher's.
        options: of the kind, as the recipe says; None: what the files say.

    Raises:
        TeacherError: it is missing, broken, not trusted, has no such head or layer, or is a network of
            another kind or for other classes than the recipe says.
    """
    try:
        network = open_network(section)
        head = network.choose(section.task, task)
        return teacher_of(network, head, Asked(kind, classes, options), task=task, layers=layers)
    except UserError as error:
        raise TeacherError(f"tasks.{task}.teacher: {error}") from error


def load_teachers(
    sections: Sequence[TeacherSection],
    *,
    task: str,
    kind: str | None = None,
    layers: Sequence[Sequence[str | None]],
    classes: Sequence[str] | int | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[Teacher]:
    """The teachers of one task. The task's classes are the union of theirs by name, unless the recipe lists them.

    Args:
        sections: where each lies.
        task, kind, classes, options: as for `load_teacher`.
        layers: of each teacher.

    Raises:
        TeacherError: as `load_teacher`; two teachers are the same one; classes that cannot be united.
    """
    if len(sections) == 1:
        return [
            load_teacher(
                sections[0], task=task, kind=kind, layers=layers[0], classes=classes, options=options
            )
        ]
    places = dict(zip(teacher_keys(task, len(sections)), sections, strict=True))
    opened: dict[str, tuple[Network, str]] = {}
    found: dict[str, Teacher] = {}
    for key, section in places.items():
        try:
            network = open_network(section)
            opened[key] = network, network.choose(section.task, task)
            if classes is None:
                found[key] = teacher_of(*opened[key], Asked(kind, None, options), task=task)
        except UserError as error:
            raise TeacherError(f"{teacher_place(key)}: {error}") from error
    try:
        wanted = classes if classes is not None else _united([one.card for one in found.values()])
        for (key, (network, head)), taken in zip(opened.items(), layers, strict=True):
            asked = Asked(kind, wanted, options)
            found[key] = teacher_of(network, head, asked, task=task, layers=taken, several=True)
        _refuse_twice({key: teacher.card for key, teacher in found.items()})
    except UserError as error:
        raise TeacherError(f"tasks.{task}.teacher: {error}") from error
    return list(found.values())


def teachers_of_task(task: str, section: TaskSection) -> dict[str, Teacher]:
    """By name, the teachers of a task of a recipe, with the layers that its hints read.

    Raises:
        TeacherError: as `load_teachers`.
    """
    teachers = load_teachers(
        section.networks,
        task=task,
        kind=section.kind,
        layers=[
            [hint.teacher for hint in section.hints if hint.of in (None, number)]
            for number in range(1, len(section.networks) + 1)
        ],
        classes=section.classes,
        options=section.options,
    )
    return dict(zip(teacher_keys(task, len(section.networks)), teachers, strict=True))


def _united(cards: Sequence[TeacherCard]) -> Sequence[str] | int | None:
    """The classes of a task with these teachers, whose cards have their own classes."""
    if KINDS[cards[0].kind].class_for(cards[0].options).fixed_classes is not None:
        return None
    named = [named_classes(card.labels.own) for card in cards]
    if all(names is None for names in named) and len({card.labels.width for card in cards}) == 1:
        return cards[0].labels.width
    for card, names in zip(cards, named, strict=True):
        if names is None:
            raise UserError(
                f"the classes of {card.name} have no names, so they cannot be united with those of the other "
                "teachers. Give it `classes`, in the order of its outputs."
            )
    return union_of({card.name: names for card, names in zip(cards, named, strict=True) if names is not None})


def united_classes(cards: Sequence[TeacherCard]) -> tuple[str, ...] | None:
    """The classes that a task takes from these teachers, each of which was loaded for some task; None: other ones."""
    try:
        wanted = _united(cards)
    except UserError:
        return None
    if isinstance(wanted, int) or wanted is None:
        return cards[0].classes
    return tuple(wanted)


def _refuse_twice(cards: Mapping[str, TeacherCard]) -> None:
    seen: dict[str, str] = {}
    for key, card in cards.items():
        if (first := seen.setdefault(card.fingerprint, key)) != key:
            raise UserError(f"{first} and {key} are the same network, {card.name}. Remove one of the two.")


def teachers_of(network: Network, asked: Mapping[str, Asked]) -> dict[str, Teacher]:
    """A network as teachers of some tasks, which share its trunk.

    Args:
        network: opened.
        asked: task -> what is wanted of it. A network with one task answers it under any name.

    Raises:
        UserError: it does not answer these tasks.
    """
    if not network.names_tasks and len(asked) > 1:
        raise UserError(
            f"{network.source.place} answers one task, and {', '.join(asked)} are asked for. Name one with --task."
        )
    teachers = {}
    for task, what in asked.items():
        head = network.choose(network.source.section.task, task)
        teachers[task] = teacher_of(network, head, what, task=task)
    return teachers


def teacher_of(
    network: Network,
    head: str,
    asked: Asked = Asked(),
    *,
    task: str | None = None,
    layers: Sequence[str | None] = (),
    several: bool = False,
) -> Teacher:
    """One task of an opened network as a teacher.

    Args:
        network: on the CPU.
        head: which of its tasks.
        asked: what the task wants.
        task: its name in the recipe; None: the network's.
        layers: as in `load_teacher`.
        several: the task has other teachers, so that this one may know some of its classes only.

    Raises:
        UserError: the network has no such layer, or is one of another kind or for other classes.
    """
    section, source, output = network.source.section, network.source, network.tasks[head]
    reader = network.head(head)
    kind, options = _agreed_task(network, head, asked, task or head)
    shaped = KINDS[kind].class_for(options)
    if reader.gives == "boxes" and not shaped.takes_boxes:
        raise UserError(
            f"{source.place} answers with boxes, which are no answer of kind {kind}, as tasks.{task or head} says. "
            "Write `kind: heatmap`, choose another output with `output: {name: ...}`, or name another teacher."
        )
    reader.know_classes(_count(section.classes, output.classes, asked.classes))
    reader.read_as(shaped)
    named = named_classes(output.classes) if output.classes is not None else None
    if reader.one_logit and named is not None and len(named) == 1:
        named = None  # the name of the second class, or a word for both: neither names two classes
    labels = _labels(section, named, reader.width, shaped, asked.classes, str(source.place), several=several)
    taken = _layers(reader, layers)
    network.tap(head, taken)
    aligned = network.inputs.whole_view
    card = TeacherCard(
        place=source.place,
        files={file: sha256(file) for file in source.files},
        kind=kind,
        labels=labels,
        inputs=network.inputs,
        assumed=network.assumed,
        layers=taken,
        last_map=reader.last_map if any(layer is None for layer in layers) else None,
        shapes={
            layer: reader.shapes[layer] if aligned else replace(reader.shapes[layer], size=None)
            for layer in taken
        },
        code=_code(section),
        fingerprint=teacher_fingerprint(
            section, source, layers, asked.classes, asked.kind, output_options_in(kind, asked.options or {})
        ),
        score=read_score(source.place) or output.score,
        form=output.form,
        program=source.program,
        told=_told(network, head),
        trunk=network.trunk,
        options=options,
    )
    fixed_device = None if section.device is None else usable_device(section.device, "device:")
    return Teacher(reader, card, fixed_device)


def _code(section: TeacherSection) -> str:
    """What makes the network, and with what, where its files do not say it; else empty."""
    made_by = section.module or section.torchvision
    return "" if made_by is None else json.dumps([made_by, section.args], default=str)


def kind_of(teacher: Teacher) -> TaskKind:
    """The kind of task that a teacher answers, with the metric that its folder records."""
    card = teacher.card
    recorded = card.score.metric if card.score is not None else None
    metrics = KINDS[card.kind].class_for(card.options).metrics
    return build_kind(card.kind, card.classes, recorded if recorded in metrics else None, **card.options)


def _told(network: Network, head: str) -> tuple[str, ...]:
    """What the files say: keys of the input contract, `kind`, `classes`."""
    output = network.tasks[head]
    said = {"kind": output.kind, "classes": output.classes}
    return (*network.told, *(key for key, value in said.items() if value is not None))


def teacher_fingerprint(
    section: TeacherSection,
    source: NetworkFiles,
    layers: Sequence[str | None],
    classes: Sequence[str] | int | None,
    kind: str | None,
    options: Mapping[str, Any],
) -> str:
    """Hexadecimal SHA-256 over files, layers, classes, kind, its options and what the recipe says of the teacher.

    Args:
        section: of the recipe.
        source: its files.
        layers: hidden features as the recipe names them; None: the default.
        classes: of the task, as the recipe says.
        kind: of the task, as the recipe says.
        options: of the kind that decide what the outputs stand for, as the recipe says.
    """
    silent = _SILENT | ({"torchvision"} if section.torchvision is None else set())
    content = {
        "files": [sha256(file) for file in source.files],
        "section": section.model_dump(mode="json", exclude=silent),
        "layers": list(layers),
        "kind": kind,
        "options": dict(options),
        "classes": classes if classes is None or isinstance(classes, int) else list(classes),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _agreed_task(network: Network, head: str, asked: Asked, task: str) -> tuple[str, dict[str, Any]]:
    """Kind, and those of its options that decide what the outputs stand for, on which files and recipe agree."""
    section, output = network.source.section, network.tasks[head]
    for name in (asked.kind, output.kind):
        if name is not None:
            import_kind(name, trust=section.trust, say="`trust: true` (on the command line: --trust)")
    kind = _agreed_kind(network, head, task, asked)
    told = output_options_in(kind, output.described)
    options = told if asked.options is None else output_options_in(kind, asked.options)
    if output.kind is not None and KINDS[kind].class_for(told) is not KINDS[kind].class_for(options):
        made = ", ".join(f"{name}: {value}" for name, value in told.items())
        raise UserError(
            f"{network.source.place} is a {kind} network with other options than tasks.{task}.options says. "
            f"Write `options: {{{made}}}`, or name another teacher."
        )
    return kind, options


def _agreed_kind(network: Network, head: str, task: str, asked: Asked) -> str:
    """The kind that files, answer and recipe agree on."""
    place, said, reader = network.source.place, network.tasks[head].kind, network.head(head)
    boxes, dense = reader.gives == "boxes", reader.dense
    found = said or ("heatmap" if boxes else "segmentation" if dense else "classification")
    kind = found if asked.kind is None else asked.kind
    if said is not None and said != kind:
        raise UserError(
            f"{place} is {'an' if said[0] in 'aeiou' else 'a'} {said} network, tasks.{task}.kind says {kind}. "
            f"Write `kind: {said}`, or name another teacher."
        )
    if boxes:
        return kind  # what the input contract does to the view is undone
    described = asked.options if asked.options is not None else network.tasks[head].described
    if KINDS[kind].class_for(output_options_in(kind, described)).dense != dense:
        shape = "a map" if dense else "a vector"
        if "map" in KINDS[kind].output_options:
            raise UserError(
                f"{place} answers with {shape} for each picture. Write `options: {{map: {str(dense).lower()}}}` in "
                f"tasks.{task}, or choose another output with `output: {{name: ...}}`."
            )
        raise UserError(
            f"{place} answers with {shape} for each picture, which is not a {kind}, as tasks.{task}.kind says. "
            f"Write `kind: {found}`, choose another output with `output: {{name: ...}}`, or name another teacher."
        )
    if dense and not network.inputs.whole_view:
        raise UserError(
            f"{place} answers with a map, and its input is cropped or padded: map and picture would not lie "
            "over each other. Use `input: {resize: squash, crop: 1}`."
        )
    return kind


def _count(*said: Sequence[str] | int | None) -> int | None:
    """The number of classes that the first says who says any."""
    first = next((classes for classes in said if classes is not None), None)
    return first if first is None or isinstance(first, int) else len(first)


def _labels(
    section: TeacherSection,
    named: tuple[str, ...] | None,
    width: int,
    kind: type[TaskKind],
    wanted: Sequence[str] | int | None,
    what: str,
    *,
    several: bool = False,
) -> LabelMap:
    """Which output stands for which class of the task."""
    count = kind.classes_of(width)
    if count < 1 or (kind.fixed_classes is not None and count != len(kind.fixed_classes)):
        raise UserError(f"{what} has {width} outputs, which is not an answer of kind {kind.name}.")
    if kind.fixed_classes is not None:
        return match_classes(kind.fixed_classes, count, None, what)
    said = section.classes
    if isinstance(said, int) and said != count:
        raise UserError(
            f"`classes` says {said}, the network has {count} outputs for classes. Correct `classes`."
        )
    named = tuple(said) if isinstance(said, list) else named
    labels = match_classes(named, count, wanted, what, rest=width - count, several=several)
    if labels.known is not None and not (kind.by_class if several else kind.partial):
        raise UserError(
            f"{what} {labels.describe}, and a teacher of kind {kind.name} must know all. Remove the others from the "
            "task's `classes`."
        )
    return labels


def _layers(network: TaskNetwork, layers: Sequence[str | None]) -> tuple[str, ...]:
    """Each layer once, the default by its name; nothing for the default of a network without inner features."""
    named = [network.last_map if layer is None else layer for layer in layers]
    return tuple(dict.fromkeys(layer for layer in named if layer is not None))
