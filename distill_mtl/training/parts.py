"""Build the parts of a run from its recipe: teachers, kinds of task, student, data, loss terms and rule.

`check`, training and `evaluate` all build through here, so what is checked is what is trained.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from types import MappingProxyType

import torch
from accelerate import PartialState
from accelerate.tracking import get_available_trackers

from distill_mtl.balance import Rule
from distill_mtl.data import DataSettings, Sources, open_sources
from distill_mtl.data.source import settle_order
from distill_mtl.distillation.stages import Schedule
from distill_mtl.distillation.term import LossConfig, Term
from distill_mtl.errors import RecipeError, UserError
from distill_mtl.machine_memory import TRAINED, refuse_beyond_memory
from distill_mtl.networks.inputs import InputContract
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.long_form import no_margin
from distill_mtl.recipe.schema import TaskSection, task_of, teacher_keys
from distill_mtl.students.initial_weights import (
    InitialHead,
    InitialStudent,
    build_student,
    find_initial_student,
)
from distill_mtl.students.student import Student
from distill_mtl.targets.cached import CachedTargets, cached_facts
from distill_mtl.targets.combined import Gate, TargetProviders
from distill_mtl.targets.ensembles import Ensemble
from distill_mtl.targets.facts import Teachers
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.targets.provider import TargetProvider
from distill_mtl.targets.self_teacher import Context, SelfTeacher
from distill_mtl.tasks.base import TaskKind, build_kind, import_kind
from distill_mtl.teachers.card import TeacherCard
from distill_mtl.teachers.load_teacher import teachers_of_task
from distill_mtl.teachers.teacher import Teacher
from distill_mtl.training.branching.find import Compared
from distill_mtl.training.branching.teacher_features import rows_of
from distill_mtl.training.choose_branches import choose_branches, compare
from distill_mtl.training.choose_rule import choose_rule
from distill_mtl.training.choose_views import choose_views
from distill_mtl.training.initialisation import initial_heads, initialisation_in_words
from distill_mtl.training.loss_terms import admit_terms, loss_configs_of, terms_of
from distill_mtl.training.optimizer import settle_average, settle_optimizer
from distill_mtl.training.processes import settle_precision, share_of_machine
from distill_mtl.training.schedule import build_schedule
from distill_mtl.training.target_providers import (
    SelfTeacherSchedule,
    annealed_steps,
    choose_targets,
    gates,
    plan_self_teachers,
    rows_with_targets,
    several_teachers,
    teacher_weights,
)
from distill_mtl.training.teacher_statistics import label_by_teachers, settle_from_teachers
from distill_mtl.training.weigh_ensembles import (
    known_classes_of_sources,
    refuse_combinations,
    weigh_ensembles,
)
from distill_mtl.training.weigh_teachers import weigh_teachers
from distill_mtl.training.zipped_start import ROWS, zip_instead, zip_start


@dataclass(frozen=True)
class Parts:
    """The parts of a run, built from its recipe.

    Attributes:
        recipe: as resolved, with nothing of its `targets` left to decide.
        kinds: task -> its kind, with its classes.
        teachers: by name, for the tasks that have some; the student itself as self-teacher is none.
        ensembles: task -> its ensembles, of the tasks with several teachers.
        student: with every feature that heads and hints read.
        sources: the data sets, in the canonical size.
        loss_configs: task -> how its loss is made where no stage of the schedule says otherwise.
        schedule: the loss configs of every step.
        gates: task -> which of its teacher's rows are masked, where the recipe says.
        self_teachers: when each self-teacher copies the student -> the tasks that it teaches.
        terms: task -> the terms of its loss.
        rule: the balancing rule.
        balance: one sentence on which rule was taken and why.
        cached: the teachers' cached answers; None where they run live.
        taught: one sentence on where targets come from and why.
        begins: one sentence on the student's initial weights.
        decided: sentences on what `auto` decided of teachers' weights and of views, where it is not the usual.
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
    decided: Sequence[str] = ()
    ensembles: Mapping[str, list[Ensemble]] = field(default_factory=dict)

    def targets(self, precisions: Mapping[str, str] | None = None) -> TargetProvider:
        """The targets of training: the cache, or the teachers whose answers change a loss in some stage.

        Args:
            precisions: teacher -> in which its targets are made; default fp32.
        """
        if self.cached is not None:
            return self.cached
        used = {
            name: teacher
            for name, teacher in self.teachers.items()
            if self.schedule.uses_teacher(task_of(name))
        }
        sections = self.recipe.networks
        compiled = frozenset(name for name in used if sections[name].compile)
        on = rows_with_targets(self.recipe)
        return LiveTeachers(used, on, precisions=precisions, compiled=compiled)

    def providers(
        self, teachers: TargetProvider, student: Student, autocast: Context = nullcontext
    ) -> TargetProviders:
        """Everything that gives training targets beside labels.

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
                on=rows_with_targets(self.recipe),
                autocast=autocast,
            )
            for when, tasks in self.self_teachers.items()
        ]
        weights = teacher_weights(self.recipe, self.sources.names)
        used = {
            task: of_task for task, of_task in self.ensembles.items() if of_task[0].names[0] in teachers.names
        }
        annealed = annealed_steps(self.recipe, self.sources)
        return TargetProviders(teachers, self_teachers, self.gates, weights, used, annealed)

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.schedule.steps


def build(recipe: Recipe) -> Parts:
    """Load and build everything that `recipe` names.

    Raises:
        UserError: something is missing, broken or does not fit; nothing has been written.
    """
    _refuse_missing_trackers(recipe)
    admit_terms(recipe)
    recipe = settle_order(recipe)
    old = find_initial_student(recipe.student.init)
    teachers, kinds = build_teachers(recipe, old)
    refuse_combinations(recipe, kinds, teachers.cards)
    _refuse_unused_options(recipe, kinds)
    _refuse_missing_margins(recipe, kinds)
    recipe, kinds = settle_from_teachers(
        recipe, teachers, kinds, old, partial(_open_sources, kinds, teachers)
    )
    recipe, parted = choose_branches(recipe, teachers, kinds, old, partial(_open_sources, kinds, teachers))
    heads = initial_heads(recipe, teachers.cards, kinds, old)
    student = build_student(
        old.settle(recipe.student, list(recipe.tasks)) if old is not None else recipe.student,
        kinds,
        [hint.student for name in teachers for hint in recipe.tasks[task_of(name)].hints],
        seed=recipe.seed,
        teacher_folders={key: card.place for key, card in _to_begin_as(teachers).items()},
        teacher_inputs={key: card.inputs for key, card in _to_begin_as(teachers).items()},
        initial_heads=heads,
    )
    _refuse_other_heads(student, heads)
    recipe = settle_optimizer(settle_precision(recipe, student.trunk), student.trunk)
    inputs = [student.trunk.inputs, *(card.inputs for card in teachers.cards.values())]
    sources = build_sources(recipe, kinds, inputs, teachers)
    _refuse_beyond_machine(recipe, student, sources.size)
    if recipe.student.init == "zip":
        zip_start(student, teachers, recipe.tasks, rows_of(sources, ROWS))
    begun = zip_instead(student, teachers) if recipe.student.init == "random" else []
    recipe, weighed = weigh_teachers(recipe, teachers, sources)
    recipe, combined = weigh_ensembles(recipe, teachers, kinds, sources)
    recipe, seen = choose_views(recipe, kinds, teachers, sources)
    recipe, cached, taught = choose_targets(
        recipe, lambda settled: loss_configs_of(settled, student, teachers.cards), teachers, sources
    )
    loss_configs = loss_configs_of(recipe, student, teachers.cards)
    terms = terms_of(recipe, loss_configs, student, teachers.cards)
    schedule = build_schedule(recipe, loss_configs, student, terms, _steps(recipe, sources))
    recipe = settle_average(recipe, schedule.steps)
    _refuse_untaught(recipe, schedule, sources)
    taught_tasks = {task_of(name) for name in teachers}
    rule, balance = choose_rule(recipe, schedule, taught_tasks, sources, student.trunk)
    masks = gates(recipe, loss_configs, kinds, teachers.cards)
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
        [*parted, *begun, *weighed, *combined, *seen],
        several_teachers(recipe, kinds, teachers.cards),
    )


def _to_begin_as(teachers: Teachers) -> dict[str, TeacherCard]:
    """The teachers that a student may begin as, by task (the first of it) and by name."""
    firsts = {task_of(name): card for name, card in reversed([*teachers.cards.items()])}
    return firsts | teachers.cards


def compare_teachers(recipe: Recipe, rows: int, device: torch.device) -> Compared:
    """What the command `branch` compares: teachers and rows of a recipe, at the depths of its student's trunk.

    Raises:
        UserError: something is missing or does not fit, or cannot be compared.
    """
    old = find_initial_student(recipe.student.init)
    teachers, kinds = build_teachers(recipe, old)
    return compare(recipe, teachers, kinds, old, partial(_open_sources, kinds, teachers), rows, device)


def _open_sources(
    kinds: Mapping[str, TaskKind], teachers: Teachers, recipe: Recipe, inputs: Sequence[InputContract]
) -> Sources:
    """`build_sources` for what knows kinds and teachers already."""
    return build_sources(recipe, kinds, inputs, teachers)


def build_teachers(recipe: Recipe, old: InitialStudent | None = None) -> tuple[Teachers, dict[str, TaskKind]]:
    """Every teacher, and every task's kind with its classes (the teacher's unless the recipe lists them).

    Args:
        recipe: as loaded.
        old: the student that training begins with, whose heads say how large those of its tasks are.
    """
    _admit_own_kinds(recipe)
    sections = {task: section for task, section in recipe.tasks.items() if section.networks}
    loaders = {}
    for task, section in sections.items():
        of_task = cache(partial(teachers_of_task, task, section))
        for name in teacher_keys(task, len(section.networks)):
            loaders[name] = partial(_one_of, of_task, name)
    facts = cached_facts(recipe, sections, local=share_of_machine()) if sections else None
    teachers = Teachers(loaders, facts)
    kinds = {
        task: _kind(
            task,
            section,
            teachers.cards[names[0]].classes if (names := teachers.of(task)) else _named(section.classes),
            old,
        )
        for task, section in recipe.tasks.items()
    }
    for task, kind in kinds.items():
        kind.knows = known_classes_of_sources(recipe, task, kind)
    return teachers, kinds


def _admit_own_kinds(recipe: Recipe) -> None:
    """Run the code of the kinds that users bring."""
    for task, section in recipe.tasks.items():
        try:
            import_kind(section.kind, trust=section.trust, say="`trust: true` beside it")
        except UserError as error:
            raise RecipeError(f"tasks.{task}.kind: {error}") from error


def _kind(task: str, section: TaskSection, classes: tuple[str, ...], old: InitialStudent | None) -> TaskKind:
    head = section.head.model_dump(include={"width", "depth"}, exclude_none=True)
    try:
        if old is not None and (inherited := old.head_of(task, section)) is not None:
            head = {**old.tasks[inherited].get("head", {}), **head}
        return build_kind(section.kind, classes, section.metric, head, **section.options)
    except UserError as error:
        raise RecipeError(f"tasks.{task}: {error}") from error


def _one_of(load: Callable[[], Mapping[str, Teacher]], name: str) -> Teacher:
    return load()[name]


def build_sources(
    recipe: Recipe,
    kinds: Mapping[str, TaskKind],
    inputs: Iterable[InputContract],
    teachers: Mapping[str, Teacher] = MappingProxyType({}),
) -> Sources:
    """The data sets in the canonical size: the largest height and width that a network wants.

    Args:
        recipe: as loaded.
        kinds: of its tasks.
        inputs: of all networks.
        teachers: whose answers are the labels of tasks that have no others (`TaskKind.teacher_labels`).
    """
    heights, widths = zip(*(contract.size for contract in inputs), strict=True)
    sources = open_sources(
        DataSettings.of(recipe), kinds, (max(heights), max(widths)), local=share_of_machine()
    )
    unmeasured = [task for task in kinds if not sources.count(task, "test")]
    if unmeasured:
        raise RecipeError(
            f"no source has test rows labelled for {', '.join(unmeasured)}, so the student could not be compared with "
            "its teacher there. Add a source with its labels, and name the task in its `labels`; or give the task "
            "`data`: rows that are only tested on are `data: {split: {test: ...}}`."
        )
    label_by_teachers(sources, teachers, kinds)
    return sources


def _refuse_beyond_machine(recipe: Recipe, student: Student, size: tuple[int, int]) -> None:
    """Refuse a micro-batch whose pixels do not fit into memory: as they are read, in [0, 1] and normalised. And, on a
    GPU, a student that cannot be trained in its memory; on a CPU it was refused while it was built. Activations come
    on top, so what passes may still be too large.

    Args:
        recipe: with the rows of a step.
        student: on the CPU.
        size: height and width of the pictures of a batch.
    """
    state, local = PartialState(), share_of_machine()
    training = recipe.training
    rows = training.batch_size // (training.accumulate * state.num_processes)
    weights = sum(value.numel() * value.element_size() for value in student.parameters())
    pixels = rows * 3 * size[0] * size[1]
    batch = f"a micro-batch of {rows:,} rows of {size[0]} x {size[1]} pixels"
    fewer = "Lower training.batch_size, or raise training.accumulate."
    if state.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(state.device)
        refuse_beyond_memory(TRAINED * weights, "training this student", "Choose a smaller one.", free)
        refuse_beyond_memory(8 * pixels, batch, fewer, free)
        refuse_beyond_memory(local.world * pixels, batch, fewer)
    else:
        refuse_beyond_memory(local.world * 9 * pixels, batch, fewer)


def _steps(recipe: Recipe, sources: Sources) -> int:
    """Optimizer steps of the whole run."""
    training = recipe.training
    if training.steps is not None:
        return training.steps
    return max(1, round(float(training.epochs or 0) * sources.steps_per_epoch(training.batch_size)))


def _named(classes: int | list[str] | None) -> tuple[str, ...]:
    if isinstance(classes, int):
        return tuple(str(index) for index in range(classes))
    return tuple(classes or ())


def _refuse_missing_trackers(recipe: Recipe) -> None:
    """Refuse a tracker whose package is not installed; Accelerate would leave it out silently."""
    there = {str(name) for name in get_available_trackers()}
    if missing := [name for name in recipe.training.trackers if name not in there]:
        raise RecipeError(
            f"training.trackers: {missing[0]} is not installed. Run `pip install {' '.join(missing)}`, or remove it "
            "from the list: metrics.jsonl is written all the same."
        )


def _refuse_unused_options(recipe: Recipe, kinds: Mapping[str, TaskKind]) -> None:
    """Refuse an option that compares teachers with labels where teachers do not see all rows with a label."""
    if recipe.training.teachers_on in ("all", "none"):
        return
    for task, kind in kinds.items():
        if kind.options_on_labelled_rows and recipe.tasks[task].teacher is not None:
            raise RecipeError(
                f"tasks.{task}.options.{kind.options_on_labelled_rows[0]} compares the teacher with labels, and with "
                f"`training.teachers_on: {recipe.training.teachers_on}` teachers are not asked about all rows with "
                "one. Use `training.teachers_on: all`, or remove the option."
            )


def _refuse_missing_margins(recipe: Recipe, kinds: Mapping[str, TaskKind]) -> None:
    """Refuse to judge a score in the labels' unit by one point; the loader cannot, where the kind is a user's code."""
    for task, kind in kinds.items():
        judged = recipe.tasks[task].teacher is not None
        if judged and not kind.in_points and task not in recipe.acceptance.margin:
            raise RecipeError(f"tasks.{task}: {no_margin(task, kind.metric)}")


def _refuse_other_heads(student: Student, heads: Mapping[str, InitialHead]) -> None:
    """Refuse a frozen task whose head is not the old student's: its answers would not be those that stay."""
    for task in student.trunk.frozen:
        if task not in heads or not heads[task].inherited:
            raise RecipeError(
                f"tasks.{task}.head.init: the answers of {task} stay as they are in `student.init`, with the head that "
                "it has there. Remove it."
            )


def _refuse_untaught(recipe: Recipe, schedule: Schedule, sources: Sources) -> None:
    """Refuse a task whose labels teach nothing and leave its teacher no row: its head would stay random."""
    for task in schedule.at(0).loss_configs:
        labels_teach = any(stage.loss_configs[task].uses_labels for stage in schedule.stages)
        heard = recipe.training.teachers_on not in ("missing", "annealed")
        if labels_teach or heard or not sources.covered_by_labels(task):
            continue
        raise RecipeError(
            f"tasks.{task}.weights: no term that reads labels has a weight, and every row has a label, so none is left "
            "for the teacher. Use `training.teachers_on: all`, or give `supervised` a weight."
        )
