"""`distill-mtl forecast RECIPE`: is the student worth training? What is known before, and how far to trust it."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from rich import box
from rich.console import Console
from rich.table import Table

from distill_mtl.checks.before_training import run_check
from distill_mtl.display import Display, console_of
from distill_mtl.errors import UserError
from distill_mtl.evaluation.cost import compare_costs
from distill_mtl.evaluation.forecast.conflicts import Conflicts, conflicts_of, mean_cosines
from distill_mtl.evaluation.forecast.features import (
    TEST_ROWS,
    features_of,
    forecastable,
    teacher_errors,
)
from distill_mtl.evaluation.forecast.law import ErrorLaw, Features
from distill_mtl.evaluation.forecast.result import Forecast
from distill_mtl.evaluation.forecast.table import (
    ForecastTable,
    ForecastTask,
    Line,
    cases_of,
    digest_of,
    finished,
    measured_cases,
    merge_of,
    now,
)
from distill_mtl.evaluation.network_costs import Costs
from distill_mtl.files import refuse_unwritable
from distill_mtl.jobs.arguments import as_recipe, recipe_place, refuse_below
from distill_mtl.jobs.branch import RANDOM, show_by_depth
from distill_mtl.jobs.distill import calibrate, open_session
from distill_mtl.recipe import Recipe
from distill_mtl.report import words
from distill_mtl.students.initial_weights import find_initial_student
from distill_mtl.training.branching.find import find_branching
from distill_mtl.training.branching.teacher_features import rows_of
from distill_mtl.training.choose_branches import compare
from distill_mtl.training.fork import fork, fork_losses, whole_run_rates
from distill_mtl.training.loop import micro_batches
from distill_mtl.training.parts import Parts, build
from distill_mtl.training.processes import start_accelerator, start_processes
from distill_mtl.training.run_folder import RunFolder


def forecast(
    recipe: Recipe | Path | str,
    overrides: Sequence[str] = (),
    *,
    runs: Path | str = "runs",
    rows: int = 300,
    json: Path | str | None = None,
    console: Console | None = None,
) -> Forecast:
    """Say before a long run what the student will cost and about what each task will win or lose.

    Check the recipe as every run does. Then print how much the teachers are at odds (features by depth, answers,
    gradients, data), what the student costs beside all teachers, and for each task a forecast of delta (student minus
    teacher, as `evaluate` reports it) with an 80 % interval. At most 2 % of the run's steps are trained, then taken
    back.

    The forecast learns from runs of the merge bench that come with the program, and from every run that was forecast
    and has ended: when a run ends, it writes what came out beside its forecast into forecasts.jsonl in its folder of
    runs, and this command says how the intervals did so far.

    Args:
        recipe: the recipe, a YAML file.
        overrides (--set KEY=VALUE, repeated): override any key, as often as you like:
            --set training.steps=2000
        runs (DIR): folder of runs, where the forecast is noted.
        rows: training rows that the teachers' features and answers are compared on.
        json (FILE): write the forecast there.
        console: where it is printed; default standard output.

    Returns:
        Everything that was printed.

    Raises:
        UserError: the recipe, the data or a teacher is wrong, or a file cannot be read or written.
        KeyboardInterrupt: interrupted. Nothing was trained or noted.

    Examples:
        Would five times as many steps pay?
          distill-mtl forecast recipe.yaml --set training.steps=5000
    """
    refuse_below(20, rows=rows)
    loaded = as_recipe(recipe, overrides)
    state = start_processes()
    if state.num_processes > 1:
        raise UserError("forecast runs in one process: start it without a launcher.")
    console = console_of(console, first=True)
    table, to = ForecastTable(Path(runs)), None if json is None else Path(json)
    refuse_unwritable(table.path, "--runs")
    if to is not None:
        refuse_unwritable(to, "--json")
    lines = table.lines()

    parts = build(loaded)
    accelerator = start_accelerator(parts.recipe.training)
    device = accelerator.device
    examined = run_check(parts, device, console)
    tasks, left_out = forecastable(parts)
    conflicts = _conflicts(parts, rows, device, console)
    with console.status("measuring costs"):
        costs = compare_costs(
            parts.student.to(device),
            {name: parts.teachers[name].to(device) for name in parts.teachers},
            parts.sources.size,
            device,
            batch_size=parts.recipe.evaluation.batch_size,
        )
    _show_costs(costs, console)
    precisions = {name: found.precision for name, found in examined.items()}
    steps, cosines = _fork(parts, accelerator, precisions, console)
    conflicts = replace(
        conflicts,
        pairs=tuple(replace(pair, cosine=cosines.get(pair.tasks)) for pair in conflicts.pairs),
    )
    _show_conflicts(conflicts, console)

    features = features_of(parts, tasks, costs)
    left_out |= {task: "its teacher does not say how large it is" for task in tasks if task not in features}
    errors = _errors(parts, list(features), device, console)
    digests = {name: card.sha256 for name, card in parts.teachers.cards.items()}
    merge = merge_of(digests)
    # Of what came out of this merge before nothing may be known: its misses would be those of a law that saw it.
    law = ErrorLaw([case for case in (*measured_cases(), *cases_of(lines)) if case.merge != merge])
    left_out |= {task: "its teacher makes no error" for task, error in errors.items() if not error > 0}
    left_out |= {task: far for task, known in features.items() if (far := law.unlike(known))}
    features = {task: known for task, known in features.items() if task not in left_out}
    found = _forecasts(parts, law, features, errors)
    done = finished(lines)
    result = Forecast(
        recipe=digest_of(loaded),
        steps=parts.steps,
        fork=steps,
        cost=costs,
        conflicts=conflicts,
        tasks=found,
        left_out=left_out,
        merges=law.merges,
        finished=len(done),
        held=sum(task.held for task in done),
    )
    if found:
        line = Line(recipe=result.recipe, written=now(), merge=merge, steps=parts.steps, tasks=found)
        table.append(line)
    if to is not None:
        result.write(to)
    # Another recipe than the one that was forecast would never meet its forecast.
    said = [recipe_place(recipe), *(part for each in overrides for part in ("--set", each))]
    show(result, table.path, shlex.join(said), console)
    return result


def _conflicts(parts: Parts, rows: int, device: torch.device, console: Console) -> Conflicts:
    """What the teachers' features, answers and data say; a student that cannot be cut only lacks the features."""
    for name in parts.teachers:
        parts.teachers[name].to(device)
    branching, why = None, ""
    with console.status("comparing the teachers"):
        images = rows_of(parts.sources, rows)
        try:
            old = find_initial_student(parts.recipe.student.init)
            compared = compare(
                parts.recipe, parts.teachers, parts.kinds, old, lambda *_: parts.sources, rows, device
            )
            branching = find_branching(compared, 1.0, "rsa")
        except UserError as error:
            why = str(error)
        return conflicts_of(parts, images, branching, device, why)


