"""How good forecasts are: each merge of the merge bench is forecast from the runs of the other merges.

    python benchmarks/forecasts.py                 # from the runs of merges.py that are there
    python benchmarks/forecasts.py --known         # first measure what is known before a run, where that is missing
    python benchmarks/forecasts.py --write         # and write what comes with the package

Reads the runs of `ours` in the work folder of merges.py ($DISTILL_MTL_BENCH, --work, default runs/merges). What is
known before a run (rows, and how a student does after a fork of 2 % of the steps) lies in --known-in, default
WORK/forecasts; it takes a minute of one core for each merge. The table takes some seconds.
"""

import argparse
import json
import math
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from merge_sets import MERGES, ROOT, recipe_of, write_recipe
from scipy.stats import spearmanr
from torch.optim.swa_utils import update_bn

from distill_mtl.evaluation import Evaluation
from distill_mtl.evaluation.evaluation_set import EvaluationSet
from distill_mtl.evaluation.forecast.law import Case, Columns, ErrorLaw, Features, error_of, passes_and_size
from distill_mtl.evaluation.forecast.table import change_of, write_measured
from distill_mtl.evaluation.row_statistics import collect
from distill_mtl.jobs.distill import calibrate, open_session
from distill_mtl.recipe import load_recipe
from distill_mtl.students.student import Student
from distill_mtl.training.fork import fork, fork_losses, whole_run_rates
from distill_mtl.training.loop import micro_batches
from distill_mtl.training.parts import Parts, build
from distill_mtl.training.processes import start_accelerator, start_processes
from distill_mtl.training.run_folder import RunFolder, read_precisions

BUDGETS = ("short", "long")
FORK_ROWS = 512
ZIPPED = "zip"
"""The variant `student.init=zip` of merges.py, where it was run."""
TEAMS = {"digits-few": "digits", "photos-few": "photos", "finetune": "photos", "vit": "photos"}
"""Merges whose teachers are those of another one."""


@dataclass(frozen=True, kw_only=True)
class Known(Features):
    """With what a fork tells: logarithm of the student's error over the teacher's on validation rows after it."""

    fork: float


@dataclass(frozen=True)
class Outcome:
    """One task of one finished run.

    Attributes:
        budget: of the run.
        error: of the teacher on the test rows.
        delta: what the run measured.
        case: what a law learns from.
    """

    budget: str
    error: float
    delta: float
    case: Case


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path(os.environ.get("DISTILL_MTL_BENCH", "runs/merges")))
    parser.add_argument(
        "--known-in", type=Path, help="folder of what is known before; default WORK/forecasts"
    )
    parser.add_argument("--known", action="store_true", help="measure what is missing there")
    parser.add_argument("--cases", action="store_true", help="every forecast beside what came out")
    parser.add_argument("--write", action="store_true", help="write the cases that come with the package")
    arguments = parser.parse_args()
    work = arguments.work.resolve()
    known_in: Path = (arguments.known_in or work / "forecasts").resolve()
    merges = [merge for merge in MERGES if finished(merge, work)]
    if arguments.known:
        for merge in merges:
            if not (known_in / f"{merge}.json").exists():
                print(f"what is known of {merge}", file=sys.stderr, flush=True)
                measure(merge, work, known_in)
    known = {
        merge: json.loads(file.read_text())
        for merge in merges
        if (file := known_in / f"{merge}.json").exists()
    }
    outcomes, zipped = (
        [each for merge, facts in known.items() for each in outcomes_of(merge, work, facts, entrant)]
        for entrant in ("ours", ZIPPED)
    )
    if not outcomes:
        sys.exit(
            f"no finished run of `ours` below {work / 'runs'} has its {known_in}/MERGE.json: use --known"
        )
    print_tables(outcomes, zipped, all_cases=arguments.cases)
    if arguments.write:
        write_measured([outcome.case for outcome in outcomes])


