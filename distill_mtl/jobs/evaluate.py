"""`distill-mtl evaluate`: the student of a finished run against its teachers again, or any two models."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import overload

from rich.console import Console

from distill_mtl.errors import UserError, nearest
from distill_mtl.evaluation import Comparison, Evaluation
from distill_mtl.evaluation.comparison import ComparisonSettings, compare_with_progress, evaluation_set_of
from distill_mtl.evaluation.few_labels import LabelledSet, Questions
from distill_mtl.files import refuse_full_disks, refuse_unwritable, write_text
from distill_mtl.jobs.arguments import Acceptance, GivenAcceptance, as_classes, as_slices
from distill_mtl.jobs.few_labels import ask as ask_people
from distill_mtl.jobs.few_labels import judge_answers
from distill_mtl.jobs.model_comparison import TaskGiven, compare_models
from distill_mtl.jobs.run_artefacts import (
    artefact_bytes,
    card_of,
    earlier_result,
    shared_console,
    write_run_artefacts,
)
from distill_mtl.jobs.trained_baselines import measure_baselines, open_baselines, train_baselines
from distill_mtl.networks.weights import CARD
from distill_mtl.recipe import load_recipe
from distill_mtl.report.console import print_summary
from distill_mtl.report.run_report import report_of_result
from distill_mtl.run_files import RunFiles
from distill_mtl.students.student_folder import load_student
from distill_mtl.training.parts import build_sources, build_teachers
from distill_mtl.training.run_bucket import run_at
from distill_mtl.training.run_folder import RunFolder
from distill_mtl.training.target_providers import several_teachers


@overload
def evaluate(
    run: Path | str,
    *,
    baseline: Sequence[str] = ...,
    write: bool = ...,
    slices: Sequence[str] | Mapping[str, str] = ...,
    acceptance: Acceptance = ...,
    json: Path | str | None = ...,
    trust: bool = ...,
    console: Console | None = ...,
) -> Evaluation: ...


@overload
def evaluate(
    run: Path | str,
    *,
    pictures: Sequence[str],
    ask: int,
    to: Path,
    slices: Sequence[str] | Mapping[str, str] = ...,
    acceptance: Acceptance = ...,
    console: Console | None = ...,
) -> Questions: ...


@overload
def evaluate(
    run: Path | str,
    *,
    answers: Sequence[Path],
    pictures: Sequence[str] = ...,
    to: Path | None = ...,
    acceptance: Acceptance = ...,
    json: Path | str | None = ...,
    console: Console | None = ...,
) -> LabelledSet: ...


@overload
def evaluate(
    *,
    student: str,
    against: Sequence[str],
    data: Sequence[str],
    task: str | None = ...,
    kind: str | None = ...,
    classes: int | str | Sequence[str] | None = ...,
    member: str | None = ...,
    slices: Sequence[str] | Mapping[str, str] = ...,
    acceptance: Acceptance = ...,
    json: Path | str | None = ...,
    trust: bool = ...,
    console: Console | None = ...,
) -> dict[str, Evaluation]: ...


def evaluate(
    run: Path | str | None = None,
    *,
    baseline: Sequence[str] = (),
    write: bool = False,
    pictures: Sequence[str] = (),
    ask: int | None = None,
    answers: Sequence[Path] = (),
    to: Path | None = None,
    student: str | None = None,
    against: Sequence[str] = (),
    data: Sequence[str] = (),
    task: str | None = None,
    kind: str | None = None,
    classes: int | str | Sequence[str] | None = None,
    member: str | None = None,
    slices: Sequence[str] | Mapping[str, str] = (),
    acceptance: Acceptance = (),
    json: Path | str | None = None,
    trust: bool = False,
    console: Console | None = None,
) -> Evaluation | dict[str, Evaluation] | Questions | LabelledSet:
    """Compare a student with its teachers again, with baselines, or any two models.

    Measure the student of a finished run and its teachers on the test rows of the run's recipe, and print a table of
    scores, 95 % intervals, verdicts and costs on this machine. Or judge it on your own pictures with few labels:
    --ask writes questions for people, --answers reads what they said. Or compare any two models on labelled shards.
    Nothing else is written unless you ask for it. Exit status, for deployments: 0 accepted, 3 not accepted, 2 a mistake
    in what was given.

    Usage:
        distill-mtl evaluate RUN [--baseline NAME ...] [--slices NAME=RULE ...] [--acceptance MARGIN ...]
                             [--write] [--json FILE]
        distill-mtl evaluate RUN --pictures PLACE ... --ask N --to FOLDER [--slices NAME=RULE ...]
                             [--acceptance MARGIN ...]
        distill-mtl evaluate RUN --answers FILE ... [--to FOLDER] [--acceptance MARGIN ...] [--json FILE]
        distill-mtl evaluate --student MODEL --against MODEL ... --data SHARDS ... [--task TASK]
                             [--kind KIND] [--classes CLASSES] [--member ENDING] [--slices NAME=RULE ...]
                             [--acceptance MARGIN ...] [--json FILE] [--trust]

    Args:
        run (RUN): run folder, such as runs/multidigits or s3://bucket/runs/multidigits.
        acceptance (MARGIN ...): the largest loss allowed, in points; scores in the label's unit need their own. One
            number, or TASK=NUMBER; default the recipe's, else 1 point. The word `point`, alone or with numbers, judges
            by the measured difference, `interval` by its 95 % interval.
        slices (NAME=RULE ...): slices of the rows, or of the pictures that --ask looks at, each with the rule that its
            rows fulfil: night='key~^night' small='box_area<400' rain='weather=rain'. Default the recipe's, else each
            word that rows carry in slice.json. More: docs/evaluate.md.
        json (FILE): write the results there, in the form of results.json.
        trust: let models run code: .pt2 and .ts files are programs.
        console: where progress and tables are shown; default standard output of the first process.

    Args of a run:
        baseline (NAME, repeated): another student to compare with: labels_only (the same student, trained without
            teachers), single_task (one network per task, with the same trunk) or any model. The first two are trained
            into RUN/baselines if they are not there. The run's results, report and model card gain them.
        write: replace the run's results, report and model card with what is measured now.

    Args of a run with few labels:
        pictures (PLACE ...): pictures without labels: files, folders of them (at any depth), shards, URLs of shards.
        ask (N): write questions about some of them, N labels in all, so that the student can be judged over all
            pictures. Labels are asked where student and teachers differ. More: docs/few-labels.md.
        to (FOLDER): folder of the questions. With --ask it is made; with --answers default the one that the answers lie
            in.
        answers (FILE ...): what people answered, all of it or a part: the filled answers.csv, an export of Label
            Studio, boxes as COCO JSON, folders of label files. result.json and report.html go beside the questions.

    Args in place of a run:
        student (MODEL): the model to judge.
        against (MODEL ...): the models that it is compared with.
        data (SHARDS ...): labelled shards: folders, files or patterns; for several tasks TASK=SHARDS. All their rows
            are used.
        task: the task that the labels belong to, if the student has several.
        kind: kind of the task; default the student's.
        classes: number, or cat,dog,owl in the order of the label numbers; default the student's.
        member: file ending of the label: cls, seg.png; default the kind's.

    Returns:
        The comparison of a run; of models, by what the student was compared with. Several processes that were launched
        together share the rows, and find the same. With --ask the questions, with --answers what they say.

    Raises:
        UserError: there is no finished run; data, a teacher or a model cannot be opened; a margin is below 0 or for
            no task; arguments of a run stand beside those of models; a picture or an answer cannot be used.
        Stopped: Ctrl-C or SIGTERM arrived while a baseline was trained.
        KeyboardInterrupt: interrupted before the comparison was finished. Baselines that were trained stay; the same
            command compares again.

    Examples:
        Models are a run folder, a student folder, or what `teacher:` takes in a recipe (a timm folder, .onnx, .pt2,
        .ts, hf_hub:owner/name):
          distill-mtl evaluate --student runs/A --against runs/B breed.onnx \\
              --data breed='shards/breed-*.tar' part=shards/part

        Several processes:
          ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 --main_process_port 0 \\
              -m distill_mtl.cli evaluate RUN

        More: docs/evaluate.md.
    """
    models: dict[str, object] = {"student": student, "against": against, "data": data}
    about: dict[str, object] = {"task": task, "kind": kind, "classes": classes, "member": member}
    few: dict[str, object] = {"pictures": pictures, "ask": ask is not None, "answers": answers, "to": to}
    refuse_mixture(run, models, about, {"baseline": baseline, "write": write, **few})
    others = {"baseline": baseline, "write": write, "trust": trust}
    refuse_half_of_few_labels(few, others, json is not None)
    if answers and slices:
        raise UserError(
            "--slices goes with --ask, which finds them among all pictures: ask again with other slices."
        )
    file = None if json is None else Path(json)
    if file is not None and not file.parent.is_dir():
        raise UserError(f"--json {file}: there is no folder {file.parent}. Make it first.")
    if file is not None:
        refuse_unwritable(file, "--json")
    judged_by, sliced = GivenAcceptance.read(acceptance), as_slices(slices)
    if run is None:
        assert student is not None
        given = TaskGiven(task, kind, as_classes(classes), member)
        return compare_models(
            student,
            against,
            data,
            given=given,
            acceptance=judged_by,
            slices=sliced,
            trust=trust,
            file=file,
            console=console,
        )
    with run_at(run) as place:
        folder = RunFolder(place)
        refuse_no_run(folder)
        if answers:
            said = [Path(place) for place in ([answers] if isinstance(answers, Path | str) else answers)]
            return judge_answers(folder, said, to, pictures, acceptance=judged_by, file=file, console=console)
        if ask is not None:
            assert to is not None
            return ask_people(
                folder, pictures, ask, Path(to), acceptance=judged_by, slices=sliced, console=console
            )
        return _evaluate_run(
            folder,
            list(dict.fromkeys(baseline)),
            acceptance=judged_by,
            slices=sliced,
            write=write,
            file=file,
            trust=trust,
            console=console,
        )


def refuse_mixture(
    run: Path | str | None,
    models: Mapping[str, object],
    about: Mapping[str, object],
    of_a_run: Mapping[str, object],
) -> None:
    """Refuse half of a comparison, and one of a run and of models at once.

    Args:
        run: as it was given.
        models: what a comparison of models needs, by option.
        about: what it may have besides.
        of_a_run: options that only a run has.

    Raises:
        UserError: with the first option that does not fit.
    """
    if run is not None:
        for option, value in {**models, **about}.items():
            if value:
                raise UserError(
                    f"--{option} compares models on data that you name, and {run} is a run with data of its "
                    "own. Give RUN, or --student, --against and --data."
                )
        return
    missing = [f"--{option}" for option, value in models.items() if not value]
    if missing:
        raise UserError(
            f"found neither a run folder nor {' and '.join(missing)}. Give RUN (distill-mtl evaluate runs/NAME), or "
            "--student, --against and --data."
        )
    for option, value in of_a_run.items():
        if value:
            raise UserError(f"--{option} belongs to a run. Give RUN, or more models after --against.")


def refuse_half_of_few_labels(
    few: Mapping[str, object], others: Mapping[str, object], with_json: bool
) -> None:
    """Refuse questions and answers in one command, and half of either.

    Args:
        few: `pictures`, `ask`, `answers` and `to` as they were given.
        others: options that belong to neither.
        with_json: --json was given.

    Raises:
        UserError: with the option that lacks or does not fit.
    """
    if few["ask"] and few["answers"]:
        raise UserError("--ask writes questions, --answers reads what was answered: give one of them.")
    if few["ask"]:
        for option in ("pictures", "to"):
            if not few[option]:
                what = (
                    "PLACE, the pictures to ask about"
                    if option == "pictures"
                    else "FOLDER, for the questions"
                )
                raise UserError(f"--ask needs --{option} {what}.")
    elif not few["answers"]:
        for option in ("pictures", "to"):
            if few[option]:
                raise UserError(
                    f"--{option} goes with --ask N, which writes questions, or --answers FILE, which reads what was "
                    "answered."
                )
        return
    if few["ask"] and with_json:
        raise UserError("--json holds results, and --ask has none yet. Give it with --answers.")
    for option, value in others.items():
        if value:
            raise UserError(f"--{option} does not go with --{'ask' if few['ask'] else 'answers'}.")


def _evaluate_run(
    run: RunFolder,
    baselines: Sequence[str],
    *,
    acceptance: GivenAcceptance,
    slices: dict[str, str | list[str]] | None,
    write: bool,
    file: Path | None,
    trust: bool,
    console: Console | None,
) -> Evaluation:
    """The student of a run on the test rows that its recipe names, and the baselines on the same rows."""
    recipe = load_recipe(run.recipe)
    state, console = shared_console(console)
    settings = acceptance.applied(ComparisonSettings.of(recipe).with_slices(slices), list(recipe.tasks))
    if state.is_main_process and (write or baselines):
        option = "--write" if write else "--baseline"
        refuse_unwritable(run.path, option, folder=True)
        refuse_full_disks({run.path: artefact_bytes(run)}, f"{option}, for {run.path},")
    teachers, kinds = build_teachers(recipe)
    opened = open_baselines(baselines, kinds, trust=trust)
    earlier = earlier_result(run.results, console)
    train_baselines(run, recipe, baselines, earlier, console)
    student = load_student(run.student, trust=recipe.trusts_code)
    sources = build_sources(
        recipe,
        kinds,
        [student.student.trunk.inputs, *(card.inputs for card in teachers.cards.values())],
        teachers,
    )
    for network in (student, *teachers.values()):
        network.to(state.device)
    comparison = Comparison(
        student,
        teachers,
        kinds,
        evaluation_set_of(sources, "test", settings),
        several_teachers(recipe, kinds, teachers.cards),
    )
    found = compare_with_progress(comparison, settings, console)
    measured = measure_baselines(run, baselines, opened, comparison, recipe, console)
    if earlier is not None:
        measured = earlier.baselines | measured
        kept = {"steps": earlier.steps, "seconds": earlier.seconds, "training_rows": earlier.training_rows}
        found = found.changed(**kept)
    found = found.changed(baselines=measured)
    if state.is_main_process:
        if write or baselines:
            write_run_artefacts(run, found, comparison)
            card = card_of(run, recipe, student.student.trunk, kinds, teachers.cards, found)
            write_text(run.student / CARD, card)
        if file is not None:
            found.write(file)
        print_summary(console, report_of_result(found))
    state.wait_for_everyone()
    return found


def refuse_no_run(run: RunFiles) -> None:
    """Refuse a path that is not the folder of a finished run.

    Raises:
        UserError: the path is not there, is a file, is the student of a run, or holds no recipe or no student.
    """
    path = run.path
    if not os.path.exists(path):
        beside = path.parent
        there = [str(each) for each in beside.iterdir() if each.is_dir()] if beside.is_dir() else []
        raise UserError(
            f"there is no run folder {path}.{nearest(str(path), there)} Give a folder like runs/NAME."
        )
    if not path.is_dir():
        raise UserError(
            f"{path} is a file, not a run folder. Compare a model's file with "
            f"`distill-mtl evaluate --student {path} --against RUN --data SHARDS`."
        )
    owner = RunFiles(path.resolve().parent)
    if owner.student == path.resolve() and owner.recipe.exists():
        raise UserError(f"{path} is the student of {path.parent}: give {path.parent}.")
    for needed in (run.recipe, run.student):
        if not needed.exists():
            raise UserError(
                f"{path} holds no finished run: there is no {needed.name}. Give a folder like runs/NAME."
            )