def _fork(
    parts: Parts, accelerator: Accelerator, precisions: Mapping[str, str], console: Console
) -> tuple[int, dict[tuple[str, str], float]]:
    """Train at most 2 % of the run's steps and take them back: steps, and mean cosines of pairs of tasks' gradients."""
    teachers = parts.targets(precisions).to(accelerator.device)
    session = open_session(parts, accelerator, RunFolder(Path()), teachers)
    rates = whole_run_rates(session)
    if not rates:
        return 0, {}
    calibrate(parts, accelerator, teachers)
    cosines = []
    stream = micro_batches(parts, accelerator, range(parts.steps))
    with fork(session), Display(console, "fork", len(rates)) as bar:
        for step, losses in enumerate(fork_losses(session, stream, rates, diagnose=True), 1):
            cosines.append(dict(parts.rule.diagnostics.cosines))
            bar.update(step, "  ".join(f"{task} {loss:.3f}" for task, loss in losses.items()))
            if broken := [task for task, loss in losses.items() if not math.isfinite(loss)]:
                said = f"the loss of {', '.join(broken)} is not finite at step {step}: lower optimizer.lr"
                console.print(said, style="yellow")
                break
    return len(cosines), mean_cosines(cosines)


def _errors(parts: Parts, tasks: list[str], device: torch.device, console: Console) -> dict[str, float]:
    """The teachers' errors on test rows, by task, with a bar."""
    total = sum(min(TEST_ROWS, parts.sources.count(task, "test")) for task in tasks)
    with Display(console, "teachers on test rows", total, unit="row") as bar:
        done = 0

        def tick(more: int) -> None:
            nonlocal done
            done += more
            bar.update(done)

        return teacher_errors(parts, tasks, device, tick)