def finished(merge: str, work: Path, entrant: str = "ours") -> list[tuple[str, Path]]:
    """Budget and folder of each finished run."""
    return [
        (budget, file.parent)
        for budget in BUDGETS
        for file in sorted((work / "runs" / merge / budget / entrant).glob("[0-9]*/run/results.json"))
        if not file.parts[-3].endswith(".part")
    ]


def outcomes_of(merge: str, work: Path, known: Mapping[str, Any], entrant: str = "ours") -> list[Outcome]:
    """Every task of every finished run of a merge."""
    found = []
    for budget, folder in finished(merge, work, entrant):
        result = Evaluation.read(folder / "results.json")
        passes = MERGES[merge].steps(budget) * known["batch_size"] / known["rows"]
        for task, measured in result.tasks.items():
            change, teacher, student = change_of(measured), result.cost.each.get(task), result.cost.student
            if change is None or teacher is None or not (teacher.parameters and student.parameters):
                continue
            assert measured.teacher is not None
            assert measured.delta is not None
            features = Known(
                passes=passes,
                size=teacher.parameters / student.parameters,
                fork=known["forks"].get(budget, {}).get(task, math.nan),
            )
            error = error_of(
                measured.teacher, higher_is_better=measured.higher_is_better, in_points=measured.in_points
            )
            case = Case(merge=merge, task=task, features=features, change=change)
            found.append(Outcome(budget, error, measured.delta, case))
    return found


def measure(merge: str, work: Path, to: Path) -> None:
    """Write what is known of a merge before its runs: rows, rows of a step, and the forks of both budgets."""
    os.chdir(ROOT)  # where paths of shipped recipes begin
    start_processes()
    precisions = read_precisions(finished(merge, work)[0][1] / "teachers.json")
    forks = {}
    for budget in BUDGETS:
        written = recipe_of(MERGES[merge], work, seed=0, steps=MERGES[merge].steps(budget))
        with tempfile.TemporaryDirectory() as folder:
            parts = build(load_recipe(write_recipe(written, Path(folder))))
        accelerator = start_accelerator(parts.recipe.training)
        teachers = parts.targets(precisions).to(accelerator.device)
        session = open_session(parts, accelerator, RunFolder(Path()), teachers)
        calibrate(parts, accelerator, teachers)
        with fork(session):
            stream = micro_batches(parts, accelerator, range(parts.steps))
            for _ in fork_losses(session, stream, whole_run_rates(session)):
                pass
            forks[budget] = fork_ratios(parts, session.trainer.objective.student)
    rows = sum(summary.rows["train"] for summary in parts.sources.summary())
    entry = {"rows": rows, "batch_size": parts.recipe.training.batch_size, "forks": forks}
    to.mkdir(parents=True, exist_ok=True)
    (to / f"{merge}.json").write_text(json.dumps(entry, indent=1) + "\n")


@torch.no_grad()
def fork_ratios(parts: Parts, student: Student) -> dict[str, float]:
    """Task -> logarithm of the student's error over its teacher's on the same validation rows."""
    # BatchNorm's running averages lag behind so few steps.
    update_bn((batch.to("cpu").images for batch in parts.sources.preview(micro_batches=1, steps=4)), student)
    rows = EvaluationSet(parts.sources, "validation", limit=FORK_ROWS)
    ratios = {}
    for task, kind in parts.kinds.items():
        found = collect(task, kind, student, parts.teachers[task], rows)
        assert found.teacher is not None
        mine, theirs = (
            error_of(
                float(kind.score(each)), higher_is_better=kind.higher_is_better, in_points=kind.in_points
            )
            for each in (found.student, found.teacher)
        )
        ratios[task] = math.log(mine / theirs)
    return ratios


# ---- tables -------------------------------------------------------------------------------------------
VARIANTS: Mapping[str, Columns] = {
    "by nothing": lambda known: (),
    "by passes alone": lambda known: (math.log(known.passes),),
    "by sizes alone": lambda known: (math.log(known.size),),
    "by passes, sizes and the fork": lambda known: (*passes_and_size(known), known.fork),  # type: ignore[attr-defined]
    "by passes and the fork": lambda known: (math.log(known.passes), known.fork),  # type: ignore[attr-defined]
}


