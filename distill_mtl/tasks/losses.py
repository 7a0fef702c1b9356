"""Divergences between two networks' softened decisions, for every kind of task that decides."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_mtl.errors import UserError
from distill_mtl.tasks.options import number

_FLOOR = 1e-9  # of a probability, before its logarithm is taken


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Logits whose softmax is `probabilities`, also of those that were rounded to 0."""
    return probabilities.clamp_min(_FLOOR).log()


def sums_to_one(answer: Tensor) -> bool:
    """Whether [R, C, ...] are shares of a whole along dim 1."""
    whole = bool((answer.sum(1) - 1).abs().max() < 1e-3)
    return answer.shape[1] > 1 and bool(answer.min() >= 0) and whole


def soft_divergence(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL(teacher ‖ student) of the softmax at `temperature` over dim 1, times temperature squared.

    The square keeps the gradient's size when the temperature changes (Hinton, Vinyals & Dean 2015,
    arXiv:1503.02531, section 2). It is the divergence rather than the cross-entropy so that perfect
    imitation costs 0, which balancing by loss sizes relies on.

    Args:
        logits: the student's, [R, C, ...].
        teacher_logits: the same shape; no gradient reaches them.

    Returns:
        float32 [R, ...].
    """
    student = F.log_softmax(logits.float() / temperature, dim=1)
    teacher = F.log_softmax(teacher_logits.detach().float() / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    return divergence * temperature**2


def bernoulli_divergence(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL(teacher ‖ student) of the sigmoid at `temperature` of every logit, times temperature squared.

    As `soft_divergence`, with a decision of its own in every place.

    Args:
        logits: the student's, any shape.
        teacher_logits: the same shape; no gradient reaches them.

    Returns:
        float32, the same shape, never below 0: balancing may take its logarithm, and rounding must not spoil that.
    """
    student, teacher = logits.float() / temperature, teacher_logits.detach().float() / temperature
    yes = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    no = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return (yes + no).clamp(min=0) * temperature**2


def any_of(logits: Tensor, classes: Sequence[int]) -> Tensor:
    """float32 [R, ...]: log of the softmax's probability over dim 1 that the class is one of these."""
    return F.log_softmax(logits.float(), 1)[:, list(classes)].logsumexp(1)


def average_softmax(answers: Sequence[Tensor], shares: Tensor, temperature: float) -> Tensor:
    """Logits whose softmax over dim 1 at `temperature` is the mean of the answers' own.

    The mean of the softened outputs of an ensemble: Hinton, Vinyals & Dean 2015 (arXiv:1503.02531, section 3).

    Args:
        answers: M times float32 [R, C, ...].
        shares: [M, R, 1, ...] that sum to 1.
        temperature: divides the logits.
    """
    softened = torch.stack([F.log_softmax(answer / temperature, 1) for answer in answers])
    return (softened + shares.log()).logsumexp(0) * temperature


def average_sigmoid(answers: Sequence[Tensor], shares: Tensor, temperature: float) -> Tensor:
    """Logits whose sigmoid at `temperature` is the mean of the answers' own; arguments as in `average_softmax`."""
    stacked, weights = torch.stack(list(answers)) / temperature, shares.log()
    yes = (F.logsigmoid(stacked) + weights).logsumexp(0)
    no = (F.logsigmoid(-stacked) + weights).logsumexp(0)
    return (yes - no) * temperature


@dataclass(frozen=True)
class Decoupled:
    """The loss of Zhao et al. (2022, arXiv:2203.08679, equation 7 and algorithm 1): alpha TCKD + beta NCKD.

    TCKD is the divergence between the two networks' decisions "the target class, or another", NCKD the
    one between their decisions among the others as if the target class did not exist. The plain
    divergence is TCKD + (1 - p) NCKD with the teacher's probability p of the target class (equation 6):
    it hardly uses a confident teacher's answer about the other classes, and beta does.

    Attributes:
        alpha: weight of TCKD.
        beta: weight of NCKD; 8 is the paper's for ResNets on CIFAR-100, 1 or less for teachers that are not sure.
    """

    alpha: float = 1.0
    beta: float = 8.0

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> "Decoupled":
        """From a recipe's option.

        Raises:
            UserError: it is not a mapping of these two weights, or one of them is negative.
        """
        known = asdict(cls())
        if not isinstance(said, Mapping) or any(key not in known for key in said):
            raise UserError(f"options.dkd is a mapping such as {{alpha: 1, beta: 8}}, found {said}.")
        for key, value in said.items():
            number(f"dkd.{key}", value)
        return cls(**said)

    def __call__(self, logits: Tensor, teacher_logits: Tensor, target: Tensor, temperature: float) -> Tensor:
        """float32 [R], times temperature squared; 0 where both networks agree.

        Args:
            logits: the student's, [R, C].
            teacher_logits: the same shape; no gradient reaches them.
            target: int64 [R], the class that is set apart.
            temperature: divides the logits.
        """
        if logits.shape[1] == 1:  # of a single class there is nothing to decide
            return soft_divergence(logits, teacher_logits, temperature)
        student, teacher = logits.float() / temperature, teacher_logits.detach().float() / temperature
        (mine, others), (theirs, other) = _parted(student, target), _parted(teacher, target)
        tckd, nckd = _divergence(theirs, mine), _divergence(other, others)
        return (self.alpha * tckd + self.beta * nckd) * temperature**2


def _parted(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log probabilities [R, 2] of the target class and of all others, and [R, C - 1] among the others."""
    # Places of the others, not a mask of them: how many a mask picks, the host would have to wait for.
    place = torch.arange(logits.shape[1] - 1, device=logits.device)
    chosen, others = (
        logits.gather(1, taken) for taken in (target[:, None], place + (place >= target[:, None]))
    )
    both = torch.cat([chosen, others.logsumexp(1, keepdim=True)], dim=1)
    return both.log_softmax(1), others.log_softmax(1)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher ‖ student) of log probabilities over dim 1; rounding does not push it below 0."""
    return (teacher.exp() * (teacher - student)).sum(1).clamp(min=0)
