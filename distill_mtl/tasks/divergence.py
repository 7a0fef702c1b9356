"""The divergence between two networks' softened decisions, used by every kind of task that decides."""

import torch.nn.functional as F
from torch import Tensor

_FLOOR = 1e-9  # of a probability, before its logarithm is taken


def log_of(probabilities: Tensor) -> Tensor:
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
