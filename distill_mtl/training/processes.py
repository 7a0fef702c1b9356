"""How this process was launched: threads, precision, and launcher mistakes that are otherwise silent."""

import atexit
import os
import sys
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Literal, TypeVar

import psutil
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    broadcast_object_list,
)
from torch import distributed, nn

from distill_mtl.cores import usable_cores
from distill_mtl.data.batch import ProcessShare
from distill_mtl.errors import StoppedElsewhere, UserError
from distill_mtl.networks.bf16 import faster_in_bf16
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import TrainingSection

Module = TypeVar("Module", bound=nn.Module)
T = TypeVar("T")
Precision = Literal["no", "fp16", "bf16"]
_KEYS_BEFORE = 6
SUPPORTED = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)


def start_accelerator(training: TrainingSection, *, shares_steps: bool = True) -> Accelerator:
    """The Accelerator of a run, after the checks that Accelerate itself does not make.

    Args:
        training: of the recipe.
        shares_steps: the processes will share training steps, so a batch must divide among them.

    Raises:
        UserError: the launcher started processes that Accelerate cannot see, or a kind of parallelism that the
            cut does not know; fp16 was asked for on a CPU; the batch does not divide among processes and
            micro-batches.
    """
    _refuse_unseen_processes()
    precision = _precision(training.precision)
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()  # Accelerate keeps one precision per process, and a program may train twice
    # One-by-one kernels have no memory order of their own; DDP takes the difference for one.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    accelerator = Accelerator(
        mixed_precision=precision,
        # Processes wait for one that checks teachers or evaluates, and for the slowest writer of a cache.
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=2 if shares_steps else 48))],
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=training.accumulate, sync_with_dataloader=False
        ),
    )
    leave_group_at_exit()
    if accelerator.distributed_type not in SUPPORTED:
        raise UserError(
            f"Accelerate is configured for {accelerator.distributed_type.value}; the cut between trunk and heads "
            "works with one process, or several under DistributedDataParallel. Launch with --multi_gpu, or with "
            "--config_file accelerate.yaml."
        )
    parts = accelerator.num_processes * training.accumulate
    if shares_steps and training.batch_size % parts:
        raise UserError(
            f"training.batch_size is {training.batch_size} rows per optimizer step, which do not divide among "
            f"{accelerator.num_processes} processes x {training.accumulate} micro-batches. "
            f"Choose a multiple of {parts}."
        )
    if accelerator.num_processes == 1 and accelerator.device.type == "cpu":
        take_all_cores()
    return accelerator


def leave_group_at_exit() -> None:
    """Have this process leave the process group, if it has joined one, before the interpreter is taken down.

    Without it gloo's threads still run then, and abort one process of eleven that had done all its work (18 of
    200 with torch 2.15; pytorch/pytorch#190489).
    """
    atexit.unregister(_leave_group)
    atexit.register(_leave_group)


def _leave_group() -> None:
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    # NCCL waits here for work that the others share; after a crash they may never come.
    if distributed.get_backend() == "gloo" or not hasattr(sys, "last_value"):
        distributed.destroy_process_group()


def start_processes() -> PartialState:
    """The state of processes that share rows but train nothing, so that no precision is asked for.

    Raises:
        UserError: the launcher started processes that Accelerate cannot see.
    """
    _refuse_unseen_processes()
    # Only an Accelerator reads the variable by itself, and only it would see several processes on the CPU. The
    # others wait while the first one measures costs; and training may follow in the same group.
    state = PartialState(cpu=_on_cpu(), timeout=timedelta(hours=2))
    leave_group_at_exit()
    if state.num_processes == 1 and state.device.type == "cpu":
        take_all_cores()
    return state


