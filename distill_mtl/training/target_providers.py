"""From a recipe to its target providers: live teachers or their cache, self-teachers, and confidence masks.

Whether teachers run or the cache is read is decided once (`choose_targets`), before anything else is built.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from distill_mtl.data import Sources
from distill_mtl.distillation.term import LossConfig
from distill_mtl.errors import CacheError, RecipeError, StoppedElsewhere
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import SelfTeacherSection, TaskSection, task_of, teacher_keys
from distill_mtl.system_errors import megabytes
from distill_mtl.targets.bucket_sidecars import bring_sidecars, cached_in_bucket
from distill_mtl.targets.cached import CachedTargets, OpenCache, StoredViews
from distill_mtl.targets.combined import Gate
from distill_mtl.targets.encoding import AnswerCodec, Numbers
from distill_mtl.targets.ensembles import Ensemble, ensembles_of
from distill_mtl.targets.facts import TeacherFacts, Teachers
from distill_mtl.targets.plan import SidecarFolders, Unit, plan_cache
from distill_mtl.targets.provider import Rows
from distill_mtl.tasks.base import KINDS, TaskKind
from distill_mtl.teachers.card import TeacherCard

DECAY = 0.999
"""Of a self-teacher that is an average, where the recipe names none."""
FREEZES = 10
"""How often a self-teacher is frozen where the recipe does not say and the stream has no phases."""
ANNEALED_EPOCHS = 10
"""Until the targets of rows with a label weigh nothing: teacher annealing (Clark et al. 2019, arXiv:1907.04829, section
3.2), over epochs rather than the run: the longer a run, the less a teacher adds to labels, and after 20 epochs it costs
(MultiMNIST in benchmarks/README.md)."""

ConfigsOf = Callable[[Recipe], Mapping[str, LossConfig]]


def choose_targets(
    recipe: Recipe, configs_of: ConfigsOf, teachers: Teachers, sources: Sources
) -> tuple[Recipe, CachedTargets | None, str]:
    """Open the cache where the recipe asks for it, or says `auto` and there is one.

    Args:
        recipe: as loaded.
        configs_of: a settled recipe -> how each task is learned.
        teachers: by name.
        sources: of the recipe; with a cache they replay its views from now on.

    Returns:
        The recipe with nothing of its `targets` left to decide; the cache, if it is used; and one
        sentence on what was decided and why.

    Raises:
        CacheError: the recipe says `cached`, and the cache is missing, stale, cut or foreign.
    """
    wanted, live = recipe.targets.from_, settle_targets(recipe, "live")
    if recipe.training.teachers_on == "none":
        return live, None, f"targets: none, labels only{_views(live.targets.view_count)}"
    if wanted == "live":
        return live, None, f"targets: live{_views(live.targets.view_count)}"
    settled = settle_targets(recipe, "cached")
    loss_configs = configs_of(settled)
    used = [name for name in teachers if _uses_teacher(recipe, loss_configs.get(task_of(name)))]
    if not used:
        return live, None, "targets: none, no loss uses a teacher"
    cached, problem = None, None
    if wanted == "cached" or _anything_cached(used, sources):
        cached, problem = _open(settled, loss_configs, {name: teachers.facts(name) for name in used}, sources)
    everywhere = _on_every_process(cached is not None)
    if cached is not None and all(everywhere):
        sources.see_under(StoredViews(cached.cache))
        scores = [f"{name} {score}" for name in used if (score := cached.cache.score(name)) is not None]
        known = f"; its teachers scored {', '.join(scores)}" if scores else ""
        taught = f"targets: cached{_views(cached.cache.views)}, {megabytes(cached.cache.size)}{known}"
        return settled, cached, taught
    if wanted == "cached":
        _refuse(problem, everywhere)
    reason = f"the cache cannot be used\n{problem}\n" if problem else "nothing is cached"
    return live, None, f"targets: live{_views(live.targets.view_count)} (auto: {reason})"


def settle_targets(recipe: Recipe, origin: Literal["live", "cached"]) -> Recipe:
    """The recipe with `auto` decided, in `targets` and in the form of hints, and the number of cached views."""
    targets = recipe.targets
    if targets.from_ == "auto":
        targets = targets.model_copy(update={"from_": origin})
    if targets.from_ == "cached":
        targets = targets.model_copy(update={"views": targets.view_count})
    form = "pooled" if targets.from_ == "cached" else "map"
    tasks = {
        name: task.model_copy(
            update={
                "hints": [
                    hint.model_copy(update={"form": form}) if hint.form == "auto" else hint
                    for hint in task.hints
                ]
            }
        )
        for name, task in recipe.tasks.items()
    }
    return recipe.model_copy(update={"targets": targets, "tasks": tasks})


def live_twin(recipe: Recipe) -> Recipe:
    """The settled recipe of a run whose live teachers see just what the cache of `recipe` holds."""
    cached = recipe.model_copy(update={"targets": recipe.targets.model_copy(update={"from_": "cached"})})
    settled = settle_targets(cached, "cached")
    return settled.model_copy(update={"targets": settled.targets.model_copy(update={"from_": "live"})})


def plan_targets(
    recipe: Recipe,
    loss_configs: Mapping[str, LossConfig],
    facts: Mapping[str, TeacherFacts],
    sources: Sources,
) -> tuple[dict[str, AnswerCodec], list[Unit]]:
    """How each teacher's answers are kept, and every sidecar that the cache of a settled recipe has.

    Teachers whose answers change no loss have none.
    """
    targets = recipe.targets
    codecs = {
        name: AnswerCodec(
            teacher,
            _pooled(loss_configs[task_of(name)], name),
            logits=logits_kept_in(KINDS[teacher.card.kind], targets.logits),
            features=targets.features,
            top_k=targets.top_k
            if KINDS[teacher.card.kind].exclusive and teacher.card.known is None
            else None,
        )
        for name, teacher in facts.items()
        if _uses_teacher(recipe, loss_configs.get(task_of(name)))
    }
    views = targets.view_count or 1
    units = plan_cache(sources.opened, codecs, views=views, size=sources.size, seed=recipe.seed)
    bring_sidecars(units)
    return codecs, units


def logits_kept_in(kind: type[TaskKind], wanted: Numbers) -> Numbers:
    """In what a kind's logits may be kept: of a map of measurements, int8's one scale per row would keep the far end
    and lose the near one; values in a unit of their own need more than fp16's three digits."""
    if kind.precise:
        return "fp32"
    return "fp16" if wanted == "int8" and kind.dense and not kind.exclusive else wanted


