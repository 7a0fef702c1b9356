"""The learning rate of a run whose recipe leaves it to `auto`: a first guess, corrected by a range test.

The guess is a rate that is known to be good for the optimizer, with the rows of a step (`optimizer.first_guess`). The
range test (Smith 2017, arXiv:1506.01186, section 3.3) takes some steps of the run itself at rising rates, and goes back
to where it began. Losses of single steps are noisy, so a guess that is well inside the range stays.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from distill_mtl.data.batch import Batch
from distill_mtl.training.checkpoint import Session
from distill_mtl.training.fork import fork, fork_losses
from distill_mtl.training.processes import from_first_process

SHARE, MOST, FEWEST = 0.03, 120, 8
"""Steps of a test: this share of the run's; not more, and not fewer, since fewer would be noise."""
BELOW, ABOVE, PER_OCTAVE = 2, 6, 3
"""Octaves of rates below and above the guess, and the fewest steps in each."""
DIVERGED = 1.5
"""Ratio of a loss to the smallest one before it."""
SAFE = 4.0
"""The rate is at most this part of the one that diverges."""
DROP, PART, SLOW = 0.2, 0.25, 2.0
"""The rate is at least the `SLOW`th part of the first one at which the loss has made this part of its whole drop, if
that is large enough to be seen in the noise."""


@dataclass(frozen=True)
class RateSearch:
    """What a search found.

    Attributes:
        lr: the highest rate of the run.
        reason: one clause.
        curve: rate and loss of each step of the test; a loss of 1 is that of the first step.
    """

    lr: float
    reason: str
    curve: Sequence[tuple[float, float]] = ()

    def __str__(self) -> str:
        return f"lr: {self.lr:g} (auto: {self.reason})"


def find_rate(session: Session, stream: Iterator[Batch]) -> RateSearch:
    """Find the rate of a run before its first step. The same on every process; the session is as it was.

    Args:
        session: fresh, its loss terms calibrated; its trainer has the first guess of the rate.
        stream: this process's micro-batches, from the first step on.
    """
    trainer = session.trainer
    recipe, steps, guess = trainer.recipe, trainer.schedule.steps, trainer.lr
    why = f"the usual rate of {recipe.optimizer.name} for {recipe.training.batch_size} rows"
    rates = rising_rates(guess, steps)
    if not rates:
        return RateSearch(guess, f"{why}; {steps} steps are too few for a range test")
    with fork(session):
        losses = _losses(session, stream, rates)
    curve = list(zip(rates, losses, strict=False))
    return from_first_process(choose_rate(guess, curve, why, raises=recipe.optimizer.name == "sgd"))


def rising_rates(guess: float, steps: int) -> list[float]:
    """Rising rates around a guess, one for each step of the test; none for a run of few steps."""
    count = min(MOST, math.floor(SHARE * steps))
    if count < FEWEST:
        return []
    octaves = min(BELOW + ABOVE, count / PER_OCTAVE)
    return [guess * 2 ** (octaves * step / (count - 1) - BELOW) for step in range(count)]


def choose_rate(
    guess: float, curve: Sequence[tuple[float, float]], why: str, *, raises: bool = True
) -> RateSearch:
    """The guess, brought into the range that the curve leaves: well below divergence, and not where nothing moves.

    Args:
        guess: a usual rate.
        curve: rate and loss of each step, rates rising.
        why: what the guess is, in words.
        raises: it may be too small, as SGD's is where losses are; steps of Adam and Muon do not follow their scale.
    """
    diverges, moves = _first_divergence(curve), _first_drop(curve) if raises else None
    if diverges is not None and guess > diverges / SAFE:
        reason = f"a quarter of {diverges:.2g}, at which training diverges"
        return RateSearch(_rounded(diverges / SAFE), reason, curve)
    if moves is not None and guess < moves / SLOW:
        reason = f"half of {moves:.2g}, below which the loss hardly falls"
        return RateSearch(_rounded(moves / SLOW), reason, curve)
    seen = "" if diverges is None else f"; training diverges at {diverges:.2g}"
    return RateSearch(guess, f"{why}{seen}", curve)


def _smooth(curve: Sequence[tuple[float, float]]) -> list[float]:
    """The median of each loss and the two before it."""
    losses = [loss for _, loss in curve]
    return [median(losses[max(0, number - 2) : number + 1]) for number in range(len(losses))]


def _first_divergence(curve: Sequence[tuple[float, float]]) -> float | None:
    """The first rate at which the loss is not finite, or stays well above its smallest value so far."""
    best = math.inf
    for (rate, loss), smooth in zip(curve, _smooth(curve), strict=True):
        if not math.isfinite(loss) or smooth > DIVERGED * best:
            return rate
        best = min(best, smooth)
    return None


def _first_drop(curve: Sequence[tuple[float, float]]) -> float | None:
    """The first rate at which the loss has made a part of its whole drop; None where it hardly drops."""
    smooth = [loss for loss in _smooth(curve) if math.isfinite(loss)]
    drop = 1 - min(smooth, default=1.0)
    if drop < DROP:
        return None
    return next(rate for (rate, _), loss in zip(curve, smooth, strict=False) if loss <= 1 - PART * drop)


def _losses(session: Session, stream: Iterator[Batch], rates: Sequence[float]) -> list[float]:
    """The loss of each step, as a mean over tasks of its ratio to the first step's; up to one that is not finite."""
    first, losses = dict[str, float](), list[float]()
    for totals in fork_losses(session, stream, rates):
        losses.append(_relative(totals, first))
        if not math.isfinite(losses[-1]):
            break
    return losses


def _relative(totals: Mapping[str, float], first: dict[str, float]) -> float:
    """Mean over tasks of each loss as a share of its first value, which is noted in `first`."""
    for task, loss in totals.items():
        first.setdefault(task, loss)
    shares = [loss / first[task] for task, loss in totals.items() if first[task] > 0 or loss != loss]
    return sum(shares) / len(shares) if shares else 1.0


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")
