"""From a recipe to the parts of a run: teachers, kinds of task, student, data, loss terms and rule.

`check`, training and `evaluate` all build through here, so what is checked is what is trained.
"""

import os
from collections.abc import Container, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from accelerate import PartialState

from distill_mtl.balance import Rule, make_rule
from distill_mtl.balance.loss_rule import LossRule
from distill_mtl.data import DataSettings, Sources, open_sources
from distill_mtl.distillation.stages import Schedule
from distill_mtl.distillation.term import HintPair, LossConfig, Term, admit_term, build_terms
from distill_mtl.errors import RecipeError, UserError
from distill_mtl.networks.inputs import InputContract
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import TaskSection
from distill_mtl.students.initial_weights import InitialStudent, build_student, find_initial_student
from distill_mtl.students.student import Student
from distill_mtl.targets.cached import CachedTargets, cached_facts
from distill_mtl.targets.combined import Gate, TargetProviders
from distill_mtl.targets.facts import Teachers
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.targets.provider import TargetProvider
from distill_mtl.targets.self_teacher import Context, SelfTeacher
from distill_mtl.tasks.base import TaskKind, build_kind, import_kind
from distill_mtl.teachers.card import TeacherCard
from distill_mtl.teachers.load_teacher import load_teacher
from distill_mtl.teachers.teacher import Teacher
from distill_mtl.training.initialisation import initial_heads, initialisation_in_words
from distill_mtl.training.refusals import (
    refuse_missing_trackers,
    refuse_unheard,
    refuse_unknown_drops,
    refuse_untaught,
)
from distill_mtl.training.schedule import build_schedule
from distill_mtl.training.target_providers import (
    SelfTeacherSchedule,
    choose_targets,
    gates,
    plan_self_teachers,
    self_taught,
)


@dataclass(frozen=True)
class Parts:
    """What a recipe stands for, loaded.

    Attributes:
        recipe: as resolved, with nothing of its `targets` left to decide.
        kinds: task -> its kind, with its classes.
        teachers: task -> teacher, for the tasks that have one; the student itself as self-teacher is none.
        student: with every feature that heads and hints read.
        sources: the data sets, in the canonical size.
        loss_configs: task -> how its loss is made where no stage of the schedule says otherwise.
        schedule: the loss configs of every step.
        gates: task -> which of its teacher's rows are masked, where the recipe says.
        self_teachers: when each self-teacher looks at the student -> the tasks that it teaches.
        terms: task -> the terms of its loss.
        rule: the balancing rule.
        balance: one sentence on which rule was taken and why.
        cached: what the teachers said; None where they are asked live.
        taught: one sentence on where targets come from and why.
        begins: one sentence on what the student's first weights are.
    """

    recipe: Recipe
    kinds: Mapping[str, TaskKind]
    teachers: Teachers
    student: Student
    sources: Sources
    loss_configs: Mapping[str, LossConfig]
    schedule: Schedule
    gates: Mapping[str, Gate]
    self_teachers: Mapping[SelfTeacherSchedule, list[str]]
    terms: Mapping[str, list[Term]]
    rule: Rule
    balance: str
    cached: CachedTargets | None
    taught: str
    begins: str

    def targets(self, precisions: Mapping[str, str] | None = None) -> TargetProvider:
        """What training asks: the cache, or the teachers whose answers change a loss in some stage.

        Args:
            precisions: task -> in which its targets are made; default fp32.
        """
        if self.cached is not None:
            return self.cached
        asked = {task: teacher for task, teacher in self.teachers.items() if self.schedule.asks_teacher(task)}
        sections = {task: self.recipe.tasks[task].network for task in asked}
        compiled = frozenset(
            task for task, section in sections.items() if section is not None and section.compile
        )
        return LiveTeachers(asked, self.recipe.training.teachers_on, precisions=precisions, compiled=compiled)

    def providers(
        self, teachers: TargetProvider, student: Student, autocast: Context = nullcontext
    ) -> TargetProviders:
        """Everything that gives training targets for rows without a label.

        Args:
            teachers: as `targets` gives them, on their device.
            student: that trains, on its device, before it is prepared.
            autocast: makes the context in which the student runs.
        """
        self_teachers = [
            SelfTeacher(
                student,
                tasks,
                when.due,
                decay=when.decay,
                on=self.recipe.training.teachers_on,
                autocast=autocast,
            )
            for when, tasks in self.self_teachers.items()
        ]
        return TargetProviders(teachers, self_teachers, self.gates)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.schedule.steps


