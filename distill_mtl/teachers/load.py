"""From a recipe's `teacher` to a `Teacher`: find it, open it, compare it with the task."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from distill_mtl.errors import TeacherError, UserError
from distill_mtl.networks.modes import usable_device
from distill_mtl.networks.task_network import Opened, Origin, TeacherNetwork
from distill_mtl.networks.weights import read_score, sha256
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.tasks.base import KINDS, TaskKind, admit_kind, shaping_options
from distill_mtl.teachers.card import TeacherCard
from distill_mtl.teachers.fingerprint import teacher_fingerprint
from distill_mtl.teachers.label_map import LabelMap, match_classes
from distill_mtl.teachers.origin import find_origin
from distill_mtl.teachers.teacher import Teacher


def load_teacher(
    section: TeacherSection,
    *,
    task: str,
    kind: str | None = None,
    layers: Sequence[str | None] = (),
    classes: Sequence[str] | int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Teacher:
    """The teacher of one task.

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
        origin = find_origin(section, task)
        opened = origin.open()
        if kind is not None:
            admit_kind(kind, trust=section.trust, say="`trust: true` (on the command line: --trust)")
        said, kind = kind, _agreed_kind(opened, origin, task, kind)
        network = opened.network
        shaping = shaping_options(kind, opened.options if options is None else options)
        asked = _told(kind, shaping, opened, origin, task)
        network.answers(asked)
        labels = _labels(section, opened, asked, classes, str(origin.place))
        taken = _layers(network, layers)
        network.tap(taken)
        aligned = network.inputs.whole_view
        card = TeacherCard(
            place=origin.place,
            files={file: sha256(file) for file in origin.files},
            kind=kind,
            labels=labels,
            inputs=network.inputs,
            assumed=opened.assumed,
            layers=taken,
            last_map=network.last_map if any(layer is None for layer in layers) else None,
            shapes={
                layer: network.shapes[layer] if aligned else replace(network.shapes[layer], size=None)
                for layer in taken
            },
            code=json.dumps([section.module, section.args], default=str)
            if section.module is not None
            else "",
            fingerprint=teacher_fingerprint(
                section, origin, layers, classes, said, shaping_options(kind, options or {})
            ),
            score=read_score(origin.place) or opened.score,
            form=opened.form,
            program=origin.program,
            told=_in_files(opened),
            trunk=opened.trunk,
            options=shaping,
        )
        home = None if section.device is None else usable_device(section.device, "device:")
        return Teacher(network, card, home)
    except UserError as error:
        raise TeacherError(f"tasks.{task}.teacher: {error}") from error


def _in_files(opened: Opened) -> tuple[str, ...]:
    named = {"kind": opened.kind, "classes": opened.classes}
    return tuple(dict.fromkeys((*opened.told, *(key for key, value in named.items() if value is not None))))


def _told(kind: str, options: Mapping[str, Any], opened: Opened, origin: Origin, task: str) -> type[TaskKind]:
    """The class of the task, which must be the one that the files say."""
    told = KINDS[kind].told(options)
    if opened.kind is not None and KINDS[kind].told(opened.options) is not told:
        made = ", ".join(f"{name}: {value}" for name, value in opened.options.items())
        raise UserError(
            f"{origin.place} is a {kind} network with other options than tasks.{task}.options says. "
            f"Write `options: {{{made}}}`, or name another teacher."
        )
    return told


def _layers(network: TeacherNetwork, layers: Sequence[str | None]) -> tuple[str, ...]:
    """Each layer once, the default by its name; nothing for the default of a network without inner features."""
    named = [network.last_map if layer is None else layer for layer in layers]
    return tuple(dict.fromkeys(layer for layer in named if layer is not None))


def _labels(
    section: TeacherSection,
    opened: Opened,
    kind: type[TaskKind],
    wanted: Sequence[str] | int | None,
    what: str,
) -> LabelMap:
    """Which output stands for which class of the task."""
    width = opened.network.width
    count = kind.classes_of(width)
    if count < 1 or (kind.own_classes is not None and count != len(kind.own_classes)):
        raise UserError(f"{what} has {width} outputs, which is no answer of kind {kind.name}.")
    if kind.own_classes is not None:
        return match_classes(kind.own_classes, count, None, what)
    said = section.classes
    if isinstance(said, int) and said != count:
        raise UserError(
            f"`classes` says {said}, the network has {count} outputs for classes. Correct `classes`."
        )
    named = tuple(said) if isinstance(said, list) else opened.classes
    labels = match_classes(named, count, wanted, what, rest=width - count)
    if labels.known is not None and not kind.partial:
        raise UserError(
            f"{what} {labels.describe}, and a teacher of kind {kind.name} must know all. Remove the others from the "
            "task's `classes`."
        )
    return labels


def _agreed_kind(opened: Opened, origin: Origin, task: str, kind: str | None) -> str:
    """The kind that files, answer and recipe agree on."""
    dense = opened.network.dense
    found = opened.kind or ("segmentation" if dense else "classification")
    if kind is None:
        kind = found
    if opened.kind is not None and opened.kind != kind:
        raise UserError(
            f"{origin.place} is a {opened.kind} network, tasks.{task}.kind says {kind}. "
            f"Write `kind: {opened.kind}`, or name another teacher."
        )
    if KINDS[kind].dense != dense:
        shape = "a map" if dense else "a vector"
        raise UserError(
            f"{origin.place} answers with {shape} for each picture, which is no {kind}, as tasks.{task}.kind says. "
            f"Write `kind: {found}`, choose another output with `output: {{name: ...}}`, or name another teacher."
        )
    if dense and not opened.network.inputs.whole_view:
        raise UserError(
            f"{origin.place} answers with a map, and its input is cropped or padded: map and picture would not lie "
            "over each other. Use `input: {resize: squash, crop: 1}`."
        )
    return kind
