"""What every run does before its first step: show the data, read its labels, measure the teachers, try one batch.

The jobs `check`, `distill` and `cache` call it.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from distill_mtl.checks.label_check import check_labels
from distill_mtl.checks.teacher_check import TeacherCheck, check_teachers, refuse_bad_teachers, show_teachers
from distill_mtl.data import Sources
from distill_mtl.data.all_sources import SourceSummary
from distill_mtl.data.augmentation import jitter_colors
from distill_mtl.distillation.counts import count_rows
from distill_mtl.distillation.objective import Objective
from distill_mtl.errors import ShardError, UserError
from distill_mtl.evaluation.cost import networks_run, node_costs
from distill_mtl.evaluation.slices import Slices, slice_margins
from distill_mtl.training.broken_loss import causes
from distill_mtl.training.parts import Parts
from distill_mtl.training.processes import as_trained

_CLASSES_SHOWN = 5
_FAULTS_SHOWN = 10
_NO_BATCHNORM = "a student without it, such as --set student.args.norm_layer=groupnorm1"


def run_check(parts: Parts, device: torch.device, console: Console) -> Mapping[str, TeacherCheck]:
    """Show the data, read every label, measure the teachers, say which balancing rule was chosen.

    One process does it for all.

    Args:
        parts: of the run; to build them validated the recipe, every shard and every folder.
        device: where the run will train.
        console: where the findings are shown.

    Returns:
        What was found out about each teacher. Empty where targets come from the cache: its teachers were measured
        when it was written.

    Raises:
        ShardError: labels cannot be read, or none of a task's labels says anything.
        UserError: no test row has a field that a slice is made by, or a margin is of no slice.
        TeacherError: a teacher falls short of its recorded score, or of a constant answer.
    """
    show_sources(console, parts.sources)
    check_labels(parts.sources, parts.kinds, console)
    if said := _slices_line(parts):
        console.print(said, highlight=False, markup=False, soft_wrap=True)
    examined: Mapping[str, TeacherCheck] = {}
    if parts.cached is None:
        with console.status("measuring the teachers"):
            examined = check_teachers(parts.recipe, parts.teachers, parts.kinds, parts.sources, device)
    console.print(_student_line(parts), highlight=False, soft_wrap=True)
    if examined:
        show_teachers(console, examined, parts.kinds)
        refuse_bad_teachers(examined)
    for task, config in parts.loss_configs.items():
        if parts.recipe.tasks[task].hints and parts.teachers.of(task) and not config.hints:
            console.print(
                f"{task}: its teacher has no default layer for hints, so it learns without them",
                highlight=False,
            )
    console.print(parts.balance, highlight=False, soft_wrap=True)
    for line in (parts.taught, *parts.decided, *_self_teacher_lines(parts), *_stage_lines(parts)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return examined


def _slices_line(parts: Parts) -> str:
    """The slices of the test rows, each with the most rows that a task has of it."""
    recipe = parts.recipe
    rows = Slices.of(recipe.evaluation.slices).rows(parts.sources, parts.kinds, "test")
    slice_margins(recipe.acceptance.slices, rows)
    most: dict[str, int] = {}
    for of_task in rows.values():
        for name, keys in of_task.items():
            most[name] = max(most.get(name, 0), len(keys))
    return (
        f"slices of the test rows: {', '.join(f'{name} {count:,}' for name, count in most.items())}"
        if most
        else ""
    )


def _student_line(parts: Parts) -> str:
    trunk = parts.student.trunk
    height, width = trunk.inputs.size
    parameters = sum(parameter.numel() for parameter in parts.student.parameters())
    line = (
        f"student: {trunk.name} at {height} x {width} pixels, {parameters:,} parameters with its heads, "
        f"{parts.begins}"
    )
    if reads := trunk.reads():
        line = f"{line}\nread of it: {reads}"
    nodes = node_costs(parts.student, trunk.inputs.size)
    if not nodes:
        return line
    words = "; ".join(
        f"{name} from {node.begins}: {node.parameters:,} parameters, {node.flops / 1e6:.1f} MFLOPs"
        for name, node in nodes.items()
    )
    return f"{line}\nits trunk is in {len(nodes)} parts and runs as {networks_run(nodes, trunk):.2f} networks: {words}"


def _self_teacher_lines(parts: Parts) -> Iterator[str]:
    if parts.recipe.training.teachers_on == "none":
        return
    for schedule, tasks in parts.self_teachers.items():
        yield f"self-teacher, {schedule.describe()}: {', '.join(tasks)}"


def _stage_lines(parts: Parts) -> Iterator[str]:
    stages = parts.schedule.stages
    for number, stage in enumerate(stages if len(stages) > 1 else ()):
        trains = "everything trains"
        if stage.trains is not None:
            trains = f"{', '.join(parts.recipe.schedule[number].train or ())} train"
        yield f"schedule: stage {number + 1} of {len(stages)} ends with step {stage.ends}, {trains}"


def show_sources(console: Console, sources: Sources) -> None:
    """Print a line per source: its labels, rows and shards, and its share of a batch."""
    summaries = sources.summary()
    shared = "a batch" if sources.phase_length is None else "the steps"
    table = Table(title="data", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("source", "labels"):
        table.add_column(column)
    for column in ("train", "validation", "test", "shards", f"share of {shared}"):
        table.add_column(column, justify="right")
    for source in summaries:
        cut = {
            split: f"{rows:,}" + (" *" if split in source.hashed else "")
            for split, rows in source.rows.items()
        }
        table.add_row(
            source.name, _labels(source), *cut.values(), str(source.shards), f"{100 * source.share:.0f} %"
        )
    console.print(table)
    for note in _notes(summaries, sources.phase_length):
        console.print(note, style="dim", highlight=False)


def _labels(source: SourceSummary) -> str:
    labels = ", ".join(f"{task} ({member})" for task, member in source.labels.items()) or "none"
    if not source.is_limited:
        return labels
    return f"{labels}, {source.labelled:,} of {source.rows['train']:,} labelled"


def _notes(summaries: Sequence[SourceSummary], phase_length: int | None) -> Iterator[str]:
    if any("test" in source.hashed for source in summaries):
        yield "* cut from the training shards by a hash of the key: a teacher may have seen these rows"
    if phase_length is not None:
        steps = "1 step" if phase_length == 1 else f"{phase_length:,} steps"
        yield f"each batch has rows of one data set, which changes after {steps} (training.stream)"
    for source in summaries:
        if source.is_limited:
            share = f"{100 * source.labelled_share:.0f} %"
            yield f"{source.name}: {share} of its rows in a batch have labels (limit.share)"
        if source.small_classes:
            found = [f"{name} ({rows:,})" for name, rows in source.small_classes.items()]
            more = f" and {len(found) - _CLASSES_SHOWN} more" if len(found) > _CLASSES_SHOWN else ""
            few = ", ".join(found[:_CLASSES_SHOWN])
            yield f"{source.name}: all rows of classes that have fewer than limit.per_class: {few}{more}"


def check_every_row(sources: Sources, workers: int, console: Console) -> None:
    """Read every row of the data, and say what was found.

    Args:
        sources: of the run.
        workers: reader processes; 0 reads in this one.
        console: where the findings are shown.

    Raises:
        ShardError: rows are damaged; the first of them are named.
    """
    rows, skipped, faults = 0, 0, list[str]()
    with console.status("reading every row"):
        for found in sources.check_rows(workers):
            rows, skipped = rows + found.rows, skipped + found.skipped
            faults += found.faults
    if faults:
        more = [f"and {len(faults) - _FAULTS_SHOWN:,} more"] if len(faults) > _FAULTS_SHOWN else []
        count = "1 row is" if len(faults) == 1 else f"{len(faults):,} rows are"
        listed = "\n".join(f"  {line}" for line in faults[:_FAULTS_SHOWN] + more)
        raise ShardError(
            f"{count} damaged:\n{listed}\nWrite or copy the shards again, or leave these rows out."
        )
    checksums = sources.checksums()
    compared = f"{checksums:,} rows have checksums, and all match" if checksums else "no shard has checksums"
    console.print(
        f"every row was read: {rows:,} pictures and their labels; {compared}",
        highlight=False,
        soft_wrap=True,
    )
    if skipped:
        console.print(
            f"{skipped:,} pictures cannot be decoded and are skipped (corrupt: skip)", highlight=False
        )


def try_one_batch(parts: Parts, device: torch.device, slices: int) -> None:
    """Run teachers, losses, balancing and both backward passes on a few rows of every source, in every stage.

    Shows a shape that does not fit before training, and changes nothing. All processes of a run try the same rows,
    because balancing communicates between them.

    Args:
        parts: of the run.
        device: where it will train.
        slices: how many micro-batches a step has; one of them is tried, which is what a device holds at once.

    Raises:
        UserError: a loss is not a finite number.
    """
    batch = next(iter(parts.sources.preview(micro_batches=slices, steps=1))).to(device)
    teachers = parts.targets().to(device)
    original = Objective(parts.student, parts.loss_configs, parts.terms, parts.rule)
    providers = parts.providers(teachers, parts.student)
    for stage in parts.schedule.stages:
        # In training mode, as the run is: BatchNorm refuses there what it takes in evaluation.
        objective = as_trained(copy.deepcopy(original).to(device))
        objective.begin(stage)
        rows = providers.rows(batch, stage.taught)
        counts = count_rows([batch], [rows], stage.loss_configs, several=providers.several)
        targets = providers(batch, rows, stage.temperatures)
        try:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                losses, shared, _ = objective(
                    jitter_colors(batch.images, batch.color), batch, targets, counts
                )
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise _too_few_rows(parts, slices, len(batch)) from error
        if losses:
            objective.rule.backward(losses, shared)
        broken = [task for task, loss in losses.items() if not math.isfinite(loss.item())]
        if broken:
            found = causes(objective.student, batch, targets)
            cause = "; ".join(found) or (
                "labels and teachers' answers are finite, so the student's initial weights (student.init) are the cause"
            )
            raise UserError(
                f"the loss of {', '.join(broken)} is not a finite number on the first batch: {cause}."
            )


def _too_few_rows(parts: Parts, slices: int, rows: int) -> UserError:
    return UserError(
        f"training.batch_size: {parts.recipe.training.batch_size} rows in {slices} parts (training.accumulate x "
        f"processes) are {rows} at a time, and BatchNorm needs 2 or more where its map is a single pixel. Raise "
        f"training.batch_size, lower training.accumulate, or choose {_NO_BATCHNORM}."
    )


def batchnorm_warnings(
    student: nn.Module, sources: Sources, device: torch.device, processes: int
) -> list[str]:
    """What a user of a student with BatchNorm should know about this run; empty for any other student.

    Args:
        student: to be trained.
        sources: its data.
        device: where it trains.
        processes: how many train it together.
    """
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in student.modules()):
        return []
    warnings = []
    if processes > 1 and device.type == "cpu":
        warnings.append(
            "the student has BatchNorm, whose statistics are local to each process on the CPU. The run differs from a "
            f"run of one process. For the same result choose {_NO_BATCHNORM}."
        )
    if sources.phase_length is not None and len(sources.names) > 1:
        warnings.append(
            "training.stream is alternate, and the student has BatchNorm. In training it normalises each batch by the "
            "statistics of one data set, in evaluation all rows by a running average over several. It may score "
            f"worse than it trained. Choose {_NO_BATCHNORM}, or --set training.stream=mixed."
        )
    return warnings