def build(recipe: Recipe) -> Parts:
    """Load and build everything that `recipe` names.

    Raises:
        UserError: something is missing, broken or does not fit; nothing has been written.
    """
    refuse_missing_trackers(recipe)
    _admit_terms(recipe)
    old = find_initial_student(recipe.student.init)
    teachers, kinds = build_teachers(recipe, old)
    refuse_unheard(recipe, kinds)
    refuse_unknown_drops(recipe, kinds)
    heads = initial_heads(recipe, teachers.cards, kinds, old)
    student = build_student(
        old.settle(recipe.student) if old is not None else recipe.student,
        kinds,
        [hint.student for task in teachers for hint in recipe.tasks[task].hints],
        seed=recipe.seed,
        teacher_folders={task: card.place for task, card in teachers.cards.items()},
        teacher_inputs={task: card.inputs for task, card in teachers.cards.items()},
        initial_heads=heads,
    )
    inputs = [student.trunk.inputs, *(card.inputs for card in teachers.cards.values())]
    sources = build_sources(recipe, kinds, inputs)
    recipe, cached, taught = choose_targets(
        recipe, lambda settled: _loss_configs(settled, student, teachers.cards), teachers, sources
    )
    loss_configs = _loss_configs(recipe, student, teachers.cards)
    terms = _terms(recipe, loss_configs, student, teachers.cards)
    schedule = build_schedule(recipe, loss_configs, student, terms, _steps(recipe, sources))
    refuse_untaught(recipe, schedule, sources)
    rule, balance = choose_rule(recipe, schedule, teachers, sources)
    masks = gates(recipe, loss_configs, kinds)
    self_teachers = plan_self_teachers(recipe, sources, schedule.steps)
    return Parts(
        recipe,
        kinds,
        teachers,
        student,
        sources,
        loss_configs,
        schedule,
        masks,
        self_teachers,
        terms,
        rule,
        balance,
        cached,
        taught,
        initialisation_in_words(recipe, heads, old),
    )


def build_teachers(recipe: Recipe, old: InitialStudent | None = None) -> tuple[Teachers, dict[str, TaskKind]]:
    """Every teacher, and every task's kind with its classes (the teacher's unless the recipe lists them).

    Args:
        recipe: as loaded.
        old: the student that training begins with, whose heads say how large those of its tasks are.
    """
    _admit_own_kinds(recipe)
    sections = {task: section for task, section in recipe.tasks.items() if section.network is not None}
    loaders = {task: partial(_load, task, section) for task, section in sections.items()}
    rank, world = _here()
    facts = cached_facts(recipe, sections, local_rank=rank, local_world=world) if sections else None
    teachers = Teachers(loaders, facts)
    kinds = {
        task: _kind(
            task, section, teachers.cards[task].classes if task in teachers else _named(section.classes), old
        )
        for task, section in recipe.tasks.items()
    }
    return teachers, kinds


def _admit_own_kinds(recipe: Recipe) -> None:
    """Run the code of the kinds that users bring."""
    for task, section in recipe.tasks.items():
        try:
            import_kind(section.kind, trust=section.trust, say="`trust: true` beside it")
        except UserError as error:
            raise RecipeError(f"tasks.{task}.kind: {error}") from error