def _refuse_unseen_processes() -> None:
    """Several processes on a machine without an accelerator; Accelerate alone would start one process each."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1 and not _on_cpu() and not torch.accelerator.is_available():
        raise UserError(
            f"the launcher started {launched} processes on a machine without a GPU, and Accelerate would take each "
            "for the only one. On the CPU start with `ACCELERATE_USE_CPU=true accelerate launch --multi_gpu "
            "--num_processes N --main_process_port 0 distill.py ...`."
        )


def _on_cpu() -> bool:
    """Whether Accelerate was told to leave an accelerator alone."""
    return os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1")


def take_all_cores() -> None:
    """Undo `accelerate launch`'s OMP_NUM_THREADS=1, which is meant for several processes per machine.

    A number that the user asked for stays.
    """
    if os.environ.get("OMP_NUM_THREADS") == "1" and _is_the_launchers_own():
        torch.set_num_threads(usable_cores())


def _is_the_launchers_own() -> bool:
    """Whether the launcher set the number of threads by itself: the environment it was started with has none."""
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return False
    try:
        launcher = psutil.Process(os.getppid())
        environment, arguments = launcher.environ(), launcher.cmdline()
    except (psutil.Error, OSError):
        return True
    asked = any(argument.startswith("--num_cpu_threads_per_process") for argument in arguments)
    return "OMP_NUM_THREADS" not in environment and not asked


def as_trained(module: Module) -> Module:
    """The module as several processes train it: on GPUs BatchNorm takes the statistics of all their rows."""
    on_gpu = any(parameter.is_cuda for parameter in module.parameters())
    if PartialState().num_processes > 1 and on_gpu:
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    return module


def on_first_process(work: Callable[[], T]) -> T | None:
    """What the first process makes while the others wait; None on these.

    Raises:
        StoppedElsewhere: on the others, where it could not; the first raises what it met.
    """
    state, made, done = PartialState(), None, [False]
    try:
        if state.is_main_process:
            made, done = work(), [True]
    finally:
        if state.num_processes > 1:
            broadcast_object_list(done)
    if not done[0]:
        raise StoppedElsewhere("The first process could not go on and says why.")
    return made


def share_of_machine() -> ProcessShare:
    """This process among those of this machine, which share the fetching and indexing of shards."""
    state = PartialState()
    world = int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))
    return ProcessShare(state.local_process_index, world)


def from_first_process(measured: T) -> T:
    """What the first process measured, on every process: another machine may differ in the last digit."""
    if PartialState().num_processes == 1:
        return measured
    shared = [measured]
    broadcast_object_list(shared)
    return shared[0]


def seed_step(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Make this step's random numbers a function of where it stands, so that resuming replays them."""
    number = (seed * 1_000_003 + step) * 1_009 + rank
    if device.type == "cpu":
        # The same numbers, without what `manual_seed` notes for devices that are not there.
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)


def settle_precision(recipe: Recipe, trunk: nn.Module) -> Recipe:
    """The recipe with `training.precision` decided: bf16 where this machine's kernels for the trunk are faster with it.

    On a GPU wherever it has bf16; on a CPU by a rule.

    Args:
        recipe: as loaded, nothing of its optimizer decided yet.
        trunk: of the student.
    """
    gpu = torch.cuda.is_available() and not _on_cpu()
    if _from_before(recipe) and not gpu:
        recipe = _in_fp32(recipe)
    if recipe.training.precision != "auto":
        return recipe
    low = torch.cuda.is_bf16_supported() if gpu else faster_in_bf16(trunk)
    training = recipe.training.model_copy(update={"precision": "bf16" if low else "fp32"})
    return recipe.model_copy(update={"training": training})


def _in_fp32(recipe: Recipe) -> Recipe:
    """The recipe with fp32 where it leaves the precision of student and teachers to `auto`."""
    tasks = {
        name: task.with_networks(
            [
                network.model_copy(update={"precision": "fp32"}) if network.precision == "auto" else network
                for network in task.networks
            ]
        )
        for name, task in recipe.tasks.items()
        if task.networks
    }
    training = recipe.training
    if training.precision == "auto":
        training = training.model_copy(update={"precision": "fp32"})
    return recipe.model_copy(update={"tasks": {**recipe.tasks, **tasks}, "training": training})


def _from_before(recipe: Recipe) -> bool:
    """Whether a recipe was resolved before `optimizer` had a name: then `auto` was fp32 on a
    CPU, but for large teachers."""
    return (
        len(recipe.optimizer.model_fields_set) == _KEYS_BEFORE
        and "name" not in recipe.optimizer.model_fields_set
    )


def _precision(wanted: str) -> Precision:
    gpu = torch.cuda.is_available() and not _on_cpu()
    if wanted == "auto":  # of a job that trains nothing
        return "bf16" if gpu and torch.cuda.is_bf16_supported() else "no"
    if wanted == "fp16" and not gpu:
        raise UserError("training.precision: fp16 needs a GPU. Use bf16, fp32 or auto.")
    return {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}[wanted]  # type: ignore[return-value]
