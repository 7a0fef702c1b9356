"""The first weights of a head, taken from a trained one: of the student that the run begins with (`student.init`),
or of the task's teacher (`tasks.NAME.head.init: teacher`).

They are read from the folder, so that a run with cached targets need not open a teacher's network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import Tensor, nn

from distill_mtl.errors import StudentError, UserError
from distill_mtl.networks.weights import load_exactly, read_config, read_weights
from distill_mtl.students.format import FORMAT, chosen_head
from distill_mtl.tasks.base import TaskKind

if TYPE_CHECKING:  # a student is loaded without the code of teachers
    from distill_mtl.teachers.label_map import LabelMap


ANEW = "Write `head: {init: random}` to let the task begin anew."


@dataclass(frozen=True)
class FirstHead:
    """Where a task's head begins.

    Attributes:
        place: the teacher's folder, or file; or the old student's folder.
        asked: which of its heads the recipe names; None: the one of the task's name, or the only one.
        labels: how its outputs stand for the task's classes.
        inherited: it is the old student's, which nobody asked for by name.
    """

    place: Path
    asked: str | None
    labels: "LabelMap"
    inherited: bool = False


def load_initial_head(head: nn.Module, kind: TaskKind, task: str, source: FirstHead) -> None:
    """Fill a head's weights with those of a trained one, its outputs in the order of the task's classes.

    What stands for a class that the trained one does not know keeps its random weights.

    Args:
        head: freshly created.
        kind: of the task.
        task: its name in the recipe.
        source: whose head.

    Raises:
        StudentError: the teacher is no folder of ours or of timm's, or its head is another one, or computes with
            other options.
    """
    try:
        state = _head_weights(head, kind, task, source)
        _order_outputs(state, head, source.labels)
        load_exactly(
            head, state, f"the {'student' if source.inherited else 'teacher'}'s head in {source.place}"
        )
    except UserError as error:
        if source.inherited:
            raise StudentError(f"tasks.{task}.head: {error}\n{ANEW}") from error
        raise StudentError(
            f"tasks.{task}.head.init: {error}\nBegin with the teacher's head where it reads the same features: the "
            "student has the teacher's trunk, and `head` the teacher's width and depth. Otherwise use "
            "`init: random`."
        ) from error


def _head_weights(head: nn.Module, kind: TaskKind, task: str, source: FirstHead) -> dict[str, Tensor]:
    """The tensors of the teacher's head, by the names they have in ours."""
    place = source.place
    if not place.is_dir():
        raise UserError(f"{place} is a whole network in one file, which does not say which part is its head.")
    config, state = read_config(place), read_weights(place)
    if config.get("format") == FORMAT:
        named = chosen_head(place, list(config["tasks"]), source.asked, task)
        _refuse_other_options(kind, config["tasks"][named], place)
        prefix = f"heads.{named}."
        return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    name, answer = _classifier(config), _answer(head)
    if not isinstance(name, str) or answer is None:
        raise UserError(f"{place} has no single linear classifier that could stand for this head.")
    parts = {part: state.get(f"{name}.{part}") for part in ("weight", "bias")}
    return {f"{answer}.{part}": value for part, value in parts.items() if value is not None}


def _refuse_other_options(kind: TaskKind, entry: Mapping[str, Any], place: Path) -> None:
    mine = kind.describe()
    for option in kind.head_options:
        if entry.get(option) != mine[option]:
            raise UserError(
                f"the head in {place} was trained with `{option}: {entry.get(option)}`, the task has {mine[option]}, "
                f"under which its weights would mean something else. Write the same under `options`."
            )


def _classifier(config: Mapping[str, Any]) -> Any:
    """Dotted name of the classifier of a network in timm's form; several for a network with several."""
    said = config.get("pretrained_cfg", {}).get("classifier")
    if said is None and timm.is_model(config.get("architecture", "")):
        known = timm.models.get_pretrained_cfg(config["architecture"])
        said = known.classifier if known is not None else None
    return said


def _answer(head: nn.Module) -> str | None:
    """Dotted name of the layer that gives the logits, where the head says which it is."""
    answer = getattr(head, "answer", None)
    return next((name for name, module in head.named_modules() if module is answer), None)


def _order_outputs(state: dict[str, Tensor], head: nn.Module, labels: "LabelMap") -> None:
    """Put what stands for the teacher's outputs where the task has their classes."""
    if labels.known is None and labels.outputs == tuple(range(labels.width)):
        return
    answer, own = _answer(head), head.state_dict()
    if answer is None:
        raise UserError(
            "the teacher's classes are other ones, or in another order, and its head cannot be reordered."
        )
    taken = [*labels.outputs, *range(labels.width, labels.width + labels.rest)]
    count = len(labels.classes)
    places = [*(labels.known or range(count)), *range(count, count + labels.rest)]
    for key in (f"{answer}.weight", f"{answer}.bias"):
        mine = own.get(key)
        if mine is not None and key in state and state[key].shape[1:] == mine.shape[1:]:
            index = torch.tensor(places, device=mine.device)
            state[key] = mine.index_copy(0, index, state[key][taken].to(mine.dtype))
