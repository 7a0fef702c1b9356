"""Run the teachers once and store their answers, so that training need not run them.

Run every teacher of a recipe once over the training rows and store its soft targets and hidden features, one file per
shard and teacher, beside the shards (or in the cache folder, if that place is not writable). Runs of the recipe then
read them (`targets: auto` or `cached`). It pays for large teachers and many epochs. By default each row has one view,
without crop or flip; --set targets.views=4 stores four views of each row, and training replays them. A command that
was stopped or killed continues when it is run again.

Usage:
    distill-mtl cache [write] RECIPE [--set KEY=VALUE] [--ray ADDRESS] [--cache DIR]
    distill-mtl cache verify RECIPE [--rows N] [--set KEY=VALUE] [--cache DIR]

Examples:
    Several processes:
      ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 --main_process_port 0 \\
          -m distill_mtl.cli cache RECIPE

    Many machines, whose GPUs Ray hands the shards to (docs/clusters.md):
      ray start --head                              # on the first; on the others: ray start --address FIRST:6379
      distill-mtl cache RECIPE --ray auto           # on the first

    `distill-mtl cache verify RECIPE` compares random rows with the teachers' answers now. More: docs/target-cache.md.
"""

import logging
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import gather_object
from rich.console import Console
from rich.text import Text

import distill_mtl
from distill_mtl.checks.before_training import run_check
from distill_mtl.cores import reader_workers
from distill_mtl.display import Display, console_of
from distill_mtl.errors import RecipeError, Stopped, StoppedElsewhere, UserError
from distill_mtl.files import remove_abandoned
from distill_mtl.jobs.arguments import as_recipe, recipe_place, refuse_below
from distill_mtl.ray_tasks import RayCluster, connect
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import TaskSection, task_of
from distill_mtl.system_errors import megabytes
from distill_mtl.targets.bucket_sidecars import bring_sidecars, send_missing
from distill_mtl.targets.cache_pieces import PieceWriter, cut_into_pieces, write_piece
from distill_mtl.targets.cached import OpenCache
from distill_mtl.targets.encoding import AnswerCodec
from distill_mtl.targets.live import LiveTeachers
from distill_mtl.targets.plan import SidecarFolders, Unit
from distill_mtl.targets.verify import Verifier, draw_rows
from distill_mtl.targets.write import CacheWriter, refuse_too_large, unfinished
from distill_mtl.training.loop import StopRequest
from distill_mtl.training.parts import Parts, build
from distill_mtl.training.processes import (
    from_first_process,
    on_first_process,
    start_accelerator,
)
from distill_mtl.training.target_providers import live_twin, plan_targets

_log = logging.getLogger(__name__)
_TIMED_SECONDS = 5.0
_TIMED_BLOCKS = 3


def write_cache(
    recipe: Recipe | Path | str,
    overrides: Sequence[str] = (),
    *,
    ray: str | None = None,
    console: Console | None = None,
) -> None:
    """Write what is missing; the word `write` may be left out.

    Shards are dealt to the processes of the launcher, or by --ray to the GPUs and cores of a cluster; those that are
    there already are left as they are.

    Args:
        recipe: the recipe, a YAML file.
        overrides (--set KEY=VALUE, repeated): override any key, as often as you like:
            --set tasks.breed.temperature=2
        ray (ADDRESS): let a Ray cluster do it, a task for each shard and teacher: auto (the cluster of this machine),
            HOST:PORT of its head node, or local (start one here). All nodes must see the teachers under the same
            paths, and the shards too unless they stay in a bucket.
        console: where progress is shown; default standard output of the first process.

    Raises:
        UserError: the recipe, the data or a teacher is wrong, or there is no room.
        Stopped: Ctrl-C or SIGTERM arrived; finished shards are kept.
        KeyboardInterrupt: interrupted. What is written stays; the same command continues.
    """
    with ExitStack() as stack:
        cluster = None if ray is None else stack.enter_context(connect(ray))
        job = _prepare(recipe, overrides, console)
        accelerator, folders = job.accelerator, SidecarFolders()
        made = _made(job)
        if accelerator.is_main_process:
            for folder in {folders.to_write(unit.shard.path) for unit in job.units}:
                remove_abandoned(folder)
        left = unfinished(job.units, folders)
        refuse_too_large(left, folders)
        accelerator.wait_for_everyone()
        if left and cluster is not None:
            _write_on_cluster(job, left, folders, made, cluster)
        elif left:
            _write_together(job, left, folders, made)
        if accelerator.is_main_process:
            send_missing(job.units, may_stay=cluster is None)
        if cluster is not None:
            bring_sidecars(job.units)
    if accelerator.is_main_process:
        cache = OpenCache(job.units, job.parts.sources.opened, SidecarFolders())
        said = (
            f": {_amount(job.units)}, {megabytes(cache.size)}, in "
            f"{folders.to_write(job.units[0].shard.path)}. Runs of this recipe use it (targets: auto or cached)."
        )
        job.console.print(Text.assemble(("cached", "green"), said), soft_wrap=True)