def _uses_teacher(recipe: Recipe, loss_config: LossConfig | None) -> bool:
    """Whether the teacher may be used at all; a stage of a schedule may use what the task itself does not; a frozen
    task has no loss."""
    return loss_config is not None and (loss_config.uses_teacher or bool(recipe.schedule))


def _pooled(loss_config: LossConfig, name: str) -> dict[str, bool]:
    """Layer of the teacher -> whether no hint needs its map."""
    pooled: dict[str, bool] = {}
    for pair in (pair for pair in loss_config.hints if pair.of in (None, name)):
        pooled[pair.teacher] = pooled.get(pair.teacher, True) and pair.pooled
    return pooled


def _anything_cached(names: Iterable[str], sources: Sources) -> bool:
    """Whether any sidecar of the tasks of these teachers exists."""
    folders, tasks = SidecarFolders(), list(dict.fromkeys(map(task_of, names)))
    shards = [path for source in sources.opened for path in source.homes("train")]
    if any(folders.all(path, task) for path in shards for task in tasks):
        return True
    return cached_in_bucket(sources.opened, tasks)


def _open(
    recipe: Recipe,
    loss_configs: Mapping[str, LossConfig],
    facts: Mapping[str, TeacherFacts],
    sources: Sources,
) -> tuple[CachedTargets | None, CacheError | None]:
    codecs, units = plan_targets(recipe, loss_configs, facts, sources)
    try:
        cache = OpenCache(units, sources.opened, SidecarFolders())
    except CacheError as error:
        return None, error
    return CachedTargets(cache, codecs, rows_with_targets(recipe)), None


def _on_every_process(opened: bool) -> list[bool]:
    """Which processes opened the cache; machines may have different folders, and all must decide the same."""
    return gather_object([opened]) if PartialState().num_processes > 1 else [opened]


def _refuse(problem: CacheError | None, everywhere: Sequence[bool]) -> NoReturn:
    if problem is None:
        raise StoppedElsewhere("another process cannot use the cache")
    problem.everywhere = not any(everywhere)
    raise problem


def _views(count: int | None) -> str:
    if count is None:
        return ""
    return f", {count} views per row" if count > 1 else ", the plain view only (no crop, no flip)"


@dataclass(frozen=True)
class SelfTeacherSchedule:
    """When a self-teacher copies the student.

    Attributes:
        every: steps between two freezes; None: the beginnings of `phases`.
        phases: the data sets of an alternating stream.
        decay: of the average; None: it is frozen.
    """

    every: int | None
    phases: Sources | None
    decay: float | None

    def due(self, step: int) -> bool:
        """Whether the student is frozen before a step; an average teaches from the first such step on."""
        if self.every is not None:
            return step % self.every == 0
        return self.phases is not None and self.phases.phase_begins(step)

    def describe(self) -> str:
        """One clause for people."""
        when = "at the beginning of each phase" if self.every is None else f"every {self.every} steps"
        if self.decay is None:
            return f"frozen {when}"
        since = "from the second phase on" if self.every is None else f"from step {self.every} on"
        return f"an average (decay {self.decay:g}) that teaches {since}"


def self_taught(recipe: Recipe) -> dict[str, SelfTeacherSection]:
    """task -> its recipe's `teacher`, of the tasks that the student itself teaches as it was."""
    return {
        task: section.self_teacher
        for task, section in recipe.tasks.items()
        if section.self_teacher is not None
    }


