"""The divergence between two networks' softened decisions, used by every kind of task with classes."""

import torch.nn.functional as F
from torch import Tensor


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
