"""From a recipe's `teacher` to a `Teacher`: find the folder's form, open it, compare it with the task."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill_mtl.errors import TeacherError, UserError
from distill_mtl.networks.weights import CONFIG, read_config
from distill_mtl.recipe.schema import TeacherSection
from distill_mtl.teachers.form import FORMS, TeacherNetwork
from distill_mtl.teachers.teacher import Teacher
from distill_mtl.teachers.timm_folder import open_timm_folder


def load_teacher(
    section: TeacherSection,
    *,
    task: str,
    kind: str | None = None,
    layers: Sequence[str | None] = (),
    classes: tuple[str, ...] | int | None = None,
) -> Teacher:
    """The teacher of one task.

    Args:
        section: the folder, and which head of it.
        task: name of the task in the recipe.
        kind: what the recipe says the task is; None: not compared.
        layers: hidden features to give; None stands for the teacher's last map.
        classes: number or names that the recipe says; None: the teacher's.

    Raises:
        TeacherError: the folder is missing, incomplete or broken, has no such head or layer, or is a
            network of another kind or for other classes than the recipe says.
    """
    folder = Path(section.folder)
    try:
        network = _open(folder, section.task, task)
        if kind is not None and network.kind != kind:
            raise UserError(
                f"{folder} is a {network.kind} network, tasks.{task}.kind says {kind}. "
                f"Write `kind: {network.kind}`, or name another teacher."
            )
        network = replace(network, classes=_agreed_classes(network, folder, classes))
        return Teacher(network, folder, layers)
    except UserError as error:
        raise TeacherError(f"tasks.{task}.teacher: {error}") from error


def _open(folder: Path, head: str | None, task: str) -> TeacherNetwork:
    config: dict[str, Any] = read_config(folder)
    if "format" in config:
        return FORMS[config["format"]].open(folder, config, head, task)
    if "architecture" not in config:
        raise UserError(
            f"{folder / CONFIG} is neither timm's (no `architecture`) nor a student's of ours (no `format`). "
            "Save the network with timm.models.save_for_hf(model, FOLDER, safe_serialization=True)."
        )
    if head is not None:
        raise UserError(
            f"{folder} holds a single classifier, so there is no head '{head}' in it. Remove `task`."
        )
    return open_timm_folder(folder, config)


def _agreed_classes(
    network: TeacherNetwork, folder: Path, classes: tuple[str, ...] | int | None
) -> tuple[str, ...]:
    """The names of the classes, once teacher and recipe agree on them."""
    own = network.classes
    if classes is None:
        return own
    mend = "Remove `classes` to take the teacher's."
    count = classes if isinstance(classes, int) else len(classes)
    if isinstance(classes, int) or not network.named:
        if count != len(own):
            raise UserError(f"{folder} says {len(own)} classes, the recipe says {count}. {mend}")
        return own if isinstance(classes, int) else classes
    if classes == own:
        return own
    if sorted(classes) == sorted(own):
        raise UserError(f"{folder} has the recipe's classes in another order ({_some(own)}). {mend}")
    if set(classes) < set(own):
        raise UserError(
            f"{folder} says {len(own)} classes, the recipe names {count} of them. A teacher that knows more "
            f"classes than its task cannot be used. {mend}"
        )
    other = [name for name in classes if name not in own]
    raise UserError(
        f"{folder} does not know the recipe's classes {_some(other)}; it knows {_some(own)}. {mend}"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
