"""The optimizer of a run and its learning rate: what `auto` stands for, groups of parameters, and the schedule."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from distill_mtl.distillation.objective import Objective
from distill_mtl.networks.flops import flops_of
from distill_mtl.recipe import Recipe
from distill_mtl.recipe.schema import OptimizerSection
from distill_mtl.students.student import Body
from distill_mtl.training.muon import Muon

ROWS = 128
"""Rows of a step for which the first guesses of a rate are given."""
FINE_TUNING = 0.3
"""Factor on the first guess where the trunk is trained already."""


@dataclass(frozen=True)
class OptimizerDefaults:
    """What `auto` stands for with one optimizer.

    Attributes:
        schedule: of the rate.
        momentum: where the optimizer has one.
        weight_decay: of matrices and convolutions.
        lr: first guess of the highest rate, for `ROWS` rows, and a trunk of convolutions with random weights.
        exponent: the guess grows with this power of the rows.
        most: largest guess.
    """

    schedule: Literal["cosine", "one_cycle"]
    momentum: float
    weight_decay: float
    lr: float
    exponent: float
    most: float


DEFAULTS: Mapping[str, OptimizerDefaults] = {
    "sgd": OptimizerDefaults("one_cycle", 0.9, 5e-4, lr=0.1, exponent=1.0, most=0.4),
    "adamw": OptimizerDefaults("cosine", 0.0, 0.05, lr=1e-2, exponent=0.5, most=2e-2),
    "muon": OptimizerDefaults("cosine", 0.95, 0.05, lr=4e-2, exponent=0.5, most=8e-2),
}
CLIP = 1.0
"""Largest gradient norm. Steps of Adam and Muon hardly follow the norm; SGD's would be cut, at a loss of 4 points."""
FOR_MATRICES = 0.1
"""Factor on the first guess for trunks whose weights are mostly matrices: transformers want smaller rates."""
CHEAP = 0.25
"""Work of Muon's orthogonal steps, as a share of a training step's, up to which `auto` takes it. It is counted as in
the usual form, products in bf16; on a CPU there are about half as many, in single precision."""
UNITS_WITH_SGD = 100.0
"""Factor on the rate of units between columns with SGD, from the papers (Misra et al. 2016; Gao et al. 2019): their
gradients are small. A step of Adam is about the rate, whatever the gradient, and takes none."""
WARMUP = {"one_cycle": 0.3, "cosine": 0.05}
MIN_LR = {"one_cycle": 0.0, "cosine": 0.01}
START = 0.04
"""First rate of a one-cycle schedule as a share of the highest (Smith & Topin 2019; PyTorch's OneCycleLR)."""


def settle_optimizer(recipe: Recipe, trunk: Body) -> Recipe:
    """The recipe with every `auto` of its optimizer decided, and clipping, but the rate, which only a search finds.

    Args:
        recipe: as loaded.
        trunk: of the student; its layers decide which optimizer suits it.
    """
    section = recipe.optimizer
    name = section.name
    if name == "auto":  # a rate in a recipe without a name is AdamW's, the only optimizer there once was
        dear = section.lr != "auto" or orthogonal_share(trunk, recipe.training.batch_size) > CHEAP
        name = "adamw" if dear else "muon"
    defaults = DEFAULTS[name]
    schedule = defaults.schedule if section.schedule == "auto" else section.schedule
    settled: dict[str, Any] = {"name": name, "schedule": schedule}
    for key, value in {
        "momentum": defaults.momentum,
        "weight_decay": defaults.weight_decay,
        "warmup": WARMUP[schedule],
        "min_lr": MIN_LR[schedule],
    }.items():
        if getattr(section, key) == "auto":
            settled[key] = value
    training = recipe.training
    if training.clip == "auto":
        training = training.model_copy(update={"clip": None if name == "sgd" else CLIP})
    return recipe.model_copy(update={"optimizer": section.model_copy(update=settled), "training": training})


def settle_average(recipe: Recipe, steps: int) -> Recipe:
    """The recipe with `training.ema` decided: an average over the last twentieth of the run's steps."""
    if recipe.training.ema != "auto":
        return recipe
    decay = 1 - 1 / max(2.0, steps / 20)
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"ema": decay})})


def is_convolutional(trunk: nn.Module) -> bool:
    """Whether most weights of a trunk are convolutions', as in a ResNet; in a ViT or a ConvNeXt they are matrices."""
    shares = [0, 0]
    for parameter in trunk.parameters():
        if parameter.ndim > 1:
            shares[parameter.ndim > 2] += parameter.numel()
    return shares[1] > shares[0]


def orthogonal_share(trunk: Body, rows: int) -> float:
    """Floating point operations of Muon's orthogonal steps, as a share of those of forward and backward."""
    image = torch.zeros(1, 3, *trunk.inputs.size, device=trunk.preprocess.mean.device)
    steps = 0
    for parameter in hidden_matrices(trunk):
        short, long = sorted((parameter.shape[0], parameter[0].numel()))
        steps += 5 * (4 * short * short * long + 2 * short**3)  # of Newton and Schulz
    return steps / max(1, 3 * flops_of(trunk, image) * rows)


