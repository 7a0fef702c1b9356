"""`distill-mtl evaluate RUN --pictures ... --ask N` and `--answers FILE`: acceptance with few labels.

The first runs student and teachers over unlabelled pictures and writes questions for people, the second reads what they
answered and judges the student over all of the pictures.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from numpy.typing import NDArray
from rich.console import Console

from distill_mtl.data.decode import read_image
from distill_mtl.display import Display
from distill_mtl.errors import UserError
from distill_mtl.evaluation.comparison import ComparisonSettings
from distill_mtl.evaluation.few_labels import (
    AskedSlice,
    AskedTask,
    Draw,
    Drawn,
    Estimate,
    LabelledSet,
    LabelledSlice,
    LabelledTask,
    Proxies,
    Question,
    Questions,
    draw,
    draw_chances,
    estimate,
    estimate_decided,
    shares,
    within,
)
from distill_mtl.evaluation.few_labels.questions import NAME
from distill_mtl.evaluation.result import Acceptance, margins_by_task
from distill_mtl.evaluation.slices import FEWEST, NoSuchField, Rows, Slices, corrected, slice_margins
from distill_mtl.files import atomic_folder, refuse_unwritable, write_text
from distill_mtl.jobs.arguments import GivenAcceptance, refuse_below
from distill_mtl.jobs.run_artefacts import shared_console
from distill_mtl.networks.weights import WEIGHTS, sha256
from distill_mtl.picture_bytes import MOST_BYTES
from distill_mtl.prediction.answer_files import Answers, read_answers
from distill_mtl.prediction.disagreement import (
    Compared,
    Disagreement,
    LabelledPicture,
    Measured,
    disagreements,
    labelled_statistics,
)
from distill_mtl.prediction.named_pictures import FoundPictures, find_pictures
from distill_mtl.prediction.question_files import PICTURES, write_questions
from distill_mtl.reading import read_bytes
from distill_mtl.recipe import Recipe, load_recipe
from distill_mtl.recipe.schema import task_of
from distill_mtl.report.console import print_summary
from distill_mtl.report.few_labels import report_of_labels, report_of_questions
from distill_mtl.report.html import page
from distill_mtl.students.student_folder import load_student
from distill_mtl.tasks.base import TaskKind
from distill_mtl.training.parts import build_teachers
from distill_mtl.training.run_folder import RunFolder

RESULT, REPORT = "result.json", "report.html"


def ask(
    run: RunFolder,
    places: Sequence[str],
    number: int,
    to: Path,
    *,
    acceptance: GivenAcceptance,
    slices: dict[str, str | list[str]] | None = None,
    console: Console | None,
) -> Questions:
    """Run student and teachers over pictures without labels, and write questions about some of them.

    Args:
        run: a finished run.
        places: of the pictures.
        number: of labels, over all tasks.
        to: folder that is missing or empty.
        acceptance: in place of the recipe's.
        slices: rules of slices of the pictures, in place of the recipe's.
        console: where to print.

    Raises:
        UserError: no picture is there or can be read, a network cannot be opened, the folder is in use, or no picture
            has a field that the rule of a slice names.
    """
    refuse_below(1, ask=number)
    refuse_unwritable(to, "--to", folder=True)
    if to.exists() and any(to.iterdir()):
        holds = (
            "holds questions: answer them with --answers, or name"
            if (to / NAME).exists()
            else "is not empty. Name"
        )
        raise UserError(f"--to {to} {holds} another folder.")
    console = _alone(console)
    networks = _Networks(run, acceptance)
    found = find_pictures(places)
    rules, left_out = networks.slices(slices, found)
    with Display(console, "pictures", len(found.pictures), unit="picture") as bar:
        by_task, there, unread = disagreements(networks.compared, found.pictures, bar.update)
    for each in unread[:20]:
        console.print(f"{each.place}: {each.reason}", style="red", markup=False, soft_wrap=True)
    pictures = [found.pictures[place] for place in there]
    sliced = {
        name: np.array([picture.place in keys for picture in pictures], dtype=bool)
        for name, keys in rules.items()
    }
    asked, rows = _asked(by_task, number, networks, sliced)
    named = {f"{name:04d}": pictures[row] for name, row in enumerate(rows, 1)}
    names = {row: f"{name:04d}" for name, row in enumerate(rows, 1)}
    questions = Questions(
        run=str(run.path),
        networks=networks.hashes,
        seed=networks.recipe.seed,
        pictures=len(pictures),
        unread=len(unread),
        keys={name: picture.key for name, picture in named.items()},
        tasks={task: _task(kind, by_task[task], asked[task], names) for task, kind in networks.kinds.items()},
        slices={name: int(some.sum()) for name, some in sliced.items()},
    )
    with atomic_folder(to) as folder:
        write_questions(folder, questions, networks.kinds, named)
    print_summary(
        console, report_of_questions(questions, to, networks.unasked, networks.not_judged(sliced) | left_out)
    )
    return questions


def judge_answers(
    run: RunFolder,
    places: Sequence[Path],
    to: Path | None,
    pictures: Sequence[str],
    *,
    acceptance: GivenAcceptance,
    file: Path | None,
    console: Console | None,
) -> LabelledSet:
    """Read what people answered, and judge the student over all pictures that the questions were drawn from.

    Args:
        run: whose questions they are.
        places: files and folders with answers.
        to: folder of the questions; None: that of the first place.
        pictures: the places that were asked about, to be compared with the questions; none: not compared.
        acceptance: in place of the recipe's.
        file: for the result too.
        console: where to print.

    Raises:
        UserError: there are no questions or no answers, an answer cannot be used, or a network is another than then.
    """
    console = _alone(console)
    folder = _folder(places, to)
    refuse_unwritable(folder / REPORT, "--answers")
    questions = Questions.read(folder / NAME)
    networks = _Networks(run, acceptance)
    networks.refuse_others(questions, folder)
    if pictures and (count := len(find_pictures(pictures).pictures)) != questions.pictures + questions.unread:
        raise UserError(
            f"--pictures: {count:,} pictures are there, and the questions in {folder} are about "
            f"{questions.pictures + questions.unread:,}. Leave --pictures out, or ask again."
        )
    answers = read_answers(places, questions, networks.kinds)
    if questions.number and not answers.number:
        raise UserError(f"--answers {places[0]}: no question is answered yet.")
    tasks = {}
    with Display(console, "answers", answers.number, unit="answer") as bar:
        done = 0
        for task in questions.tasks:
            tasks[task] = _judged(networks.compared, task, questions, answers, folder)
            done += len(answers.labels[task])
            bar.update(done)
    result = LabelledSet(
        run=str(run.path),
        pictures=questions.pictures,
        unread=questions.unread,
        tasks=corrected(tasks),
        acceptance=networks.acceptance_of(questions.slices),
    )
    report = report_of_labels(
        result, _gaps(questions, answers), networks.unasked, networks.not_judged(questions.slices)
    )
    result.write(folder / RESULT)
    if file is not None:
        result.write(file)
    write_text(folder / REPORT, page(report))
    print_summary(console, report)
    return result


class _Networks:
    """The networks of a run, opened, and its margins."""

    def __init__(self, run: RunFolder, acceptance: GivenAcceptance) -> None:
        self.recipe: Recipe = load_recipe(run.recipe)
        teachers, kinds = build_teachers(self.recipe)
        several = {task_of(name) for name in teachers} - set(teachers)
        self.unasked = {task: "it has several teachers" for task in kinds if task in several}
        self.unasked |= {
            task: "its teacher's answers are its labels"
            for task, kind in kinds.items()
            if kind.teacher_labels
        }
        self.kinds: dict[str, TaskKind] = {
            task: kind for task, kind in kinds.items() if task in teachers and task not in self.unasked
        }
        if not self.kinds:
            raise UserError(
                f"{run.path}: no task has one teacher whose answers people can judge, so there is nothing to ask."
            )
        self.settings = acceptance.applied(ComparisonSettings.of(self.recipe), list(self.recipe.tasks))
        margins = margins_by_task(self.settings.acceptance.margin, self.kinds)
        self.acceptance = Acceptance(self.settings.acceptance.rule, margins)
        student = load_student(run.student, trust=self.recipe.trusts_code).student
        self.hashes = {"student": sha256(run.student / WEIGHTS)}
        self.hashes |= {f"teacher of {task}": teachers.cards[task].sha256 for task in self.kinds}
        inputs = [student.trunk.inputs, *(card.inputs for card in teachers.cards.values())]
        ways = {source.resize for source in self.recipe.data.values() if source.labels}
        device: torch.device = PartialState().device
        for network in (student, *teachers.values()):
            network.to(device)
        self.compared = Compared(
            student,
            {task: teachers[task] for task in self.kinds},
            self.kinds,
            (max(each.size[0] for each in inputs), max(each.size[1] for each in inputs)),
            ways.pop() if len(ways) == 1 else "squash",
            self.recipe.evaluation.batch_size,
            device,
        )

    def slices(
        self, given: dict[str, str | list[str]] | None, pictures: FoundPictures
    ) -> tuple[Rows, dict[str, str]]:
        """The slices of pictures, by `place`, and those of the recipe that these pictures do not tell -> why.

        Raises:
            UserError: no picture has a field that a rule names which was given for them.
        """
        rules = self.settings.with_slices(given).evaluation.slices
        if rules is None or given is not None:
            return Slices.of(rules).rows(pictures, [""], None).get("", {}), {}
        rules, left_out = dict(rules), dict[str, str]()
        while True:
            try:
                return Slices.of(rules).rows(pictures, [""], None).get("", {}), left_out
            except NoSuchField as error:
                left_out[error.slice] = str(error)
                del rules[error.slice]

    def acceptance_of(self, slices: Collection[str]) -> Acceptance:
        """The margins, also of those slices that are there."""
        given = self.settings.acceptance.slices
        rows = dict.fromkeys(self.kinds, dict.fromkeys(slices, frozenset[str]()))
        there = {name: margin for name, margin in given.items() if name in slices}
        return replace(self.acceptance, slices=slice_margins(there, rows))

    def not_judged(self, slices: Collection[str]) -> dict[str, str]:
        """Slices with a margin that are not there -> what is said of them."""
        return {
            name: "These pictures have no such slice, so acceptance.slices does not judge it."
            for name in self.settings.acceptance.slices
            if name not in slices
        }

    def refuse_others(self, questions: Questions, folder: Path) -> None:
        """Refuse to judge networks by questions that were drawn for others."""
        changed = [name for name, digest in self.hashes.items() if questions.networks.get(name) != digest]
        if changed or set(self.hashes) != set(questions.networks):
            name = changed[0] if changed else "a teacher"
            raise UserError(
                f"{folder}: the {name} is not the one that the questions were drawn for, so their answers say nothing "
                f"of it. Ask again for this run, or name the run that asked: {questions.run}."
            )


class _Asked(NamedTuple):
    """The draw of a task, and by slice how many rows matter there and the part of the draw."""

    whole: Draw
    slices: dict[str, tuple[int, Draw]]


def _asked(
    by_task: Mapping[str, Disagreement],
    number: int,
    networks: _Networks,
    slices: Mapping[str, NDArray[np.bool_]],
) -> tuple[dict[str, _Asked], list[int]]:
    """The draw of each task, and all rows in the order in which they are first asked."""
    acceptance = networks.acceptance_of(slices)
    chances = {}
    for task, found in by_task.items():
        if found.differ is None:
            chances[task] = draw_chances(found.sizes)
        else:
            lost = [(100 * found.differ.mean(), acceptance.margin[task])]  # at most, and allowed
            lost += [
                (100 * found.differ[slices[name]].mean(), margin)
                for name, margin in acceptance.of_slices(task).items()
                if slices[name].any()
            ]
            sure = acceptance.rule == "interval" and all(most < margin for most, margin in lost)
            chances[task] = found.differ.astype(np.float64) * (not sure)
    given = shares(number, {task: int((each > 0).sum()) for task, each in chances.items()})
    drawn = {task: draw(each, given[task], networks.recipe.seed, task) for task, each in chances.items()}
    turns = zip_longest(*(each.rows for each in drawn.values()))
    rows = list(dict.fromkeys(row for turn in turns for row in turn if row is not None))
    asked = {
        task: _Asked(
            whole,
            {
                name: (_population(by_task[task], some), within(whole, chances[task], some))
                for name, some in slices.items()
            },
        )
        for task, whole in drawn.items()
    }
    return asked, rows


def _population(found: Disagreement, some: NDArray[np.bool_]) -> int:
    """How many of some rows matter for the difference, asked or not."""
    return int(some.sum() if found.differ is None else found.differ[some].sum())


def _task(kind: TaskKind, found: Disagreement, drawn: _Asked, names: Mapping[int, str]) -> AskedTask:
    decided = found.differ is not None
    return AskedTask(
        metric=kind.metric,
        population=int(found.differ.sum()) if found.differ is not None else len(found.agreement),
        agreement=float(found.agreement.mean()),
        decided=decided,
        questions=[Question(names[row], chance) for row, chance in zip(*drawn.whole, strict=True)],
        student=None if found.student is None else found.student.tolist(),
        teacher=None if found.teacher is None else found.teacher.tolist(),
        slices={
            name: AskedSlice(
                population,
                {names[row]: chance for row, chance in zip(part.rows, part.chances, strict=True)},
            )
            for name, (population, part) in drawn.slices.items()
        },
    )


def _judged(
    compared: Compared, task: str, questions: Questions, answers: Answers, folder: Path
) -> LabelledTask:
    """One task from its answers, in the order in which they were drawn."""
    kind, asked, labels = compared.kinds[task], questions.tasks[task], answers.labels[task]
    answered = [each for each in asked.questions if each.row in labels]
    skipped = len(answers.skipped[task])
    drawn = Drawn([each.chance for each in answered], asked.population, len(asked.questions), skipped)
    statistics = None
    if answered:
        rows = _labelled_pictures(kind, folder, {each.row: labels[each.row] for each in answered})
        powered = asked.student is not None and asked.teacher is not None
        statistics = labelled_statistics(compared, task, rows, with_proxies=powered)
    found = _estimated(kind, asked, questions.pictures, drawn, statistics)
    return LabelledTask(
        kind=kind.name,
        metric=kind.metric,
        higher_is_better=kind.higher_is_better,
        in_points=kind.in_points,
        population=asked.population,
        decided=asked.decided,
        agreement=asked.agreement,
        asked=len(asked.questions),
        answered=len(answered),
        skipped=skipped,
        delta=found.delta if found is not None and (answered or drawn.exact) else None,
        ci95=None if found is None else found.interval,
        anytime=found is not None and found.anytime,
        unscored=_unscored(kind, asked, statistics),
        slices=_slices(kind, task, questions, answers, [each.row for each in answered], statistics),
    )


def _slices(
    kind: TaskKind,
    task: str,
    questions: Questions,
    answers: Answers,
    answered: Sequence[str],
    statistics: Measured | None,
) -> tuple[LabelledSlice, ...]:
    """The task on the pictures of each slice, whose part of the draw is a draw from them.

    Proxies are left out: their sums are known over all pictures alone.
    """
    found, asked = [], questions.tasks[task]
    for name, part in asked.slices.items():
        places = [place for place, row in enumerate(answered) if row in part.chances]
        skipped = sum(row in part.chances for row in answers.skipped[task])
        one = LabelledSlice(
            name=name,
            pictures=questions.slices[name],
            population=part.population,
            asked=len(part.chances),
            answered=len(places),
            skipped=skipped,
        )
        chances = [part.chances[answered[place]] for place in places]
        drawn = Drawn(chances, part.population, len(part.chances), skipped, anytime=True)
        some = None
        if statistics is not None and places:
            student, teacher = (each[places] for each in statistics.labelled)
            some = Measured((student, teacher), None)
        estimated = _estimated(kind, asked, one.pictures, drawn, some) if one.pictures >= FEWEST else None
        if estimated is not None and math.isfinite(estimated.delta):
            one = replace(one, ci95=estimated.interval)
            if places or drawn.exact:
                one = replace(one, delta=estimated.delta, p=estimated.p)
        found.append(one)
    return tuple(found)


def _estimated(
    kind: TaskKind, asked: AskedTask, pictures: int, drawn: Drawn, statistics: Measured | None
) -> Estimate | None:
    """None: nothing is known yet."""
    if asked.decided:
        right = torch.zeros(0, dtype=torch.float64)
        if statistics is not None:
            mine, theirs = (kind.correct_rows(each) for each in statistics.labelled)
            assert mine is not None
            assert theirs is not None
            right = mine.double() - theirs.double()
        return estimate_decided(right, pictures, drawn)
    if statistics is None:
        return None
    proxies = None
    if statistics.guessed is not None:
        totals = [torch.tensor(each, dtype=torch.float64) for each in (asked.student, asked.teacher)]
        proxies = Proxies(*statistics.guessed, *totals)
    return estimate(kind, *statistics.labelled, drawn, proxies)


def _unscored(kind: TaskKind, asked: AskedTask, statistics: Measured | None) -> tuple[str, ...]:
    """The classes that no label shows, of a score that has some."""
    if asked.decided or statistics is None or (scores := kind.class_scores(statistics.labelled[1])) is None:
        return ()
    return tuple(kind.classes[place] for place in scores.isnan().nonzero().flatten().tolist())


def _labelled_pictures(kind: TaskKind, folder: Path, labels: Mapping[str, bytes]) -> list[LabelledPicture]:
    """The pictures of some rows, as they lie among the questions, with their labels.

    Raises:
        UserError: a picture is gone or damaged, or a label belongs to a picture of another size.
    """
    files = {path.stem: path for path in sorted((folder / PICTURES).glob("*"))}
    found = []
    for row, payload in labels.items():
        place = files.get(row, folder / PICTURES / row)
        try:
            image = read_image(read_bytes(place, MOST_BYTES), place.suffix[1:])
            label = kind.read_label(payload)
            kind.check_size(label, (image.shape[1], image.shape[2]))
        except (ValueError, OSError) as error:
            raise UserError(f"{place}: {str(error).rstrip('.')}.") from None
        found.append(LabelledPicture(row, image, label))
    return found


def _gaps(questions: Questions, answers: Answers) -> dict[str, list[str]]:
    """task -> rows without an answer before the last one that has one."""
    gaps = {}
    for task, asked in questions.tasks.items():
        said = {*answers.labels[task], *answers.skipped[task]}
        order = [each.row for each in asked.questions]
        last = max((place for place, row in enumerate(order) if row in said), default=0)
        gaps[task] = [row for row in order[:last] if row not in said]
    return gaps


def _folder(places: Sequence[Path], to: Path | None) -> Path:
    """The folder of the questions: the one that was named, or that of the answers."""
    if to is None:
        above = (folder for place in places for folder in (place, *place.absolute().parents[:2]))
        to = next((folder for folder in above if (folder / NAME).is_file()), None)
    if to is None or not (to / NAME).is_file():
        raise UserError(
            f"--answers: there is no {NAME} {f'in {to}' if to is not None else f'beside {places[0]}'}. Name the folder "
            "that --ask wrote: --to FOLDER."
        )
    return to


def _alone(console: Console | None) -> Console:
    """Where to print. Refuses to share the work."""
    state, console = shared_console(console)
    if state.num_processes > 1:
        raise UserError("--ask and --answers run in one process: start them without a launcher.")
    return console
