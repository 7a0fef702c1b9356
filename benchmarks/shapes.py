"""What the shape of a student buys: the scenes' five tasks, at equal steps, in students of several shapes.

    OMP_NUM_THREADS=1 python benchmarks/shapes.py --seeds 0 1 2
    python benchmarks/shapes.py --only trunk tree-auto tree-worst wide
    python benchmarks/shapes.py --table
    python benchmarks/shapes.py --costs
    python benchmarks/shapes.py --company

Each shape is a variant of the merge `scenes` of merges.py, made, kept and scored as its others are, so that the same
command goes on where it was stopped. `trunk` is `ours` there. A run that is there stays, even if a default changes.

`tree-auto` is the smallest tree of `branch` within half a point of its best one in the budget, even where `branch`
itself recommends one trunk because trees save too little. `tree-worst` is the same tree with its tasks exchanged so
that the floor of `branch` says it loses most, at the same FLOPs and parameters. `wide` is a trunk of as many FLOPs.
These three are found once and kept in the work folder (shapes/trees.json).

`--company` asks what the floor of `branch` says of a teacher beside networks with random weights, not the others.
"""

import argparse
import copy
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from merge_run import student_of
from merge_scores import FIXED, Runs, Scored, cell_of, lead_of
from merge_sets import MERGES, ROOT, recipe_of, write_recipe
from merges import BUDGETS, claim, make_missing, planned, prepare, runs_of, sets_of

from distill_mtl.evaluation.cost import costs_of
from distill_mtl.networks.flops import flops_of
from distill_mtl.recipe import load_recipe
from distill_mtl.students.student import Student
from distill_mtl.training.branching.find import WORTH, Compared, find_branching, floors_of
from distill_mtl.training.branching.search import Group, TaskTree, lost_by
from distill_mtl.training.branching.teacher_features import TeacherLayers
from distill_mtl.training.parts import build_teachers, compare_teachers

MERGE = "scenes"
NETWORKS = 1.5
"""The budget of `tree-auto`, the default of `branch: auto`."""
ROWS = 600
CHANNELS = (32, 48, 48, 96)
"""Of the stages of test_resnet, the scenes' student."""
VIT = ("student.model=test_vit", 'student.args={"patch_size": 8}')
FEW_ROWS = "training.batch_size=16"
"""Of soft order, which computes every block at every depth for every task, and of the ViT beside it."""
PAIRS = (("tree-auto", "wide"), ("tree-auto", "tree-worst"), ("soft-order", "vit-few-rows"))


@dataclass(frozen=True)
class Trees:
    """What is found before anything is trained.

    Attributes:
        auto, worst: `student.branch` of the two trees, empty if one trunk is within half a point of the best tree.
        points: what the floor says that each of the two loses, mean over the tasks.
        size: FLOPs of their trunk, as a multiple of one network.
        wide: `student.args` of the wide trunk.
    """

    auto: dict[str, list[list[str]]]
    worst: dict[str, list[list[str]]]
    points: list[float]
    size: float
    wide: dict[str, Any]


def setting(key: str, value: Any) -> str:
    return f"student.{key}={json.dumps(value)}"


BY_HAND = {
    "layer3": [["depth", "normals"], ["segment", "attributes", "objects"]],
    "layer4": [["depth", "normals"], ["segment", "attributes"], ["objects"]],
}
"""Geometry parts from the rest, then the objects from all others."""