def hidden_matrices(trunk: Body) -> list[nn.Parameter]:
    """Matrices and convolutions that train inside a trunk. Orthogonal steps do not suit those that take pixels, nor
    what a network wants undecayed, such as tables of positions, and would undo units between networks, which begin
    diagonal."""
    others = {id(parameter) for parameter in (*trunk.take_pixels(), *trunk.units())}
    undecayed = set(trunk.undecayed())
    return [
        parameter
        for name, parameter in trunk.named_parameters()
        if parameter.ndim > 1
        and parameter.requires_grad
        and id(parameter) not in others
        and name not in undecayed
    ]


def first_guess(recipe: Recipe, trunk: nn.Module) -> float:
    """The rate that a run takes without a search: by optimizer, trunk, rows, and whether the weights are trained.

    Rates grow in proportion to the rows for SGD (Goyal et al. 2017), and with their square root for Adam and Muon
    (Malladi et al. 2022), up to a bound.
    """
    defaults = DEFAULTS[recipe.optimizer.name]
    lr = defaults.lr * (recipe.training.batch_size / ROWS) ** defaults.exponent
    trained = 1.0 if recipe.student.init == "random" else FINE_TUNING
    return min(lr, defaults.most) * trained * (1.0 if is_convolutional(trunk) else FOR_MATRICES)


def build_optimizer(objective: Objective, section: OptimizerSection) -> Optimizer:
    """One optimizer for student, loss terms and the balancing rule.

    Norms, biases and whatever timm's trunk lists in `no_weight_decay()` are not decayed; adapters have
    their own rate; a rule's parameters (log variances, task weights) are never decayed. Every group
    carries its `peak`, a share of the highest rate or a rate of its own, which `set_rate` scales.

    Args:
        objective: whose parameters step.
        section: settled, but for a rate that is `auto`.
    """
    undecayed = [f"trunk.{name}" for name in objective.student.trunk.undecayed()]
    decay = section.weight_decay
    assert decay != "auto"
    assert section.momentum != "auto"
    groups: list[dict[str, Any]] = []
    for module, kept in ((objective.student, undecayed), (objective.terms, [])):
        for group in param_groups_weight_decay(module, decay, no_weight_decay_list=kept):
            groups.append({**group, "adapters": module is objective.terms})
    groups.append({"params": list(objective.rule.parameters()), "weight_decay": 0.0, "adapters": False})
    units = {id(parameter) for parameter in objective.student.trunk.units()}
    factor = UNITS_WITH_SGD if section.name == "sgd" else 1.0
    groups = [
        {**group, "params": mine, **({"factor": factor} if of_units else {})}
        for group in groups
        for of_units in (False, True)
        if (mine := [p for p in group["params"] if (id(p) in units) == of_units])
    ]
    on_cpu = next(objective.parameters()).device.type == "cpu"
    fused = True if on_cpu else None  # there one kernel for each tensor; elsewhere PyTorch's own choice
    if section.name == "sgd":
        return SGD(groups, lr=0.0, momentum=section.momentum, nesterov=section.momentum > 0, fused=fused)
    if section.name == "muon":
        parted = _muon_groups(groups, objective)
        return Muon(parted, lr=0.0, momentum=section.momentum, betas=section.betas)
    return AdamW(groups, lr=0.0, betas=section.betas, fused=fused)


def _muon_groups(groups: list[dict[str, Any]], objective: Objective) -> list[dict[str, Any]]:
    """Each group parted into the hidden matrices of the trunk, which Muon steps, and the rest, for AdamW."""
    hidden = {id(parameter) for parameter in hidden_matrices(objective.student.trunk)}
    parted = []
    for group in groups:
        for fallback in (False, True):
            mine = [p for p in group["params"] if (id(p) not in hidden) == fallback]
            if mine:
                parted.append({**group, "params": mine, "use_fallback": fallback})
    return parted


def set_rate(optimizer: Optimizer, lr: float, adapter_lr: float | None = None) -> None:
    """Give every group the rate `lr`, times its factor; adapters their own where they have one."""
    for group in optimizer.param_groups:
        rate = adapter_lr if adapter_lr is not None and group["adapters"] else lr
        group["lr"] = rate * group.get("factor", 1.0)


def rate_factor(step: int, steps: int, section: OptimizerSection) -> float:
    """Share of the highest rate at `step` of `steps`: a rise, then half a cosine down to `min_lr`.

    `one_cycle` rises along half a cosine too. A pure function of the step, so that a resumed run needs no state to
    go on exactly.
    """
    assert section.warmup != "auto"
    assert section.min_lr != "auto"
    warm = round(section.warmup * steps)
    if step < warm:
        if section.schedule == "one_cycle":
            return START + (1 - START) * _eased(step / warm)
        return (step + 1) / (warm + 1)
    progress = (step - warm) / max(1, steps - warm)
    return section.min_lr + (1 - section.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def _eased(progress: float) -> float:
    """0 to 1 along half a cosine."""
    return 0.5 * (1 - math.cos(math.pi * progress))
