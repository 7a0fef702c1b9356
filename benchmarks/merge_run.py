"""What a process of the merge bench does: one run, one teacher, some shards, or the cost of a step."""

import cProfile
import json
import pstats
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from merge_loop import (
    Batches,
    LoopSettings,
    bf16_is_faster,
    in_memory,
    loop_step,
    pools,
    recipe_views,
    train,
)
from merge_scores import REPLICATES, SCORES, score_networks
from merge_sets import MERGES, ROOT, Merge, long_form, overrides, recipe_of, write_recipe

from distill_mtl.data import Sources
from distill_mtl.distillation.objective import Objective
from distill_mtl.jobs.one_teacher import train_teacher
from distill_mtl.recipe import Recipe, load_recipe
from distill_mtl.students.initial_weights import build_student
from distill_mtl.students.student import Student
from distill_mtl.students.student_folder import load_student, save_student
from distill_mtl.targets.facts import Teachers
from distill_mtl.tasks.base import TaskKind
from distill_mtl.training.parts import build, build_sources, build_teachers
from distill_mtl.training.processes import start_accelerator
from distill_mtl.training.step import Trainer

PROFILED = 10  # steps


def child(what: Sequence[str], work: Path, sets: Sequence[str]) -> None:
    """`run MERGE BUDGET ENTRANT SEED FOLDER`, `teacher MERGE NAME`, `shards MERGE NAME` or `cost MERGE`."""
    job, merge, *rest = what
    if job == "run":
        budget, entrant, seed, folder = rest
        one_run(MERGES[merge], budget, entrant, int(seed), Path(folder), work, sets)
    elif job == "teacher":
        make_teacher(MERGES[merge], rest[0], work)
    elif job == "shards":
        folder = work / "shards" / rest[0]
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        MERGES[merge].shards[rest[0]](part)
        part.rename(folder)
    else:
        print_cost(merge, work, sets)


def make_teacher(merge: Merge, name: str, work: Path) -> None:
    """Train a teacher by our own command, and keep its folder when it is whole."""
    runs = work / "teachers" / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    file = runs / f"{name}.yaml"
    file.write_text(yaml.safe_dump(merge.teachers[name](work), sort_keys=False))
    made = runs / f"{name}.part"
    train_teacher(file, out=runs / name, overwrite=(runs / name).exists(), to=made)
    made.rename(work / "teachers" / name)


def one_run(
    merge: Merge, budget: str, entrant: str, seed: int, folder: Path, work: Path, sets: Sequence[str]
) -> None:
    """Train an entrant where it trains, and score it."""
    steps = merge.steps(budget)
    written = recipe_of(merge, work, seed=max(seed, 0), steps=steps, old=entrant == "old")
    file, sets = write_recipe(written, folder), overrides(sets, written)
    recipe = load_recipe(file, sets)
    (folder / "recipe.long.yaml").write_text(long_form(file, sets))
    rated = entrant.startswith("rate-")
    if entrant in ("loop", "loop-labels", "single") or rated:
        chosen = (
            {"rate": float(entrant[5:]), "bf16": None}
            if rated
            else json.loads((folder.parents[2] / "loop.json").read_text())
        )
        world = World.of(recipe)
        networks, notes = train_loop(world, merge, written, entrant, steps, chosen, folder)
        if rated:
            tasks, _ = score_networks(networks, world.kinds, world.sources, "validation")
            notes["validation"] = statistics.mean(one["sign"] * one["score"] for one in tasks.values())
    elif entrant == "teachers":
        world = World.of(recipe)
        networks, notes = (
            {task: answering(task, world.teachers[task]) for task in world.teachers},
            {"cpu_seconds": 0.0},
        )
    else:
        notes = train_ours(file, sets, folder / "run")
        world = World.of(load_recipe(folder / "run" / "recipe.resolved.yaml"))
        networks = dict.fromkeys(world.kinds, load_student(folder / "run" / "student"))
    keep_scores(networks, world, folder, {**notes, "steps": steps, "sets": list(sets)})


def keep_scores(networks: Mapping[str, Any], world: "World", folder: Path, notes: Mapping[str, Any]) -> None:
    """Score what answers each task on the test rows, and write what makes `folder` a run of the table."""
    tasks, replicates = score_networks(networks, world.kinds, world.sources, "test")
    np.savez(folder / REPLICATES, **replicates)  # type: ignore[arg-type]
    entry = {"tasks": tasks, **notes, "commit": commit()}
    (folder / SCORES).write_text(json.dumps(entry, indent=2))


def answering(task: str, teacher: Any) -> Callable[[Any], dict[str, Any]]:
    return lambda images: {task: teacher(images).logits}


