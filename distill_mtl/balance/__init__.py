"""Balancing: combine T losses into one step. The trunk gets a mixture of the tasks' gradients, each head its own.

Works in any training loop and imports nothing else of distill_mtl:

>>> import torch
>>> from torch import nn
>>> from distill_mtl.balance import MGDAUB, Shared
>>> trunk, heads = nn.Linear(4, 8), nn.ModuleDict({"digit": nn.Linear(8, 3), "colour": nn.Linear(8, 2)})
>>> optimizer = torch.optim.SGD([*trunk.parameters(), *heads.parameters()], lr=0.1)
>>> images, tasks = torch.randn(16, 4), ["digit", "colour"]
>>> labels = {"digit": torch.randint(3, (16,)), "colour": torch.randint(2, (16,))}

>>> shared = Shared(trunk(images), tasks)
>>> losses = {t: nn.functional.cross_entropy(heads[t](shared[t]), labels[t]) for t in tasks}
>>> weights = MGDAUB().backward(losses, shared)     # backward=accelerator.backward under Accelerate
>>> optimizer.step()

>>> sorted(weights)
['colour', 'digit']
"""

from distill_mtl.balance.gradnorm import GradNorm
from distill_mtl.balance.gramian_rule import Weighting
from distill_mtl.balance.loss_rule import Fixed, Uniform
from distill_mtl.balance.mgda import MGDA, MGDAUB
from distill_mtl.balance.min_norm import MinNorm, solve
from distill_mtl.balance.rule import Diagnostics, Rule, make_rule, register, rule_class, rule_names
from distill_mtl.balance.shared import Shared
from distill_mtl.balance.torchjd_rule import TorchJD
from distill_mtl.balance.tree import Tree
from distill_mtl.balance.uncertainty import Geometric, Uncertainty

__all__ = [
    "MGDA",
    "MGDAUB",
    "Diagnostics",
    "Fixed",
    "Geometric",
    "GradNorm",
    "MinNorm",
    "Rule",
    "Shared",
    "TorchJD",
    "Tree",
    "Uncertainty",
    "Uniform",
    "Weighting",
    "make_rule",
    "register",
    "rule_class",
    "rule_names",
    "solve",
]