def verify_cache(
    recipe: Recipe | Path | str,
    overrides: Sequence[str] = (),
    *,
    rows: int = 64,
    console: Console | None = None,
) -> None:
    """Compare random rows of the cache with the teachers' answers now.

    Run random training rows through the teachers again, under the views that the cache recorded, and compare the
    answers number by number. Exit status 2 if they differ, with the rows and files.

    Args:
        recipe: the recipe, a YAML file.
        overrides (--set KEY=VALUE, repeated): override any key, as often as you like:
            --set tasks.breed.temperature=2
        rows (N): number of rows.
        console: where the result is shown; default standard output of the first process.

    Raises:
        UserError: the cache is incomplete, stale or cut, or differs from the teachers' answers.
        KeyboardInterrupt: interrupted before all rows were compared. The cache is as it was.
    """
    refuse_below(1, rows=rows)
    job = _prepare(recipe, overrides, console)
    sources = job.parts.sources
    cache = OpenCache(job.units, sources.opened, SidecarFolders())
    picks = draw_rows(job.units, cache.views, rows)
    verifier = Verifier(
        cache,
        job.codecs,
        sources,
        job.live({task: cache.precision(task) for task in cache.tasks}),
        device=job.accelerator.device,
    )
    blocks = [picks[first : first + job.rows_at_once] for first in range(0, len(picks), job.rows_at_once)]
    found = verifier.compare(blocks)
    worst = ", ".join(f"{task} {100 * deviation:.2f} %" for task, deviation in found.worst.items())
    said = f": {found.rows} of {_amount(job.units)}; largest deviation {worst}"
    job.console.print(Text.assemble(("verified", "green"), said), soft_wrap=True)