def _admit_terms(recipe: Recipe) -> None:
    """Know every loss term that the recipe names; runs the code of those that users bring."""
    for task, section in recipe.tasks.items():
        for term in section.weights:
            try:
                admit_term(term, trust=section.trust, say="`trust: true` in the task")
            except UserError as error:
                raise RecipeError(f"tasks.{task}.weights.{term}: {error}") from error
    for number, stage in enumerate(recipe.schedule):
        for term in {*stage.weights, *(term for task in stage.tasks.values() for term in task.weights)}:
            try:
                admit_term(term, trust=False, say="a weight of the term in a task that has `trust: true`")
            except UserError as error:
                raise RecipeError(f"schedule.{number}: {error}") from error


def _kind(task: str, section: TaskSection, classes: tuple[str, ...], old: InitialStudent | None) -> TaskKind:
    head = section.head.model_dump(include={"width", "depth"}, exclude_none=True)
    try:
        if old is not None and (inherited := old.head_of(task, section)) is not None:
            head = {**old.tasks[inherited].get("head", {}), **head}
        return build_kind(section.kind, classes, section.metric, head, **section.options)
    except UserError as error:
        raise RecipeError(f"tasks.{task}: {error}") from error


def _load(task: str, section: TaskSection) -> Teacher:
    assert section.network is not None
    return load_teacher(
        section.network,
        task=task,
        kind=section.kind,
        layers=[hint.teacher for hint in section.hints],
        classes=section.classes,
        options=section.options,
    )


def build_sources(recipe: Recipe, kinds: Mapping[str, TaskKind], inputs: Iterable[InputContract]) -> Sources:
    """The data sets in the canonical size: the largest height and width that a network wants."""
    heights, widths = zip(*(contract.size for contract in inputs), strict=True)
    rank, world = _here()
    sources = open_sources(
        DataSettings.of(recipe),
        kinds,
        (max(heights), max(widths)),
        local_rank=rank,
        local_world=world,
    )
    unmeasured = [task for task in kinds if not sources.count(task, "test")]
    if unmeasured:
        raise RecipeError(
            f"no source has test rows labelled for {', '.join(unmeasured)}, so the student could not be compared with "
            "its teacher there. Add a source with its labels, and name the task in its `labels`; or give the task "
            "`data`: rows that are only tested on are `data: {split: {test: ...}}`."
        )
    return sources


def _here() -> tuple[int, int]:
    """This process among those of this machine, and how many they are."""
    state = PartialState()
    return state.local_process_index, int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))


def choose_rule(
    recipe: Recipe, schedule: Schedule, teachers: Container[str], sources: Sources
) -> tuple[Rule, str]:
    """The balancing rule of a recipe and why it was taken.

    MGDA-UB compares gradients on the same rows, so it needs a label or a teacher for every task on every
    row, in every stage; without them it would only see which task has how many rows. A self-teacher is no
    such cover: before the first freeze it gives no targets, and then it answers as the student does, so that its
    gradient is nearly zero. Parts that step by their own counts never take the step that a Gramian was for.

    Raises:
        RecipeError: a rule that needs such cover was asked for by name, and a task lacks it; or one that
            compares gradients, with `training.asynchronous`.
    """
    bare = [
        task
        for task in recipe.tasks
        if not all(
            _covered(task, recipe, stage.loss_configs[task], task in teachers, sources)
            for stage in schedule.stages
        )
    ]
    asynchronous = recipe.training.asynchronous is not None
    method, options = recipe.balance.method, recipe.balance.options
    if method == "auto":
        method = "uniform" if bare or asynchronous or len(recipe.tasks) == 1 else "mgda_ub"
        if len(recipe.tasks) == 1:
            why = "there is one task"
        elif bare:
            why = (
                f"some rows have neither a label nor a teacher for {', '.join(bare)}{_why_bare(recipe, bare)}"
            )
        elif asynchronous:
            why = "with training.asynchronous the parts do not step together"
        else:
            why = "every row has a label or a teacher for every task"
        reason = f"balance: {method} (auto: {why})"
    else:
        reason = f"balance: {method} (from the recipe)"
    try:
        rule = make_rule(method, list(recipe.tasks), **options)
    except (ValueError, TypeError, ImportError) as error:
        raise RecipeError(f"balance: {error}") from error
    if asynchronous and not isinstance(rule, LossRule):
        raise RecipeError(
            f"balance.method: {method} chooses one step for all tasks from the gradients of a batch, and with "
            "training.asynchronous trunk and heads step at different times, from several batches. Use a rule that "
            "weights losses (uniform, fixed, uncertainty, geometric, gradnorm), or remove training.asynchronous."
        )
    if rule.needs_coverage and bare:
        raise RecipeError(
            f"balance.method: {method} needs a label or a teacher for every task on every row, and some rows have "
            f"neither for {', '.join(bare)}: gradients on different rows cannot be compared. "
            "Give those tasks a teacher (and training.teachers_on missing or all), or use uniform."
            f"{_why_bare(recipe, bare)}"
        )
    return rule, reason