def _forecasts(
    parts: Parts, law: ErrorLaw, features: Mapping[str, Features], errors: Mapping[str, float]
) -> dict[str, ForecastTask]:
    """By task; none where the known merges are too few for an interval."""
    found = {}
    for task, known in features.items():
        ends = law.forecast(known)
        if ends is None:
            continue
        delta, low, high = ends.in_points(errors[task])
        found[task] = ForecastTask(
            metric=parts.kinds[task].metric,
            passes=known.passes,
            size=known.size,
            error=errors[task],
            delta=delta,
            low=low,
            high=high,
        )
    return found


def _show_costs(costs: Costs, console: Console) -> None:
    table = _table("cost of one image", [""], ["parameters", "FLOPs", "latency"])
    rows = {"student": costs.student} | ({"all teachers": costs.teachers} if costs.teachers else {})
    for name, cost in rows.items():
        table.add_row(
            name, words.short(cost.parameters), words.short(cost.flops), f"{cost.latency_ms:.2f} ms"
        )
    if costs.teachers is not None:
        mine, theirs = costs.student, costs.teachers
        table.add_row(
            "student / teachers",
            words.ratio(mine.parameters, theirs.parameters),
            words.ratio(mine.flops, theirs.flops),
            words.ratio(mine.latency_ms, theirs.latency_ms) if costs.steady else words.NONE,
            style="bold",
        )
    console.print(table)
    if not costs.steady:
        console.print(f"Times were measured on {costs.machine}.", style="dim", soft_wrap=True)


def _show_conflicts(conflicts: Conflicts, console: Console) -> None:
    compared = {
        "/".join(pair.tasks): list(pair.affinity.values()) for pair in conflicts.pairs if pair.affinity
    }
    if compared:
        title = "affinity: do two teachers find the same rows alike? (rsa; 1: the same; random network: what any gives)"
        rows = compared | {RANDOM: list(conflicts.random.values())}
        show_by_depth(title, list(conflicts.random), rows, 2, console)
    for task, why in conflicts.unlike.items():
        console.print(f"{task}: features are not compared: {why}", style="dim", soft_wrap=True)
    if not conflicts.pairs:
        return
    columns = ["teachers agree", "cosine of gradients", "rows labelled for both"]
    table = _table("pairs of tasks", [""], columns)
    for pair in conflicts.pairs:
        table.add_row(
            "/".join(pair.tasks),
            words.percent(pair.agreement),
            words.NONE if pair.cosine is None else _signed(pair.cosine),
            words.percent(pair.together, 0),
        )
    console.print(table)


def show(found: Forecast, path: Path, recipe: str, console: Console) -> None:
    """Print the forecasts, how earlier ones did, and how `recipe`, with what overrides it, is trained."""
    if found.tasks:
        title = f"forecast after {found.steps:,} steps"
        table = _table(title, ["task", "metric"], ["delta", "80 % interval"])
        for task, each in found.tasks.items():
            table.add_row(task, each.metric, *_cells(each))
        console.print(table)
    for task, why in found.left_out.items():
        console.print(f"{task} is not forecast: {why}.", soft_wrap=True)
    if found.tasks:
        console.print(
            f"Delta is student minus teacher on the test rows. It follows from runs of {found.merges} merges, by the "
            "teacher's error there, passes over the data, and the sizes of teacher and student: nothing else is known "
            "of yours. Intervals are as wide as misses on merges that were left out.",
            style="dim",
            soft_wrap=True,
        )
    if found.finished:
        said = (
            f"So far here: {found.held} of {words.counted(found.finished, 'task')} of finished runs ended in their "
            f"80 % interval ({path})."
        )
    else:
        said = (
            "No run that was forecast here has finished yet, so nothing shows how good these intervals are for your "
            f"merges. Runs are compared with their forecast in {path} when they end."
        )
    console.print(said, soft_wrap=True)
    console.print(f"Train it: accelerate launch distill.py {recipe}", soft_wrap=True)


def _table(title: str, texts: Sequence[str], numbers: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in texts:
        table.add_column(column)
    for column in numbers:
        table.add_column(column, justify="right")
    return table


def _cells(task: ForecastTask) -> tuple[str, str]:
    """In hundredths of a point, or of the first digit of a teacher's error that is below 1."""
    places = 2 + max(0, math.ceil(-math.log10(task.error)))
    delta, low, high = (_signed(value, places) for value in (task.delta, task.low, task.high))
    return delta, f"{low} … {high}"


def _signed(value: float, places: int = 2) -> str:
    text = f"{value:+.{places}f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", "−")
