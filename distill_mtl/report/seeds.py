"""Runs that differ by their seed alone, in a comparison of runs: means over seeds, and how far recipes lie apart."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill_mtl.evaluation.result import TaskResult
from distill_mtl.evaluation.seeds import RecipeDifference, SeedMean, SeedRuns, recipe_difference
from distill_mtl.report import words
from distill_mtl.report.blocks import Block, Cell, Section, Table, Text, Tone
from distill_mtl.report.run_record import RunRecord
from distill_mtl.training.run_folder import what_trains

_TONES: Mapping[str | None, Tone] = {
    "non-inferior": "good",
    "inferior": "bad",
    "undecided": "unsure",
    None: "",
}
_MARKS: Mapping[str | None, str] = {"non-inferior": "✓", "inferior": "✗", "undecided": "?", None: ""}
_OVER_BOTH = "95 % over rows and seeds"
_SEED_NAME = re.compile(r"[/_. -]*seed[_. -]?\d+$")
_SEED_COMMAND = "distill-mtl distill RECIPE --seeds 3"


@dataclass(frozen=True)
class RecipeRuns:
    """The finished runs of one recipe.

    Attributes:
        label: what it is called.
        runs: seed -> run.
        repeated: runs with a seed that another one has.
    """

    label: str
    runs: Mapping[int, RunRecord]
    repeated: Sequence[RunRecord] = ()

    @property
    def over_seeds(self) -> SeedRuns:
        """Their results."""
        return SeedRuns({seed: run.results for seed, run in self.runs.items() if run.results is not None})

    def results(self, task: str) -> dict[int, TaskResult]:
        """Seed -> result of a task, of the runs that have it."""
        return {seed: run.tasks[task] for seed, run in self.over_seeds.runs.items() if task in run.tasks}


def by_recipe(runs: Sequence[RunRecord]) -> list[RecipeRuns]:
    """The finished runs, those together whose recipes differ in the seed alone.

    Of a resolved recipe counts what decides the weights, and the acceptance; not its name, nor a rate that the run
    found by itself, which a seed moves.
    """
    found: list[tuple[dict[str, Any], dict[int, RunRecord], list[RunRecord]]] = []
    for run in runs:
        if run.results is None or not run.recipe:
            continue
        recipe, seed = _without_seed(run), int(run.recipe.get("seed") or 0)
        same = next((each for each in found if each[0] == recipe), None)
        if same is None:
            found.append((recipe, {seed: run}, []))
        elif seed in same[1]:
            same[2].append(run)
        else:
            same[1][seed] = run
    return [RecipeRuns(_label(list(of.values())), dict(sorted(of.items())), again) for _, of, again in found]


def _without_seed(run: RunRecord) -> dict[str, Any]:
    recipe = what_trains(run.recipe)
    for key in ("seed", "name"):
        recipe.pop(key, None)
    if run.environment.get("rate"):
        recipe["optimizer"] = {**(recipe.get("optimizer") or {}), "lr": None}
    return recipe | {"acceptance": run.recipe.get("acceptance")}


def _label(runs: Sequence[RunRecord]) -> str:
    """That of a single run; of several what stands before `seed-0` and the like, or the folder that they lie in."""
    if len(runs) == 1:
        return runs[0].label
    before = {_SEED_NAME.sub("", run.label) for run in runs}
    folders = {run.files.path.resolve().parent.name for run in runs if run.files is not None}
    if before == {""} and len(folders) == 1:
        return folders.pop()
    return before.pop() if len(before) == 1 else f"{runs[0].label} and others"


def seeds_section(recipes: Sequence[RecipeRuns]) -> Section | None:
    """Means over seeds, differences of recipes, and what one seed cannot tell; None for a single run."""
    several = [recipe for recipe in recipes if len(recipe.runs) > 1]
    if not several and len(recipes) < 2:
        return None
    tables: list[Block] = []
    if several:
        tables.append(_means(several, with_names=len(recipes) > 1))
    if len(recipes) > 1:
        tables.append(_differences(recipes))
    notes = list(_notes(recipes))
    blocks: list[Block] = [*tables, *(Text(note) for note in notes), Text(_HOW_TO_READ, quiet=True)]
    title = "Over seeds" if several else "What one seed cannot tell"
    return Section("seeds", title, blocks, summary=tables, notes=notes)


_HOW_TO_READ = (
    "Spread: the standard deviation of the deltas over seeds. The interval holds for other rows and other seeds: the "
    "variances of both are added, and few seeds make it wide (Student's t). The verdict on the mean is one on the "
    "recipe; a student that is deployed has the verdict of its own run. Two recipes are compared on the same rows "
    "where both were measured on them."
)


def _means(recipes: Sequence[RecipeRuns], *, with_names: bool) -> Table:
    columns = ["task", "seeds", "mean delta", "spread", _OVER_BOTH, "", "each seed"]
    rows = []
    for recipe in recipes:
        for task, mean in recipe.over_seeds.tasks.items():
            results = recipe.results(task)
            result = next(iter(results.values()))
            tone = _TONES[mean.verdict]
            cells = [
                Cell(task, "strong"),
                Cell(f"{len(mean.deltas)}"),
                Cell(words.difference(mean.mean, result), tone),
                Cell(words.NONE if mean.spread is None else words.score(mean.spread, result)),
                Cell(words.interval(mean.ci95, result), "quiet"),
                Cell(_MARKS[mean.verdict], tone),
                Cell(_each(mean, results), "quiet"),
            ]
            rows.append([Cell(recipe.label), *cells] if with_names else cells)
    columns = ["recipe", *columns] if with_names else columns
    return Table(
        "Over seeds", columns, rows, frozenset({"recipe", "task", "each seed"}), narrow={_OVER_BOTH: "fold"}
    )


def _each(mean: SeedMean, results: Mapping[int, TaskResult]) -> str:
    """`0: +0.40 ✓, 1: −0.20 ?`"""
    return ", ".join(
        f"{seed}: {words.difference(delta, results[seed])} {_MARKS[results[seed].verdict]}"
        for seed, delta in mean.deltas.items()
    )


def _compared(
    recipes: Sequence[RecipeRuns],
) -> Iterator[tuple[str, RecipeRuns, RecipeRuns, RecipeDifference, TaskResult]]:
    """Task, a recipe and the first one, by how much it is ahead, and a result of the task."""
    first, *others = recipes
    for other in others:
        for task in next(iter(first.over_seeds.runs.values())).compared:
            mine, theirs = first.results(task), other.results(task)
            found = recipe_difference(theirs, mine) if theirs else None
            if found is not None:
                yield task, other, first, found, next(iter(mine.values()))


def _differences(recipes: Sequence[RecipeRuns]) -> Table:
    """Each recipe against the first."""
    rows = [
        [
            Cell(task, "strong"),
            Cell(f"{mine.label} − {other.label}"),
            Cell(words.difference(found.points, result)),
            Cell(words.interval(found.ci95, result), "quiet"),
            Cell(_said(found, mine, other)),
        ]
        for task, mine, other, found, result in _compared(recipes)
    ]
    columns = ["task", "recipes", "difference", "95 % interval", "what it says"]
    left = frozenset({"task", "recipes", "what it says"})
    return Table("Differences of recipes", columns, rows, left, narrow={"95 % interval": "fold"})


def _said(found: RecipeDifference, mine: RecipeRuns, other: RecipeRuns) -> str:
    if found.finding in ("better", "worse"):
        return f"{(mine if found.finding == 'better' else other).label} is better"
    if found.finding == "seeds":
        return "within what seeds do"
    if found.finding == "rows":
        return "beyond what seeds do; other rows may turn it"
    return (
        "one seed each"
        if len(mine.runs) == len(other.runs)
        else f"one seed of {_alone(mine, other)[0].label}"
    )


def _alone(mine: RecipeRuns, other: RecipeRuns) -> tuple[RecipeRuns, RecipeRuns]:
    """The recipe with one seed, and the one with several."""
    return (mine, other) if len(mine.runs) == 1 else (other, mine)


def _notes(recipes: Sequence[RecipeRuns]) -> Iterator[str]:
    single = [recipe.label for recipe in recipes if len(recipe.runs) == 1]
    if single and len(recipes) > 1:
        yield (
            f"One seed of {words.listed(single)}: the interval holds for these students on other rows. How far another "
            f"seed would move them it cannot tell; train more with {_SEED_COMMAND}."
        )
        for task, mine, other, found, result in _compared(recipes):
            if found.expected is not None:
                alone, several = _alone(mine, other)
                where = "within" if found.lies_within else "outside"
                yield (
                    f"{task}: the delta of {alone.label} is {where} what another seed of {several.label} would give "
                    f"({words.interval(found.expected, result)})."
                )
    again = [run.label for recipe in recipes for run in recipe.repeated]
    if again:
        yield f"Not counted again, as another run has their recipe and seed: {words.listed(again)}."


def verdict_over_seeds(recipe: RecipeRuns) -> tuple[str, Tone]:
    """The verdict on the mean of every task, in one sentence."""
    over, results = recipe.over_seeds, {}
    for task in over.tasks:
        results[task] = next(iter(recipe.results(task).values()))
    seeds = words.counted(len(over.runs), "seed")
    said: dict[str, list[str]] = {"inferior": [], "undecided": []}
    for task, mean in over.tasks.items():
        if mean.verdict in said:
            said[mean.verdict].append(f"{task} {words.difference(mean.mean, results[task])}")
    if not over.tasks:
        return f"– nothing to judge over {seeds}: no task has a teacher", "quiet"
    if over.accepted:
        return f"✓ accepted over {seeds}: the mean of no task lost more than its margin", "good"
    parts = [f"{how}: {', '.join(tasks)}" for how, tasks in said.items() if tasks]
    return (
        f"{'✗ not accepted' if said['inferior'] else '? not accepted yet'} over {seeds}: {'; '.join(parts)}",
        "bad" if said["inferior"] else "unsure",
    )