def commit() -> str:
    said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return said.stdout.strip()


@dataclass(frozen=True)
class World:
    """What every entrant of a merge reads."""

    recipe: Recipe
    teachers: Teachers
    kinds: Mapping[str, TaskKind]
    sources: Sources

    @classmethod
    def of(cls, recipe: Recipe) -> "World":
        teachers, kinds = build_teachers(recipe)
        student = student_of(recipe, teachers, kinds)
        inputs = [student.trunk.inputs, *(card.inputs for card in teachers.cards.values())]
        return cls(recipe, teachers, kinds, build_sources(recipe, kinds, inputs))

    def student(self, tasks: Sequence[str]) -> Student:
        """A new student of some tasks, with the recipe's initial weights."""
        return student_of(self.recipe, self.teachers, {task: self.kinds[task] for task in tasks})


def student_of(recipe: Recipe, teachers: Teachers, kinds: Mapping[str, TaskKind]) -> Student:
    cards = teachers.cards.items()
    return build_student(
        recipe.student,
        kinds,
        seed=recipe.seed,
        teacher_folders={task: card.place for task, card in cards},
        teacher_inputs={task: card.inputs for task, card in cards},
    )


def train_ours(file: Path, sets: Sequence[str], out: Path) -> dict[str, Any]:
    """A run of ours; CPU seconds of its training (with the search of its rate), and of all that came before it."""
    clock: dict[str, float] = {}
    job = import_module("distill_mtl.jobs.distill")
    whole = job._train

    def timed(*arguments: Any, **named: Any) -> Any:
        clock["start_seconds"] = time.process_time()
        result = whole(*arguments, **named)
        clock["cpu_seconds"] = time.process_time() - clock["start_seconds"]
        return result

    job._train = timed  # type: ignore[attr-defined]
    job.distill(file, list(sets), out=out, overwrite=out.exists())
    shutil.rmtree(out / "checkpoints")
    return dict(clock)