SHAPES: dict[str, Sequence[str] | Callable[[Trees], Sequence[str]]] = {
    "trunk": (),
    "tree-auto": lambda trees: [setting("branch", trees.auto)],
    "tree-worst": lambda trees: [setting("branch", trees.worst)],
    "wide": lambda trees: [setting("args", trees.wide)],
    "tree-hand": (setting("branch", BY_HAND),),
    "private-norms": (setting("private", {"norms": ["layer3", "layer4"]}),),
    "adapters": (setting("private", {"norms": ["layer3", "layer4"], "adapters": ["layer3", "layer4"]}),),
    "encoders": (
        setting(
            "encoders", {"geometry": ["depth", "normals"], "things": ["segment", "attributes", "objects"]}
        ),
    ),
    "zip": ("student.init=zip",),
    "cross-stitch": ("student.columns=cross_stitch",),
    "sluice": (setting("columns", {"kind": "sluice", "subspaces": 2}),),
    "nddr": ("student.columns=nddr",),
    "vit": VIT,
    "vit-few-rows": (*VIT, FEW_ROWS),
    "soft-order": (*VIT, FEW_ROWS, "student.order=soft"),
}
"""Shape -> the keys that it sets, or what makes them of what is found; in the order in which they are run."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SHAPES, default=list(SHAPES), metavar="SHAPE")
    parser.add_argument("--budget", choices=BUDGETS, default="short")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--table", action="store_true", help="print the table of what is there, run nothing")
    parser.add_argument("--costs", action="store_true", help="print what each shape computes, train nothing")
    parser.add_argument("--company", action="store_true", help="print the floor beside random networks")
    parser.add_argument("--work", type=Path, default=Path(os.environ.get("DISTILL_MTL_BENCH", "runs/merges")))
    arguments = parser.parse_args()
    work: Path = arguments.work.resolve()
    os.chdir(ROOT)  # where paths of shipped recipes begin
    try:
        if arguments.costs:
            print("\n".join(costs_lines(arguments.only, work)))
        elif arguments.company:
            print("\n".join(company_lines(work)))
        elif not arguments.table:
            make(arguments.only, arguments.budget, arguments.seeds, work)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on with the run that was cut off")
    if not (arguments.costs or arguments.company):
        print("\n".join(table_lines(arguments.budget, work)))


def make(shapes: Sequence[str], budget: str, seeds: Sequence[int], work: Path) -> None:
    """Run the shapes that are not there, seed by seed, and the teachers."""
    prepare(MERGE, work)
    sets: dict[str, Sequence[str]] = {}
    for shape in shapes:
        found = keys_of(shape, work)
        if found is not None:
            sets[entrant_of(shape)] = sets_of(shape, found, work) if found else []
    make_missing(planned([MERGE], [budget], ["teachers", *sets], seeds), work, sets)


def keys_of(shape: str, work: Path) -> Sequence[str] | None:
    """What a shape sets; None where one trunk is as good as every tree, so that there is no such shape."""
    keys = SHAPES[shape]
    if not callable(keys):
        return keys
    trees = trees_of(work)
    if not trees.auto:
        print(f"{shape}: left out, no tree is worth its size", file=sys.stderr)
        return None
    return keys(trees)


def entrant_of(shape: str) -> str:
    return "ours" if shape == "trunk" else shape


# ---- trees --------------------------------------------------------------------------------------------
def trees_of(work: Path) -> Trees:
    """The trees and the wide trunk, found on first use."""
    place = work / "shapes" / "trees.json"
    with claim(place) as mine:
        if not mine:
            sys.exit("another invocation is comparing the teachers; start this one again in some minutes")
        if not place.exists():
            place.write_text(json.dumps(asdict(find_trees(work)), indent=1))
    return Trees(**json.loads(place.read_text()))


def find_trees(work: Path) -> Trees:
    """Compare the teachers, and size the wide trunk."""
    print("comparing the teachers", file=sys.stderr, flush=True)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        file = write_recipe(recipe_of(MERGES[MERGE], work, seed=0, steps=1), Path(folder))
        compared = compare_teachers(load_recipe(file), ROWS, torch.device("cpu"))
        tree = best_tree(find_branching(compared, NETWORKS).trees)
        names = [depth.name for depth in compared.depths]
        auto = tree.branches(names)
        if not auto:
            return Trees({}, {}, [0.0, 0.0], 1.0, {})
        floors = floors_of(compared)
        others = exchanged(tree, compared.tasks)
        floors.measure((k, group) for each in others for k, groups in enumerate(each) for group in groups)
        worst = max(others, key=lambda groups: lost_by(groups, floors.loss))
        points = [lost_by(groups, floors.loss) for groups in (tree.groups, worst)]
        goal = flops_of_student(file, [setting("branch", auto)])
        wide = widened(lambda args: flops_of_student(file, [setting("args", args)]), goal)
    return Trees(auto, TaskTree(worst, tree.size, points[1]).branches(names), points, tree.size, wide)


def best_tree(trees: Sequence[TaskTree]) -> TaskTree:
    """The smallest tree that is within half a point of the best one in the budget, smallest first."""
    within = [tree for tree in trees if tree.size <= NETWORKS]
    least = min(tree.loss for tree in within)
    return next(tree for tree in within if tree.loss <= least + WORTH)


Groups = tuple[tuple[Group, ...], ...]


def exchanged(tree: TaskTree, tasks: Sequence[str]) -> list[Groups]:
    """The groups, by depth, of every tree of this form: its tasks change places."""
    place = {task: number for number, task in enumerate(tasks)}
    found: dict[Groups, None] = {}
    for order in permutations(tasks):
        other = dict(zip(tasks, order, strict=True))
        moved = [
            [tuple(sorted((other[task] for task in group), key=place.__getitem__)) for group in groups]
            for groups in tree.groups
        ]
        found[tuple(tuple(sorted(groups, key=lambda group: place[group[0]])) for groups in moved)] = None
    return list(found)


def widened(flops: Callable[[dict[str, Any]], int], goal: int) -> dict[str, Any]:
    """The width of a trunk's stages, in channels by fours, whose student is nearest to the goal; the stem stays."""

    def args(scale: float) -> dict[str, Any]:
        return {"channels": [4 * round(scale * count / 4) for count in CHANNELS]}

    narrow, broad = 1.0, 3.0
    while broad - narrow > 0.02:
        middle = (narrow + broad) / 2
        narrow, broad = (middle, broad) if flops(args(middle)) < goal else (narrow, middle)
    return min(args(narrow), args(broad), key=lambda args: abs(flops(args) - goal))