def plan_self_teachers(recipe: Recipe, sources: Sources, steps: int) -> dict[SelfTeacherSchedule, list[str]]:
    """The self-teachers that a run needs, and the tasks of each: those with one schedule share one.

    Where the recipe names no `every`, the student is frozen at the beginning of each phase of an alternating
    stream, else ten times in the run. Phases of a single step do not count: a student that has just been
    frozen has nothing to learn from itself.

    Args:
        recipe: as loaded.
        sources: which know the phases.
        steps: of the run.

    Raises:
        RecipeError: a self-teacher would never teach.
    """
    found: dict[SelfTeacherSchedule, list[str]] = {}
    for task, section in self_taught(recipe).items():
        every, phases, length = section.every, None, sources.phase_length or 1
        if every is None and length > 1:
            phases = sources
        first = every or length
        if first >= steps and first > 1:
            where = f"tasks.{task}.teacher.every" if every is not None else "training.stream.phase"
            raise RecipeError(
                f"{where}: the self-teacher of {task} would be frozen for the first time before step {first}, and the "
                f"run has {steps} steps. Choose a smaller number."
            )
        if every is None and phases is None:
            every = max(1, round(steps / FREEZES))
        decay = (section.decay or DECAY) if section.student == "ema" else None
        found.setdefault(SelfTeacherSchedule(every, phases, decay), []).append(task)
    return found


def gates(
    recipe: Recipe,
    loss_configs: Mapping[str, LossConfig],
    kinds: Mapping[str, TaskKind],
    cards: Mapping[str, TeacherCard],
) -> dict[str, Gate]:
    """task -> which of its teachers' rows are masked, where the recipe says; of several teachers each ensemble's own.

    Raises:
        RecipeError: a task's answers are not a softmax, so they have no entropy and no confidence.
    """
    found = {}
    for task, section in recipe.tasks.items():
        if section.gate is None or task not in loss_configs:
            continue
        if not kinds[task].exclusive:
            raise RecipeError(
                f"tasks.{task}.gate: kind {kinds[task].name} has no softmax over classes, so its answers have no "
                "entropy and no confidence. Remove `gate`."
            )
        known = cards[task].known if task in cards else None
        if section.gate.entropy is not None:
            found[task] = Gate("entropy", section.gate.entropy, known)
        elif section.gate.confidence is not None:
            found[task] = Gate("confidence", section.gate.confidence, known)
    return found


def annealed_steps(recipe: Recipe, sources: Sources) -> dict[str, float]:
    """Task -> steps in which the targets of rows with its label lose their weight; 0 where they have none, as some rows
    lack the label and the teacher is asked about these. Empty but for `annealed`."""
    if recipe.training.teachers_on != "annealed":
        return {}
    steps = ANNEALED_EPOCHS * sources.steps_per_epoch(recipe.training.batch_size)
    return {task: steps if every_row_labelled(recipe, task, sources) else 0.0 for task in recipe.tasks}


def every_row_labelled(recipe: Recipe, task: str, sources: Sources) -> bool:
    """Whether labels say all of a task, so that `missing` leaves its teachers no row."""
    labels = [section.labels[task] for section in recipe.data.values() if task in section.labels]
    return sources.covered_by_labels(task) and all(label.knows is None for label in labels)


def rows_with_targets(recipe: Recipe) -> Rows:
    """Which rows may get a target; where `auto` is not decided, those without a label."""
    on = recipe.training.teachers_on
    if on == "annealed":  # which is an `all` with weights
        return "all"
    return "missing" if on == "auto" else on


def several_teachers(
    recipe: Recipe, kinds: Mapping[str, TaskKind], cards: Mapping[str, TeacherCard]
) -> dict[str, list[Ensemble]]:
    """task -> its ensembles, of the tasks with several teachers."""
    return {
        task: ensembles_of(
            section, kinds[task], {name: card for name, card in cards.items() if task_of(name) == task}
        )
        for task, section in recipe.tasks.items()
        if len(section.networks) > 1
    }


def teacher_weights(recipe: Recipe, sources: Sequence[str]) -> dict[str, Tensor]:
    """Teacher -> float32 [sources], the weight of its targets for rows of each, where one is not 1.

    Args:
        recipe: whose tasks may say so.
        sources: names, in the order of their numbers.
    """
    weights: dict[str, Tensor] = {}
    for task, section in recipe.tasks.items():
        names = teacher_keys(task, max(1, len(section.networks)))
        for name, of_one in zip(names, weights_by_source(section), strict=True):
            weights[name] = torch.tensor([of_one.get(source, 1.0) for source in sources])
    return {name: of_one for name, of_one in weights.items() if bool((of_one != 1).any())}


def weights_by_source(section: TaskSection) -> list[Mapping[str, float]]:
    """Of each teacher of a task, data set -> weight of its targets; 1 where it is not named, or not measured yet."""
    said = section.teacher_weight
    if isinstance(said, list):
        return list(said)
    return [{} if said == "auto" else said] * max(1, len(section.networks))
