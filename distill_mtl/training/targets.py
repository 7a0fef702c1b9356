"""Where a recipe's targets come from, decided once: teachers that run in every step, or what was cached of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NoReturn

from accelerate import PartialState
from accelerate.utils import gather_object

from distill_mtl.data import Sources
from distill_mtl.distillation.lesson import Lesson
from distill_mtl.errors import CacheError, StoppedElsewhere
from distill_mtl.recipe import Recipe
from distill_mtl.targets.cached import CachedTargets
from distill_mtl.targets.encoding import AnswerCodec, Numbers
from distill_mtl.targets.facts import TeacherFacts
from distill_mtl.targets.opened import OpenCache
from distill_mtl.targets.places import Places
from distill_mtl.targets.plan import Unit, megabytes, plan_cache
from distill_mtl.targets.roster import Roster
from distill_mtl.targets.stored_views import StoredViews
from distill_mtl.tasks.base import KINDS, TaskKind

LessonsOf = Callable[[Recipe], Mapping[str, Lesson]]


def choose_targets(
    recipe: Recipe, lessons_of: LessonsOf, teachers: Roster, sources: Sources
) -> tuple[Recipe, CachedTargets | None, str]:
    """Open the cache where the recipe asks for it, or says `auto` and there is one.

    Args:
        recipe: as loaded.
        lessons_of: a settled recipe -> how each task is learned.
        teachers: task -> teacher.
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
    lessons = lessons_of(settled)
    asked = [task for task in teachers if _asks(recipe, lessons[task])]
    if not asked:
        return live, None, "targets: none, no task asks a teacher"
    cached, problem = None, None
    if wanted == "cached" or _anything_cached(asked, sources):
        cached, problem = _open(settled, lessons, {task: teachers.facts(task) for task in asked}, sources)
    everywhere = _on_every_process(cached is not None)
    if cached is not None and all(everywhere):
        sources.see_under(StoredViews(cached.cache))
        scores = [f"{task} {score}" for task in asked if (score := cached.cache.score(task)) is not None]
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
    recipe: Recipe, lessons: Mapping[str, Lesson], facts: Mapping[str, TeacherFacts], sources: Sources
) -> tuple[dict[str, AnswerCodec], list[Unit]]:
    """How each teacher's answers are kept, and every sidecar that the cache of a settled recipe has.

    Teachers whose answers change no loss have none.
    """
    targets = recipe.targets
    codecs = {
        task: AnswerCodec(
            teacher,
            _pooled(lessons[task]),
            logits=logits_kept_in(KINDS[teacher.card.kind], targets.logits),
            features=targets.features,
            top_k=targets.top_k
            if KINDS[teacher.card.kind].exclusive and teacher.card.known is None
            else None,
        )
        for task, teacher in facts.items()
        if _asks(recipe, lessons[task])
    }
    views = targets.view_count or 1
    units = plan_cache(sources.opened, codecs, views=views, size=sources.size, seed=recipe.seed)
    return codecs, units


def logits_kept_in(kind: type[TaskKind], wanted: Numbers) -> Numbers:
    """In what a kind's logits may be kept: of a map of measurements, int8's one scale per row would keep the far end
    and lose the near one; values in a unit of their own need more than fp16's three digits."""
    if kind.precise:
        return "fp32"
    return "fp16" if wanted == "int8" and kind.dense and not kind.exclusive else wanted


def _asks(recipe: Recipe, lesson: Lesson) -> bool:
    """Whether the teacher may be asked at all; a stage of a schedule may use what the lesson itself does not."""
    return lesson.uses_teacher or bool(recipe.schedule)


def _pooled(lesson: Lesson) -> dict[str, bool]:
    """Layer of the teacher -> whether no hint needs its map."""
    pooled: dict[str, bool] = {}
    for pair in lesson.hints:
        pooled[pair.teacher] = pooled.get(pair.teacher, True) and pair.pooled
    return pooled


def _anything_cached(tasks: Iterable[str], sources: Sources) -> bool:
    """Whether it is worth while to look closer."""
    places, tasks = Places(), list(tasks)
    shards = [path for source in sources.opened for path in source.paths("train")]
    return any(places.all(path, task) for path in shards for task in tasks)


def _open(
    recipe: Recipe, lessons: Mapping[str, Lesson], facts: Mapping[str, TeacherFacts], sources: Sources
) -> tuple[CachedTargets | None, CacheError | None]:
    codecs, units = plan_targets(recipe, lessons, facts, sources)
    try:
        cache = OpenCache(units, sources.opened, Places())
    except CacheError as error:
        return None, error
    return CachedTargets(cache, codecs, recipe.training.teachers_on), None


def _on_every_process(opened: bool) -> list[bool]:
    """Who has opened the cache: machines may have folders of their own, and all must decide alike."""
    return gather_object([opened]) if PartialState().num_processes > 1 else [opened]


def _refuse(problem: CacheError | None, everywhere: Sequence[bool]) -> NoReturn:
    if problem is None:
        raise StoppedElsewhere("another process cannot use the cache")
    problem.everywhere = not any(everywhere)
    raise problem


def _views(count: int | None) -> str:
    if count is None:
        return ""
    return f", {count} views per row" if count > 1 else ", the plain view alone (no crop, no flip)"