def _why_bare(recipe: Recipe, bare: Iterable[str]) -> str:
    """What a user may not expect about tasks that lack cover; empty where there is nothing."""
    own = [task for task in bare if task in self_taught(recipe)]
    if own:
        return f"; the self-teacher of {', '.join(own)} knows no more than the student"
    return "; the schedule takes the weight from labels or teachers for a while" if recipe.schedule else ""


def _steps(recipe: Recipe, sources: Sources) -> int:
    """Optimizer steps of the whole run."""
    training = recipe.training
    if training.steps is not None:
        return training.steps
    return max(1, round(float(training.epochs or 0) * sources.steps_per_epoch(training.batch_size)))


def _covered(task: str, recipe: Recipe, loss_config: LossConfig, has_teacher: bool, sources: Sources) -> bool:
    taught = has_teacher and loss_config.uses_teacher and recipe.training.teachers_on != "none"
    if taught and (recipe.training.teachers_on == "all" or loss_config.uses_labels):
        return True
    return loss_config.uses_labels and sources.covered_by_labels(task)


def _loss_configs(
    recipe: Recipe, student: Student, teachers: Mapping[str, TeacherCard]
) -> dict[str, LossConfig]:
    return {
        task: _loss_config(section, student, teachers.get(task)) for task, section in recipe.tasks.items()
    }


def _loss_config(section: TaskSection, student: Student, teacher: TeacherCard | None) -> LossConfig:
    if teacher is None:
        return LossConfig(section.weights, section.temperature)
    named = [
        (hint.student or student.trunk.last, hint.teacher or teacher.last_map, hint.form == "pooled")
        for hint in section.hints
    ]
    # A network that gives nothing but its answer has no default layer to take a hint from.
    pairs = [HintPair(mine, theirs, pooled) for mine, theirs, pooled in named if theirs is not None]
    return LossConfig(section.weights, section.temperature, pairs, teacher.known)


def _terms(
    recipe: Recipe,
    loss_configs: Mapping[str, LossConfig],
    student: Student,
    teachers: Mapping[str, TeacherCard],
) -> dict[str, list[Term]]:
    """The terms of every task's loss; their first weights follow from the seed."""
    stages = [weights for stage in recipe.schedule for weights in (stage, *stage.tasks.values())]
    named = {term for section in (*recipe.tasks.values(), *stages) for term in section.weights}
    asked = {} if recipe.training.teachers_on == "none" else teachers
    shapes = {task: teacher.shapes for task, teacher in asked.items()}
    return build_terms(loss_configs, student.trunk.shapes, shapes, named=named, seed=recipe.seed)


def _named(classes: int | list[str] | None) -> tuple[str, ...]:
    if isinstance(classes, int):
        return tuple(str(index) for index in range(classes))
    return tuple(classes or ())
