"""AdamW over the parameters of an objective, grouped as they want to be stepped, and its learning rate."""

import math

from timm.optim import param_groups_weight_decay
from torch.optim import AdamW

from distill_mtl.distillation.objective import Objective
from distill_mtl.recipe.schema import OptimizerSection


def build_optimizer(objective: Objective, section: OptimizerSection) -> AdamW:
    """One optimizer for student, loss terms and the balancing rule.

    Norms, biases and whatever timm's trunk lists in `no_weight_decay()` are not decayed; adapters have
    their own rate; a rule's parameters (log variances, task weights) are never decayed. Every group
    carries its `peak` rate, which `set_rate` scales.
    """
    listed: set[str] = getattr(objective.student.trunk.model, "no_weight_decay", set)()
    undecayed = [f"trunk.model.{name}" for name in listed]
    groups = param_groups_weight_decay(
        objective.student, section.weight_decay, no_weight_decay_list=undecayed
    )
    adapters = param_groups_weight_decay(objective.terms, section.weight_decay)
    adapter_lr = section.adapter_lr or section.lr
    groups = [
        *({**group, "peak": section.lr} for group in groups),
        *({**group, "peak": adapter_lr} for group in adapters),
        {"params": list(objective.rule.parameters()), "weight_decay": 0.0, "peak": section.lr},
    ]
    return AdamW([group for group in groups if group["params"]], lr=section.lr, betas=section.betas)


def set_rate(optimizer: AdamW, factor: float) -> None:
    """Give every group its peak rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def rate_factor(step: int, steps: int, *, warmup: float, floor: float) -> float:
    """Share of the peak rate at `step` of `steps`: linear warm-up, then half a cosine down to `floor`.

    A pure function of the step, so that a resumed run needs no state to go on exactly.
    """
    warm = round(warmup * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    progress = (step - warm) / max(1, steps - warm)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