def flops_of_student(file: Path, sets: Sequence[str]) -> int:
    """FLOPs of one picture in the student of the recipe."""
    student = untrained(file, sets)
    return flops_of(student, torch.zeros(1, 3, *student.trunk.inputs.size))


def untrained(file: Path, sets: Sequence[str]) -> Student:
    """The student of the recipe with these keys."""
    recipe = load_recipe(file, list(sets))
    return student_of(recipe, *build_teachers(recipe))


def costs_lines(shapes: Sequence[str], work: Path) -> list[str]:
    """Markdown of what each shape computes, and what the floor says of the two trees; nothing is trained.

    Times are measured in turns, in this process, with its threads: of one picture alone, and in a large batch.
    """
    lines = [
        "| shape | MFLOPs | of the trunk's | parameters | ms | of the trunk's | in a batch |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = write_recipe(recipe_of(MERGES[MERGE], work, seed=0, steps=1), Path(folder))
        keys = {shape: found for shape in shapes if (found := keys_of(shape, work)) is not None}
        trunk, *students = (untrained(file, sets) for sets in [(), *keys.values()])
        base, *costs = costs_of([trunk, *students], trunk.trunk.inputs.size, known=64).costs
    for shape, cost in zip(keys, costs, strict=True):
        flops, parameters, ms = cost_words(cost.flops or 0, cost.parameters or 0, cost.latency_ms)
        shares = (
            (cost.flops or 0) / (base.flops or 1),
            cost.latency_ms / base.latency_ms,
            (base.rows_per_second or 0) / (cost.rows_per_second or 1),
        )
        more, slower, in_batch = (f"{share:.2f}" for share in shares)
        lines.append(f"| `{shape}` | {flops} | {more} | {parameters} | {ms} | {slower} | {in_batch} |")
    auto, worst = trees_of(work).points
    return [*lines, "", f"The floor: `tree-auto` loses {auto:.1f} points, `tree-worst` {worst:.1f}."]


# ---- company ------------------------------------------------------------------------------------------
def company_lines(work: Path) -> list[str]:
    """Markdown: what a teacher loses where all tasks share every stage, in the mean, summed over the stages."""
    lines = [
        "| all tasks share every stage | with the other teachers | with random networks |",
        "| --- | ---: | ---: |",
    ]
    for merge in ("quickstart", MERGE):
        prepare(merge, work)
        with tempfile.TemporaryDirectory() as folder:
            file = write_recipe(recipe_of(MERGES[merge], work, seed=0, steps=1), Path(folder))
            compared = compare_teachers(load_recipe(file), ROWS, torch.device("cpu"))
        among_teachers = statistics.mean(lost_by_sharing(compared).values())
        random = {
            task: random_weights(layers, k) for k, (task, layers) in enumerate(compared.teachers.items())
        }
        among_random = statistics.mean(
            lost_by_sharing(replace(compared, teachers={**random, task: layers}))[task]
            for task, layers in compared.teachers.items()
        )
        lines.append(f"| {merge}, {len(random)} tasks | {among_teachers:.1f} | {among_random:.1f} |")
    return lines


def lost_by_sharing(compared: Compared) -> dict[str, float]:
    """Task -> points that it loses if all share every stage, summed over the stages behind the first."""
    floors, everyone = floors_of(compared), tuple(compared.tasks)
    behind = range(1, len(compared.depths))
    floors.measure((k, everyone) for k in behind)
    return {task: sum(floors.points[k, everyone][task] for k in behind) for task in everyone}


def random_weights(layers: TeacherLayers, seed: int) -> TeacherLayers:
    """The same network as the teacher's, untrained."""
    teacher = copy.deepcopy(layers.teacher)
    torch.manual_seed(seed)
    for module in teacher.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    return replace(layers, teacher=teacher)


# ---- the table ----------------------------------------------------------------------------------------
def table_lines(budget: str, work: Path) -> list[str]:
    """Markdown of the runs that are there: scores, leads over teachers and trunk, hints, costs."""
    there = runs_of(MERGE, budget, work)
    runs = {shape: there[entrant_of(shape)] for shape in SHAPES if entrant_of(shape) in there}
    if not runs:
        return ["no shape was run yet"]
    if "teachers" in there:
        runs = {"teachers": there["teachers"], **runs}
    first = next(iter(next(iter(runs.values())).values()))
    tasks = list(first.scores)
    named = " | ".join(f"{task} ({first.metrics[task]})" for task in tasks)
    lines = [
        f"{MERGES[MERGE].steps(budget):,} steps",
        "",
        f"| shape | seeds | {named} | − teachers, mean | − trunk, mean | hints | MFLOPs | parameters | ms | "
        "of the teachers' ms | CPU s |",
        "|---|---:|" + "---:|" * (len(tasks) + 8),
    ]
    for shape, of_one in runs.items():
        scores = " | ".join(cell_of([run.scores[task] for run in of_one.values()]) for task in tasks)
        over = [said(runs, shape, rival, tasks) for rival in ("teachers", "trunk")]
        seeds = "–" if set(of_one) == {FIXED} else str(len(of_one))
        cpu = f"{statistics.mean(run.cpu for run in of_one.values()):.0f}" if shape != "teachers" else ""
        costs = cost_cells(shape, runs, budget, work)
        lines.append(f"| {shape} | {seeds} | {scores} | {' | '.join([*over, *costs])} | {cpu} |")
    leads = [(one, two, said(runs, one, two, tasks)) for one, two in PAIRS]
    lines += ["", *(f"- `{one}` − `{two}`, mean: {lead}" for one, two, lead in leads if lead)]
    commits = {run.notes["commit"] for of_one in runs.values() for run in of_one.values()}
    lines.append(f"- of the code at {', '.join(sorted(commits))}")
    known = work / "variants.json"
    sets = json.loads(known.read_text()) if known.exists() else {}
    return lines + [f"- `{shape}`: {' '.join(sets[shape])}" for shape in runs if shape in sets]


def said(runs: Runs, shape: str, rival: str, tasks: Sequence[str]) -> str:
    """The lead of a shape on the mean of the tasks, if both were run."""
    if shape == rival or not {shape, rival} <= set(runs):
        return ""
    return str(lead_of(runs[shape], runs[rival], tasks) or "")


def cost_cells(shape: str, runs: Runs, budget: str, work: Path) -> list[str]:
    """Hints, MFLOPs, parameters, milliseconds of one picture, and these as a share of the teachers' in the same run."""
    if shape == "teachers":
        student = next((name for name in runs if name != "teachers"), None)
        if student is None:
            return [""] * 5
        cost = costs_of_runs(student, runs[student], budget, work)[0]["teachers"]
        return ["", *cost_words(cost["flops"], cost["parameters"], cost["latency_ms"]), "1.00"]
    found = costs_of_runs(shape, runs[shape], budget, work)
    mine = [cost["student"] for cost in found]
    ms = statistics.median(cost["latency_ms"] for cost in mine)
    share = statistics.median(
        cost["student"]["latency_ms"] / cost["teachers"]["latency_ms"] for cost in found
    )
    places = [run_folder(shape, seed, budget, work) for seed in runs[shape]]
    hints = statistics.mean(last_hints(place / "metrics.jsonl") for place in places)
    return [f"{hints:.4f}", *cost_words(mine[0]["flops"], mine[0]["parameters"], ms), f"{share:.2f}"]


def cost_words(flops: int, parameters: int, ms: float) -> list[str]:
    return [f"{flops / 1e6:.1f}", f"{parameters / 1e3:,.0f} k", f"{ms:.1f}"]


def costs_of_runs(shape: str, of_one: Mapping[int, Scored], budget: str, work: Path) -> list[dict[str, Any]]:
    places = [run_folder(shape, seed, budget, work) / "results.json" for seed in of_one]
    return [json.loads(place.read_text())["cost"] for place in places]


def run_folder(shape: str, seed: int, budget: str, work: Path) -> Path:
    return work / "runs" / MERGE / budget / entrant_of(shape) / str(seed) / "run"


def last_hints(metrics: Path) -> float:
    """The error of the hints in the last tenth of a run, mean over the tasks that have any."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    lines = [line for line in lines if line["step"] > 0.9 * lines[-1]["step"]]
    found = [task["hint"] for line in lines for task in line["tasks"].values() if "hint" in task]
    return statistics.mean(found) if found else float("nan")


if __name__ == "__main__":
    main()