@dataclass(frozen=True)
class _Job:
    """A recipe, built as a run whose live teachers see what the cache holds; and what that cache is made of.

    `tasks` are those of the recipe from which the teachers were opened.
    """

    accelerator: Accelerator
    console: Console
    tasks: Mapping[str, TaskSection]
    parts: Parts
    codecs: Mapping[str, AnswerCodec]
    units: Sequence[Unit]

    def live(self, precisions: Mapping[str, str]) -> LiveTeachers:
        """The teachers whose answers are cached, each in its precision."""
        teachers = {task: self.parts.teachers[task] for task in self.codecs}
        return LiveTeachers(teachers, precisions=precisions)

    @property
    def rows_at_once(self) -> int:
        """Rows that are read together; with all their views they are as many as evaluation takes."""
        views = self.parts.recipe.targets.view_count or 1
        return max(1, self.parts.recipe.evaluation.batch_size // views)


def _prepare(recipe: Recipe | Path | str, overrides: Sequence[str], console: Console | None) -> _Job:
    loaded, place = as_recipe(recipe, overrides), recipe_place(recipe)
    if loaded.training.teachers_on == "none":
        raise RecipeError(
            f"Recipe {place}: training.teachers_on is none, so there is nothing to cache. Leave it at auto, or set it "
            "to missing or all."
        )
    accelerator = start_accelerator(loaded.training, shares_steps=False)
    twin = live_twin(loaded)
    parts = build(twin)
    parts = replace(parts, taught=parts.taught.replace("live", "to be cached"))
    for teacher in parts.teachers.values():
        teacher.to(accelerator.device)
    facts = {task: parts.teachers.facts(task) for task in parts.teachers}
    codecs, units = plan_targets(parts.recipe, parts.loss_configs, facts, parts.sources)
    if not codecs:
        raise RecipeError(f"Recipe {place}: no task has a teacher whose answers change its loss.")
    console = console_of(console, first=accelerator.is_main_process)
    return _Job(accelerator, console, twin.tasks, parts, codecs, units)


def _made(job: _Job) -> dict[str, dict[str, str]]:
    """Check the teachers as a run does; task -> header entries on how the numbers were made."""
    made = {}
    for task, (score, precision) in _checked(job).items():
        made[task] = {"made.by": f"distill_mtl {distill_mtl.__version__}", "made.precision": precision}
        if score is not None:
            made[task]["made.score"] = f"{score:.2f} {job.parts.kinds[task_of(task)].metric}"
    return made


def _checked(job: _Job) -> Mapping[str, tuple[float | None, str]]:
    """Score, where it could be measured, and precision of every teacher, found by one process for all."""
    accelerator = job.accelerator
    examined = on_first_process(lambda: run_check(job.parts, accelerator.device, job.console))
    return from_first_process(
        {
            task: (one.measured.score if one.measured is not None else None, one.precision)
            for task, one in (examined or {}).items()
        }
    )


def _write_together(
    job: _Job, left: Sequence[Unit], folders: SidecarFolders, made: Mapping[str, Mapping[str, str]]
) -> None:
    """Every process writes its share; where one cannot, the others finish theirs and all end alike."""
    problem: UserError | Stopped | None = None
    try:
        _write(job, left, folders, made)
    except (UserError, Stopped) as error:
        problem = error
        if isinstance(error, UserError) and job.accelerator.num_processes > 1:
            _log.warning("%s\nThe other processes finish their shards.", error)
            problem = StoppedElsewhere(str(error))
    if job.accelerator.num_processes > 1:
        everywhere = gather_object([problem is not None])
        if problem is None and any(everywhere):
            problem = StoppedElsewhere("another process could not write its shards and says why")
    if problem is not None:
        raise problem


def _write(
    job: _Job, left: Sequence[Unit], folders: SidecarFolders, made: Mapping[str, Mapping[str, str]]
) -> None:
    """This process's share of what is left."""
    accelerator, recipe = job.accelerator, job.parts.recipe
    mine = list(left[accelerator.process_index :: accelerator.num_processes])
    writer = CacheWriter(
        job.parts.sources.picture_reader,
        job.live({task: made[task]["made.precision"] for task in job.codecs}),
        folders.to_write,
        rows_at_once=job.rows_at_once,
        workers=reader_workers(recipe.training.workers, accelerator.device),
        device=accelerator.device,
        made=made,
    )
    pace = _Pace(_rows(mine), accelerator.num_processes)
    _follow(
        job,
        left,
        pace,
        "row",
        lambda stopping: writer.write(mine, stopping),
        lambda: f"{len(unfinished(job.units, SidecarFolders()))} of {len(job.units)}",
    )


def _write_on_cluster(
    job: _Job,
    left: Sequence[Unit],
    folders: SidecarFolders,
    made: Mapping[str, Mapping[str, str]],
    cluster: RayCluster,
) -> None:
    """All that is left, each shard and trunk by some process of the cluster."""
    recipe, teachers = job.parts.recipe, {task: job.parts.teachers[task] for task in job.codecs}
    pieces = cut_into_pieces(left, teachers, folders, gpus=cluster.gpus)
    writer = PieceWriter(
        job.parts.sources.picture_reader,
        job.tasks,
        rows_at_once=job.rows_at_once,
        workers=recipe.training.workers,
        made=made,
    )

    def begin(stopping: Callable[[], bool]) -> Generator[int, None, None]:
        run = cluster.run(
            write_piece, writer, pieces, name=str, needs_gpu=lambda piece: piece.gpu, stopping=stopping
        )
        with closing(run) as done:
            for piece, node in done:
                piece.refuse_invisible(node)
                yield piece.rows

    pace = _Pace(sum(piece.rows for piece in pieces), 1)
    _follow(job, left, pace, "answer", begin, lambda: f"{pace.total - pace.done:,} of {pace.total:,} answers")
    for folder in {piece.folder for piece in pieces}:
        remove_abandoned(folder)  # of lost nodes


def _follow(
    job: _Job,
    left: Sequence[Unit],
    pace: "_Pace",
    unit: str,
    begin: Callable[[Callable[[], bool]], Generator[int, None, None]],
    rest: Callable[[], str],
) -> None:
    """Write, with a bar over what is counted in `unit`; announces size and time once the pace is known.

    `begin` gets what tells whether to stop, and gives the counts as they are done; `rest` tells what is left then.
    """
    with (
        StopRequest() as stop,
        Display(job.console, "caching", pace.total, unit=unit) as display,
        closing(begin(lambda: stop.requested)) as blocks,
    ):
        try:
            for rows in blocks:
                if pace.add(rows):
                    job.console.print(_announcement(job.units, left, pace), highlight=False, soft_wrap=True)
                display.update(pace.done, pace.speed(unit))
                if stop.requested:
                    raise Stopped
        except Stopped:
            raise Stopped(
                f"stopped. Finished shards are kept; the same command continues: {rest()} are left."
            ) from None
        if pace.total:
            job.console.print(
                f"{pace.done:,} {unit}s in {_duration(pace.seconds)}, {pace.speed(unit)}",
                highlight=False,
            )


class _Pace:
    """How fast rows go by, on this process and, as far as it can tell, on all of them.

    Args:
        total: rows of this process.
        processes: that share the work.
    """

    def __init__(self, total: int, processes: int) -> None:
        self.total, self.processes = total, processes
        self.done = self._blocks = 0
        self._began = time.monotonic()
        self._announced = False

    def add(self, rows: int) -> bool:
        """Count rows. True once: when the pace can be told."""
        self.done += rows
        self._blocks += 1
        known = self._blocks >= _TIMED_BLOCKS or self.seconds >= _TIMED_SECONDS or self.done == self.total
        first, self._announced = known and not self._announced, self._announced or known
        return first

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def speed(self, unit: str) -> str:
        """Of all processes: "310 rows/s"."""
        a_second = self.processes * self.done / max(self.seconds, 1e-9)
        return f"{a_second:.{0 if a_second >= 10 else 1}f} {unit}s/s"

    @property
    def seconds_in_all(self) -> float:
        """From the beginning to the end, at this pace."""
        return self.seconds * self.total / max(self.done, 1)


def _announcement(units: Sequence[Unit], left: Sequence[Unit], pace: _Pace) -> str:
    """`3 teachers × 60,000 rows × 4 views: 310 MB, about 6 minutes`."""
    whole, rest = _bytes(units), _bytes(left)
    there = f", {megabytes(whole - rest)} of it there" if rest < whole else ""
    return f"{_amount(units)}: {megabytes(whole)}{there}, about {_duration(pace.seconds_in_all)}"


def _amount(units: Sequence[Unit]) -> str:
    files = units[0].files
    views = next(iter(files.values())).views
    counts = ((len(files), "teacher"), (_rows(units), "row"), (views, "view"))
    return " × ".join(f"{count:,} {noun}{'s' if count != 1 else ''}" for count, noun in counts)


def _rows(units: Sequence[Unit]) -> int:
    return sum(len(unit.shard.rows) for unit in units)


def _bytes(units: Sequence[Unit]) -> int:
    return sum(wanted.size for unit in units for wanted in unit.files.values())


def _duration(seconds: float) -> str:
    """`40 seconds`, `6 minutes`, `3 hours`, rounded up."""
    for unit, length in (("hour", 3600), ("minute", 60)):
        if seconds > 2 * length or (unit == "minute" and seconds > 90):
            return f"{math.ceil(seconds / length)} {unit}s"
    count = max(1, math.ceil(seconds))
    return f"{count} second{'s' if count != 1 else ''}"