def train_loop(
    world: World,
    merge: Merge,
    written: Mapping[str, Any],
    entrant: str,
    steps: int,
    chosen: dict[str, Any],
    folder: Path,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The loop's student, or one network per task; each is saved and loaded in the student's form.

    Returns:
        task -> network, and CPU seconds and settings.
    """
    if chosen["bf16"] is None:
        chosen["bf16"] = bf16_is_faster(
            world.student(list(world.kinds)), world.sources.size, world.recipe.training.batch_size
        )
    trained = [[task] for task in world.kinds] if entrant == "single" else [list(world.kinds)]
    teachers = {} if entrant in ("loop-labels", "single") else dict(world.teachers)
    networks: dict[str, Any] = {}
    start = time.process_time()
    for tasks in trained:
        student = world.student(tasks)
        batches = loop_batches(world, merge, student.kinds, steps, taught=bool(teachers))
        train(student, teachers, batches, loop_settings(world, merge, written, steps, chosen))
        place = folder / ("student" if len(trained) == 1 else f"student-{tasks[0]}")
        save_student(student, place)
        networks |= dict.fromkeys(tasks, load_student(place))
    return networks, {
        "cpu_seconds": time.process_time() - start,
        "rate": chosen["rate"],
        "bf16": chosen["bf16"],
    }


def loop_settings(
    world: World, merge: Merge, written: Mapping[str, Any], steps: int, chosen: Mapping[str, Any]
) -> LoopSettings:
    said = {task: section.get("temperature", 4.0) for task, section in written["tasks"].items()}
    return LoopSettings(
        steps=steps,
        rate=chosen["rate"],
        optimizer=merge.loop_optimizer,
        bf16=chosen["bf16"],
        seed=world.recipe.seed,
        temperatures=said,
        everywhere=written["training"].get("teachers_on") in ("all", "annealed"),
    )


def loop_batches(
    world: World, merge: Merge, kinds: Mapping[str, TaskKind], steps: int, *, taught: bool
) -> Batches:
    """Rows for these tasks; without teachers only rows that have a label."""
    rows, seed = world.recipe.training.batch_size, world.recipe.seed
    if merge.loop_views == "recipe":
        sources = world.sources
        if len(kinds) == 1:
            sources = World.of(only_task(world.recipe, next(iter(kinds)))).sources
        return recipe_views(sources, steps, kinds)
    return in_memory(pools(world.sources, kinds, unlabelled=taught), kinds, rows, seed)


def only_task(recipe: Recipe, task: str) -> Recipe:
    """The recipe of one task and the data sets that are labelled for it."""
    data = {
        name: section.model_copy(update={"labels": {task: section.labels[task]}})
        for name, section in recipe.data.items()
        if task in section.labels
    }
    return recipe.model_copy(update={"tasks": {task: recipe.tasks[task]}, "data": data})


# ---- the cost of a step -------------------------------------------------------------------------------
def print_cost(name: str, work: Path, sets: Sequence[str], rounds: int = 40) -> None:
    """CPU seconds of a step of ours and of the loop's, interleaved: same student, teachers, rows and precision."""
    merge = MERGES[name]
    steps = 10_000
    written = recipe_of(merge, work, seed=0, steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        parts = build(load_recipe(write_recipe(written, Path(folder)), overrides(sets, written)))
    recipe, world = parts.recipe, World(parts.recipe, parts.teachers, parts.kinds, parts.sources)
    accelerator = start_accelerator(recipe.training)
    bf16 = accelerator.mixed_precision == "bf16"
    precisions = dict.fromkeys(parts.teachers, "bf16" if bf16 else "fp32")
    objective = Objective(parts.student, parts.loss_configs, parts.terms, parts.rule)
    trainer = Trainer(
        accelerator,
        objective,
        parts.providers(parts.targets(precisions), parts.student, accelerator.autocast),
        recipe,
        schedule=parts.schedule,
    )
    trainer.module.train()
    chosen = {"rate": 1e-3, "bf16": bf16}
    settings = loop_settings(world, merge, written, steps, chosen)
    loop = {"loop's step": settings}
    if (own := str(trainer.recipe.optimizer.name)) != settings.optimizer:
        loop[f"loop's step with {own}"] = replace(settings, optimizer=own)
    rivals = {
        what: loop_step(world.student(list(world.kinds)).train(), dict(world.teachers), of_one)
        for what, of_one in loop.items()
    }
    stream = iter(world.sources.stream(steps=rounds + 3 + PROFILED))
    loops = loop_batches(world, merge, world.kinds, rounds + 3, taught=True)
    numbers = iter(range(steps))
    taken: dict[str, list[float]] = {}

    def timed(what: str, action: Callable[[], Any]) -> Any:
        start = time.process_time()
        result = action()
        taken.setdefault(what, []).append(time.process_time() - start)
        return result

    for _ in range(rounds + 3):
        batch = timed("our reading", lambda: next(stream))
        labels = {
            task: (rows := batch.labelled[task].nonzero().flatten(), batch.labels[task][rows])
            for task in world.kinds
        }
        # Diagnostics are for steps with a line in metrics.jsonl.
        timed("our step", lambda: trainer.step(next(numbers), [batch], diagnose=False))  # noqa: B023
        for what, step in rivals.items():
            timed(what, lambda: step(batch.images, labels))  # noqa: B023
        timed("loop's reading", lambda: next(loops))
    profile = cProfile.Profile(time.process_time)
    with profile:  # which itself takes time
        for _ in range(PROFILED):
            trainer.step(next(numbers), [next(stream)], diagnose=False)
    median = {what: statistics.median(seconds[3:]) for what, seconds in taken.items()}
    kind = f"{recipe.optimizer.name}, {'bf16' if bf16 else 'fp32'}"
    print(f"### {name}: a step of {recipe.training.batch_size} rows, {kind}\n")
    print("| what | CPU ms | of the loop's step |\n|---|---:|---:|")
    ideal = median["loop's step"]
    for what, seconds in median.items():
        print(f"| {what} | {1000 * seconds:.1f} | {seconds / ideal:.3f} |")
    both = [median[f"{who} step"] + median[f"{who} reading"] for who in ("our", "loop's")]
    print(f"\nwith reading: {both[0] / both[1]:.3f}. Balance: {parts.balance}\n")
    print_profile(profile)


def print_profile(profile: cProfile.Profile, most: int = 25) -> None:
    """Reading and step: our own functions by the time that is spent below them, then calls by their own time."""
    stats = pstats.Stats(profile)
    ours, own = [], []
    for (file, line, function), (_, calls, itself, below, _) in stats.stats.items():  # type: ignore[attr-defined]
        name = f"{file.rpartition('distill_mtl/')[2]}:{line} {function}" if line else function
        row = [1000 * below / PROFILED, 1000 * itself / PROFILED, calls / PROFILED]
        own.append((row[1], *row, name))
        if "distill_mtl" in file:
            ours.append((row[0], *row, name))
    print("| ms a step, with what it calls | itself | calls a step | function |\n|---:|---:|---:|---|")
    for _, below, itself, calls, name in [
        *sorted(ours, reverse=True)[:most],
        *sorted(own, reverse=True)[:most],
    ]:
        print(f"| {below:.2f} | {itself:.2f} | {calls:.1f} | `{name}` |")
    print()
