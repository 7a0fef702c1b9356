"""A shared trunk of two layers with three heads, for the tests of balancing rules."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from distill_mtl.balance import Rule, Shared, make_rule

TASKS = ("left", "right", "part")
RULES: dict[str, dict[str, object]] = {
    "uniform": {},
    "fixed": {"weights": {"left": 1.0, "right": 0.5, "part": 2.0}},
    "mgda": {},
    "mgda_ub": {},
    "gradnorm": {},
    "uncertainty": {"likelihoods": {"part": "gaussian"}},
    "geometric": {},
    "torchjd:UPGrad": {},
}


def rule_for(name: str, tasks: Sequence[str] = TASKS) -> Rule:
    return make_rule(name, tasks, **RULES[name])


class Toy(nn.Module):
    """The middle layer is a second shared feature (a hint layer), read by every head."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Sequential(nn.Linear(6, 10), nn.Tanh())
        self.second = nn.Sequential(nn.Linear(10, 8), nn.Tanh())
        self.heads = nn.ModuleDict({task: nn.Linear(18, 4) for task in TASKS})

    def features(self, rows: Tensor) -> dict[str, Tensor]:
        middle = self.first(rows)
        return {"middle": middle, "last": self.second(middle)}

    def loss(self, task: str, features: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        logits = self.heads[task](torch.cat([features["middle"], features["last"]], 1))
        # Unlike scales, as cross-entropy beside a feature loss has them.
        return cross_entropy(logits, labels) * {"left": 1.0, "right": 30.0, "part": 0.02}[task]

    def trunk_parameters(self) -> list[nn.Parameter]:
        return [*self.first.parameters(), *self.second.parameters()]


def rows_and_labels(seed: int = 1, count: int = 12) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    labels = {task: torch.randint(4, (count,), generator=generator) for task in TASKS}
    return torch.randn(count, 6, generator=generator), labels


def run(
    net: Toy, rule: Rule, seed: int = 1, tasks: Sequence[str] = TASKS, factor: float = 1.0
) -> dict[str, float]:
    """One backward pass of `rule`; its gradients are added to `.grad`."""
    rows, labels = rows_and_labels(seed)
    shared = Shared(net.features(rows), TASKS)
    losses = {task: net.loss(task, shared[task], labels[task]) for task in tasks}
    return rule.backward(losses, shared, lambda loss: (loss * factor).backward())


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def task_gradients(net: Toy, at: Sequence[Tensor], seed: int = 1) -> dict[str, list[Tensor]]:
    """Each task's gradient at the named leaves, by a forward and a backward pass of its own."""
    rows, labels = rows_and_labels(seed)
    return {
        task: list(torch.autograd.grad(net.loss(task, net.features(rows), labels[task]), at))
        for task in TASKS
    }


def feature_gradients(net: Toy, seed: int = 1) -> dict[str, Tensor]:
    """Each task's gradient at both features as one vector: the first of the two passes of Sener & Koltun."""
    rows, labels = rows_and_labels(seed)
    found = {}
    for task in TASKS:
        cut = {name: f.detach().requires_grad_() for name, f in net.features(rows).items()}
        net.loss(task, cut, labels[task]).backward(inputs=list(cut.values()))
        found[task] = torch.cat([f.grad.flatten() for f in cut.values()]).double()
    return found
