"""Where the tasks leave a student's trunk, where its recipe leaves that to `auto`: found from the teachers, once."""

from collections.abc import Callable, Mapping, Sequence

import torch
from accelerate import PartialState

from distill_mtl.data import Sources
from distill_mtl.display import console_of, messages
from distill_mtl.errors import RecipeError
from distill_mtl.networks.inputs import InputContract
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import AutoBranches, AutoBranchSection
from distill_mtl.students.initial_weights import InitialStudent, create_trunk
from distill_mtl.students.owners import in_words
from distill_mtl.students.student import Trunk
from distill_mtl.targets.facts import Teachers
from distill_mtl.tasks.base import TaskKind
from distill_mtl.training.branching.find import Compared, find_branching, gather
from distill_mtl.training.processes import from_first_process

OpenSources = Callable[[Recipe, Sequence[InputContract]], Sources]


def choose_branches(
    recipe: Recipe,
    teachers: Teachers,
    kinds: Mapping[str, TaskKind],
    old: InitialStudent | None,
    open_sources: OpenSources,
) -> tuple[Recipe, list[str]]:
    """The recipe with `student.branch` decided, and what was decided, in words; all processes decide alike.

    Args:
        recipe: as loaded.
        teachers: of it.
        kinds: task -> its kind, with its classes.
        old: the student that training begins with.
        open_sources: the data sets in the size that these networks want.

    Raises:
        UserError: the teachers cannot be compared, or the trunk cannot be cut.
    """
    asked = recipe.student.branch
    if isinstance(asked, AutoBranchSection):
        options = asked.auto
    elif asked == "auto":
        options = AutoBranches()
    else:
        return recipe, []
    device = PartialState().device
    compared = compare(recipe, teachers, kinds, old, open_sources, options.rows, device)
    console = console_of(messages(), first=PartialState().is_main_process)
    with console.status("student.branch: comparing the teachers") as status:
        found = find_branching(compared, options.budget, options.by, status.update)
    for layers in compared.teachers.values():
        layers.teacher.to(torch.device("cpu"))
    branch = from_first_process(found.branch)
    student = recipe.student.model_copy(update={"branch": branch or None})
    said = in_words(branch) or "one trunk, no tree is worth its size"
    found_by = f"auto: {options.by} of the teachers, within {options.budget:g} networks"
    return recipe.model_copy(update={"student": student}), [f"branch: {said} ({found_by})"]


def compare(
    recipe: Recipe,
    teachers: Teachers,
    kinds: Mapping[str, TaskKind],
    old: InitialStudent | None,
    open_sources: OpenSources,
    rows: int,
    device: torch.device,
) -> Compared:
    """What is compared of a recipe: its teachers on rows of its data, at the depths of the trunk in one piece."""
    trunk = _trunk(recipe, old)
    inputs = [trunk.inputs, *(card.inputs for card in teachers.cards.values())]
    return gather(trunk, teachers, kinds, open_sources(recipe, inputs), rows, device)


def _trunk(recipe: Recipe, old: InitialStudent | None) -> Trunk:
    """The student's trunk with random weights."""
    section = recipe.student if old is None else old.settle(recipe.student, list(recipe.tasks))
    if section.architecture is None:
        raise RecipeError("student.branch: the student has no `model`, so its stages are unknown. Add it.")
    with torch.random.fork_rng(devices=[]):
        return create_trunk(section, pretrained=False)
