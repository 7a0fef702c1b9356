"""How this process was launched: threads, precision, and the mistakes that a launcher makes silently."""

import os
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin

from distill_mtl.errors import UserError
from distill_mtl.recipe.schema import TrainingSection

Precision = Literal["no", "fp16", "bf16"]


def start_accelerator(training: TrainingSection) -> Accelerator:
    """The Accelerator of a run, after the checks that Accelerate itself does not make.

    Raises:
        UserError: the launcher's number of processes is not Accelerate's; fp16 was asked for on a CPU;
            the batch does not divide among processes and micro-batches.
    """
    precision = _precision(training.precision)
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        raise UserError(
            f"training.precision: this process has already trained in {AcceleratorState().mixed_precision}, and "
            f"Accelerate keeps one precision per process. Start a new process for {precision}."
        )
    accelerator = Accelerator(
        mixed_precision=precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=training.accumulate, sync_with_dataloader=False
        ),
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != accelerator.num_processes:
        raise UserError(
            f"the launcher started {launched} processes, but Accelerate sees {accelerator.num_processes}: each "
            "would write the same run. On the CPU start with `ACCELERATE_USE_CPU=true accelerate launch "
            "--multi_gpu --num_processes N --main_process_port 0 distill.py ...`."
        )
    parts = accelerator.num_processes * training.accumulate
    if training.batch_size % parts:
        raise UserError(
            f"training.batch_size is {training.batch_size} rows per optimizer step, which do not divide among "
            f"{accelerator.num_processes} processes x {training.accumulate} micro-batches. "
            f"Choose a multiple of {parts}."
        )
    if accelerator.num_processes == 1 and accelerator.device.type == "cpu":
        take_all_cores()
    return accelerator


def take_all_cores() -> None:
    """Undo `accelerate launch`'s OMP_NUM_THREADS=1, which is meant for several processes per machine."""
    if os.environ.get("OMP_NUM_THREADS") == "1" and "ACCELERATE_MIXED_PRECISION" in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(cores)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make this step's random numbers a function of where it stands, so that resuming replays them."""
    torch.manual_seed((seed * 1_000_003 + step) * 1_009 + rank)


def _precision(wanted: str) -> Precision:
    gpu = torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "false").lower() not in (
        "true",
        "1",
    )
    if wanted == "auto":
        return "bf16" if gpu and torch.cuda.is_bf16_supported() else "no"
    if wanted == "fp16" and not gpu:
        raise UserError("training.precision is fp16, which no CPU trains well in. Use bf16, fp32 or auto.")
    return {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}[wanted]  # type: ignore[return-value]
