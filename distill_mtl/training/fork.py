"""A few steps of a run that are taken back: the search of the rate and the forecast begin where the run begins."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch

from distill_mtl.data.batch import Batch
from distill_mtl.errors import UserError
from distill_mtl.training.checkpoint import Session
from distill_mtl.training.optimizer import rate_factor

SHARE = 0.02
"""Steps of a forecast's fork, at most, as a share of the run's."""


@contextmanager
def fork(session: Session) -> Iterator[None]:
    """For the block the session may train; after it the session is as it was."""
    start = copy.deepcopy(session.state())
    try:
        yield
    finally:
        session.load(start)


def fork_losses(
    session: Session, stream: Iterator[Batch], rates: Sequence[float], *, diagnose: bool = False
) -> Iterator[dict[str, float]]:
    """Take a step at each rate: task -> its whole loss in the step.

    A row that cannot be read ends the fork. The run meets it again, and says what is wrong.

    Args:
        session: inside `fork`.
        stream: this process's micro-batches, from the first step on.
        rates: of the steps.
        diagnose: leave `Rule.diagnostics` of each step.
    """
    trainer = session.trainer
    trainer.module.train()
    for number, rate in enumerate(rates):
        try:
            batches = list(islice(stream, trainer.recipe.training.accumulate))
        except UserError:
            batches = []
        if _nothing_read(session, batches):
            return
        report = trainer.step(number, batches, lr=rate, diagnose=diagnose)
        yield {task: named["total"] for task, named in report.values(trainer.accelerator).items()}


def whole_run_rates(session: Session) -> list[float]:
    """The rates of a run of 2 % of the steps, with the schedule of the whole; none where that is no step."""
    trainer = session.trainer
    steps = int(SHARE * trainer.schedule.steps)
    return [trainer.lr * rate_factor(step, steps, trainer.recipe.optimizer) for step in range(steps)]


def _nothing_read(session: Session, batches: Sequence[Batch]) -> bool:
    """Whether a process has no rows for the next step."""
    accelerator = session.trainer.accelerator
    missing = torch.tensor(int(not batches), device=accelerator.device)
    return bool(accelerator.reduce(missing, "sum") if accelerator.num_processes > 1 else missing)
