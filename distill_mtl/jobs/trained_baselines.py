"""Baselines of a finished run, trained where they are not there yet: by the same code, on the same data.

`labels_only` is the run's own student without teachers; `single_task` is a network of the same trunk for each task,
trained on its own labels for as many steps. They lie in RUN/baselines/, each a run folder of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from torch import nn

from distill_mtl.errors import RecipeError, Stopped, UserError, nearest
from distill_mtl.evaluation import Comparison, Evaluation, TaskResult
from distill_mtl.evaluation.comparison import ComparisonSettings, scores_with_progress
from distill_mtl.evaluation.result import Baseline
from distill_mtl.files import refuse_full_disks, size_on_disk
from distill_mtl.jobs.distill import distill
from distill_mtl.networks.network import Network
from distill_mtl.networks.opening import exists, find_network, open_network
from distill_mtl.networks.weights import WEIGHTS
from distill_mtl.recipe import Recipe, dump_recipe
from distill_mtl.recipe.schema import BalanceSection
from distill_mtl.students.student_folder import load_student
from distill_mtl.tasks.base import TaskKind
from distill_mtl.teachers.load_teacher import Asked, teachers_of
from distill_mtl.teachers.shared_trunks import JoinedTeachers
from distill_mtl.teachers.teacher import Teacher
from distill_mtl.training.checkpoint import run_bytes
from distill_mtl.training.run_folder import RunFolder

LABELS_ONLY, SINGLE_TASK = "labels_only", "single_task"
TRAINED = (LABELS_ONLY, SINGLE_TASK)
"""Baselines that are trained on request; any other name is the place of a model."""
_LABELS_ONLY_FOLDER = "labels-only"
_TEACHER = "teacher:"


def train_baselines(
    run: RunFolder, recipe: Recipe, wanted: Sequence[str], earlier: Evaluation | None, console: Console
) -> None:
    """Train what is asked for and not there; what was stopped continues from its last checkpoint.

    Args:
        run: the finished run.
        recipe: its resolved recipe.
        wanted: of `TRAINED`, and places of models, which need no training.
        earlier: result of the run, with its steps and seconds; None: not known.
        console: where to say what will be trained.

    Raises:
        UserError: a task without labels, or a baseline of another recipe in the folder.
        Stopped: Ctrl-C or SIGTERM arrived.
    """
    steps, seconds = (None, None) if earlier is None else (earlier.steps, earlier.seconds)
    recipes: dict[str, Recipe] = {}
    if LABELS_ONLY in wanted:
        recipes[_LABELS_ONLY_FOLDER] = labels_only(recipe)
    if SINGLE_TASK in wanted:
        recipes |= {task: single_task(recipe, task, steps) for task in recipe.tasks}
    missing = {name: each for name, each in recipes.items() if not _finished(run.baseline(name), each)}
    if not missing:
        return
    weights = size_on_disk(run.student / WEIGHTS)  # a network for one task is hardly smaller
    needed = {
        run.baseline(name).path: run_bytes(weights, each.training, begun=False)
        for name, each in missing.items()
    }
    refuse_full_disks(needed, f"--baseline, for {run.baselines},")
    console.print(
        f"to train first, into {run.baselines}: {', '.join(missing)}. The run itself took {_minutes(seconds)}; each of "
        f"these takes at most about as long, in all {_minutes(None if seconds is None else seconds * len(missing))}. "
        "After Ctrl-C the same command continues.",
        highlight=False,
        soft_wrap=True,
    )
    for name, each in missing.items():
        folder = run.baseline(name)
        console.print(f"\nbaseline {name}", style="bold")
        try:
            distill(each, out=folder.path, resume=folder.recipe.exists(), console=console)
        except Stopped as stopped:
            raise type(stopped)(
                f"stopped in the baseline {name}. The same `distill-mtl evaluate` continues."
            ) from stopped


def open_baselines(
    wanted: Sequence[str], kinds: Mapping[str, TaskKind], *, trust: bool = False
) -> dict[str, dict[str, Teacher]]:
    """The models among the baselines, opened for the tasks that they share with the run.

    Done before anything is trained or measured, so that a slip of the pen costs no evaluation.

    Args:
        wanted: as in `train_baselines`.
        kinds: of the run's tasks.
        trust: let them run code.

    Raises:
        UserError: one is not there, cannot be loaded, or has no task in common with the run.
    """
    places = [name for name in wanted if name not in TRAINED]
    for place in places:
        if not exists(place):
            beside = Path(place).parent
            there = [str(path) for path in beside.iterdir()] if beside.is_dir() else []
            raise UserError(
                f"--baseline {place}: there is no such run, folder or file; built-in: {', '.join(TRAINED)}."
                f"{nearest(place, [*TRAINED, *there])}"
            )
    return {
        place: teachers_of(
            network, {task: Asked.as_by(kinds[task]) for task in _in_common(place, network, kinds)}
        )
        for place in places
        for network in [open_network(place, trust=trust)]
    }


def measure_baselines(
    run: RunFolder,
    wanted: Sequence[str],
    opened: Mapping[str, Mapping[str, Teacher]],
    comparison: Comparison,
    recipe: Recipe,
    console: Console,
) -> dict[str, Baseline]:
    """Every baseline in the student's place, on the same rows.

    Args:
        run: the finished run, whose baselines are trained.
        wanted: as in `train_baselines`.
        opened: the models among them, by place.
        comparison: of the run's student.
        recipe: of the run.
        console: where progress is shown.
    """
    own = recipe.trusts_code
    settings, kinds = ComparisonSettings.of(recipe), comparison.kinds
    found: dict[str, Baseline] = {}

    def scores(network: nn.Module, tasks: Sequence[str]) -> dict[str, TaskResult]:
        network.to(comparison.rows.device)
        asked = replace(comparison, student=network, kinds={task: kinds[task] for task in tasks})
        return scores_with_progress(name, asked, settings, console)

    for name in wanted:
        if name == LABELS_ONLY:
            student = load_student(run.baseline(_LABELS_ONLY_FOLDER).student, trust=own)
            found[name] = Baseline.of("labels_only", scores(student, list(kinds)))
        elif name == SINGLE_TASK:
            results: dict[str, TaskResult] = {}
            for task in kinds:
                results |= scores(load_student(run.baseline(task).student, trust=own), [task])
            found[name] = Baseline.of("single_task", results)
        else:
            found[name] = Baseline.of("model", scores(JoinedTeachers(opened[name]), list(opened[name])))
    return found


def labels_only(recipe: Recipe) -> Recipe:
    """The run's recipe without teachers in training; they stay for the comparison.

    Rules and schedules that mean something only with teachers go with them.
    """
    tasks = {
        name: section.with_networks(section.networks).model_copy(update={"gate": None})
        for name, section in recipe.tasks.items()
    }
    return recipe.model_copy(
        update={
            "name": _LABELS_ONLY_FOLDER,
            "tasks": tasks,
            "balance": BalanceSection(),
            "schedule": [],
            "training": recipe.training.model_copy(update={"teachers_on": "none"}),
        }
    )


def single_task(recipe: Recipe, task: str, steps: int | None) -> Recipe:
    """The recipe of one task's own network: its labelled data alone, as many steps of as many rows.

    Args:
        recipe: of the run, resolved.
        task: of it.
        steps: of the run, whose epochs were over the rows of all data sets; None: not known.

    Raises:
        RecipeError: no source has labels of the task.
    """
    alone = labels_only(recipe)
    data = {
        name: source.model_copy(update={"labels": {task: source.labels[task]}})
        for name, source in recipe.data.items()
        if task in source.labels
    }
    if not data:
        raise RecipeError(
            f"--baseline {SINGLE_TASK}: no source has labels of {task}, so no network can be trained for it."
        )
    length = {} if steps is None else {"steps": steps, "epochs": None}
    asynchronous = recipe.training.asynchronous
    if asynchronous is not None and isinstance(asynchronous.heads, dict):
        heads = {task: asynchronous.heads[task]}
        asynchronous = asynchronous.model_copy(update={"heads": heads})
    margin = {name: value for name, value in recipe.acceptance.margin.items() if name == task}
    return alone.model_copy(
        update={
            "name": task,
            "student": recipe.student.model_copy(update={"init": _init(recipe, task)}),
            "tasks": {task: alone.tasks[task]},
            "data": data,
            "training": alone.training.model_copy(update=length | {"asynchronous": asynchronous}),
            "acceptance": recipe.acceptance.model_copy(update={"margin": margin, "slices": {}}),
        }
    )


def _init(recipe: Recipe, task: str) -> str:
    """The student's first weights, where they are another task's teacher's by the teacher's place."""
    init = recipe.student.init
    owner, _, number = init.removeprefix(_TEACHER).partition("/")
    if not init.startswith(_TEACHER) or owner == task:
        return init
    return str(find_network(recipe.tasks[owner].networks[int(number or 1) - 1]).place)


def _finished(folder: RunFolder, recipe: Recipe) -> bool:
    """Whether the folder holds this baseline, to its end.

    Raises:
        UserError: it holds one of another recipe.
    """
    if not folder.recipe.exists():
        return False
    try:
        folder.refuse(dump_recipe(folder.decided(recipe)), resume=True, overwrite=False)
    except UserError as error:
        raise UserError(f"{error}\nIt is a baseline of an earlier run. Delete {folder.path}.") from error
    return folder.results.exists()


def _in_common(place: str, network: Network, kinds: Mapping[str, TaskKind]) -> list[str]:
    """The run's tasks that a model answers; one that does not name its tasks answers the only one."""
    tasks = list(network.tasks)
    if not network.names_tasks:
        tasks = list(kinds) if len(kinds) == 1 else []
    shared = [task for task in kinds if task in tasks]
    if not shared:
        said = f"its tasks are {', '.join(tasks)}" if tasks else "it does not name its tasks"
        raise UserError(
            f"--baseline {place}: it has no task in common with the run ({', '.join(kinds)}): {said}. Compare it with "
            f"`distill-mtl evaluate --student RUN --against {place} --task NAME --data SHARDS`."
        )
    return shared


def _minutes(seconds: float | None) -> str:
    if seconds is None:
        return "a time that is not known"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