@dataclass(frozen=True)
class Judged:
    """A forecast beside what came out."""

    outcome: Outcome
    delta: float
    low: float
    high: float

    @property
    def held(self) -> bool:
        return self.low <= self.outcome.delta <= self.high


def judged(
    outcomes: Sequence[Outcome],
    group: Mapping[str, str],
    columns: Columns = passes_and_size,
    *,
    asked: Sequence[Outcome] | None = None,
) -> list[Judged]:
    """Every outcome that can be forecast from other groups of merges.

    Args:
        outcomes: of all merges.
        group: merge -> what is left out together; missing: the merge alone.
        columns: of the law.
        asked: what is forecast; default the outcomes themselves.
    """
    found = []
    for outcome in outcomes if asked is None else asked:
        merge = outcome.case.merge
        others = [
            other.case
            for other in outcomes
            if group.get(other.case.merge, other.case.merge) != group.get(merge, merge)
        ]
        ends = ErrorLaw(others, columns).forecast(outcome.case.features)
        if ends is not None:
            found.append(Judged(outcome, *ends.in_points(outcome.error)))
    return found


def print_tables(outcomes: Sequence[Outcome], zipped: Sequence[Outcome], *, all_cases: bool) -> None:
    alone = judged(outcomes, {})
    by_cell: dict[tuple[str, str], list[Judged]] = defaultdict(list)
    for each in alone:
        by_cell[each.outcome.case.merge, each.outcome.budget].append(each)
    print("| merge | budget | runs x tasks | in their interval | mean forecast | mean outcome | half width |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for (merge, budget), cell in sorted(
        by_cell.items(), key=lambda item: (list(MERGES).index(item[0][0]), item[0][1] == "long")
    ):
        print(f"| {merge} | {budget} | {len(cell)} | {sum(each.held for each in cell)} | {means(cell)} |")
    print()
    print(
        "| forecast from | outcomes | in their 80 % interval | mean over merges | rank correlation | half width |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    print(summary("the runs of the other merges", alone))
    print(summary("the runs of merges of other teachers", judged(outcomes, TEAMS)))
    for name, columns in VARIANTS.items():
        known = [each for each in outcomes if all(map(math.isfinite, columns(each.case.features)))]
        print(summary(f"other merges, {name}", judged(known, {}, columns)))
    for budget in BUDGETS:
        some = [each for each in alone if each.outcome.budget == budget]
        print(summary(f"other merges, {budget} runs", some))
    if zipped:
        print(summary("other merges, students that begin as `zip`", judged(outcomes, {}, asked=zipped)))
    if all_cases:
        print()
        for each in alone:
            case, mark = each.outcome.case, "" if each.held else "  outside"
            print(
                f"{case.merge} {each.outcome.budget} {case.task}: {each.delta:+.2f} "
                f"[{each.low:+.2f}, {each.high:+.2f}], was {each.outcome.delta:+.2f}{mark}"
            )


def means(cell: Sequence[Judged]) -> str:
    values = [
        [each.delta for each in cell],
        [each.outcome.delta for each in cell],
    ]
    half = sum(each.high - each.low for each in cell) / 2 / len(cell)
    return " | ".join(
        [*(f"{sum(each) / len(each):+.1f}".replace("-", "−") for each in values), f"{half:.1f}"]
    )


def summary(name: str, found: Sequence[Judged]) -> str:
    held = sum(each.held for each in found)
    of_merge: dict[str, list[bool]] = defaultdict(list)
    for each in found:
        of_merge[each.outcome.case.merge].append(each.held)
    mean = sum(sum(each) / len(each) for each in of_merge.values()) / len(of_merge)
    correlation = spearmanr([each.delta for each in found], [each.outcome.delta for each in found])[0]
    half = sum(each.high - each.low for each in found) / 2 / len(found)
    shares = f"{100 * held / len(found):.0f} % | {100 * mean:.0f} %"
    return f"| {name} | {len(found)} | {shares} | {correlation:.2f} | {half:.1f} |"


if __name__ == "__main__":
    main()
