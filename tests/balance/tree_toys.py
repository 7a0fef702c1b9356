"""Three trees of small convolutional nodes, each as a `Tree` and as one graph without cuts."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from distill_mtl.balance import Rule, Tree
from distill_mtl.balance.gramian import gramian

Shape = list[tuple[str, str | None, str]]
"""Node, its parent, and the tasks that run through it, one letter each."""

TREES: dict[str, Shape] = {
    "two branches, one of which branches again": [
        ("root", None, "abcde"),
        ("A", "root", "ab"),
        ("B", "root", "cde"),
        ("C", "B", "de"),
    ],
    "every task leaves at once, one of them twice": [
        ("root", None, "abc"),
        ("a", "root", "a"),
        ("b", "root", "b"),
        ("b2", "b", "b"),
    ],
    "two inputs, a common node behind one of them": [
        ("first", None, "ab"),
        ("second", None, "cde"),
        ("own", "second", "c"),
        ("both", "second", "de"),
        ("last", "both", "e"),
    ],
}
SIZES = {"a": 1.0, "b": 3.0, "c": 1.0, "d": 0.2, "e": 5.0}
WIDTH, CLASSES = 8, 5


def node(channels: int) -> nn.ModuleList:
    """Two layers. Tasks and children may read what either computes."""
    return nn.ModuleList(
        nn.Sequential(nn.Conv2d(i, WIDTH, 3, padding=1, bias=False), nn.GroupNorm(2, WIDTH), nn.ReLU())
        for i in (channels, WIDTH)
    )


class Net(nn.Module):
    """Task b and task e also read the first layer of every node on their path."""

    def __init__(self, shape: Shape, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.shape = shape
        self.tasks = tuple(sorted({task for _, _, tasks in shape for task in tasks}))
        self.nodes = nn.ModuleDict({name: node(WIDTH if parent else 3) for name, parent, _ in shape})
        reads = {t: len(self.path(t)) for t in self.tasks}
        self.heads = nn.ModuleDict(
            {t: nn.Linear(WIDTH * (2 * reads[t] if t in "be" else 1), CLASSES) for t in self.tasks}
        )

    def path(self, task: str) -> list[str]:
        return [name for name, _, tasks in self.shape if task in tasks]

    def compute(self, name: str, inputs: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        images = inputs if isinstance(inputs, Tensor) else list(inputs.values())[-1]
        middle = self.nodes[name][0](images)
        return {f"{name}.middle": middle, f"{name}.last": self.nodes[name][1](middle)}

    def tree(self, images: Tensor) -> Tree:
        tree = Tree(self.tasks)
        for name, parent, tasks in self.shape:
            tree.add(
                name,
                list(tasks),
                lambda inputs, name=name: self.compute(name, inputs),
                parent=parent,
                inputs=None if parent else images,
            )
        return tree

    def uncut(self, images: Tensor) -> dict[str, dict[str, Tensor]]:
        """Node -> its features, as others read them: the second layer itself does not read the first one's view."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, parent, _ in self.shape:
            computed = self.compute(name, found[parent] if parent else images)
            found[name] = {key: feature.view_as(feature) for key, feature in computed.items()}
        return found

    def loss(self, task: str, features: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        read = list(features.values()) if task in "be" else list(features.values())[-1:]
        logits = self.heads[task](torch.cat([feature.mean((2, 3)) for feature in read], 1))
        return cross_entropy(logits, labels) * SIZES[task]

    def inner(self) -> dict[str, str]:
        """The nodes of several tasks, and these."""
        return {name: tasks for name, _, tasks in self.shape if len(tasks) > 1}


def rows_and_labels(seed: int = 1, count: int = 8) -> tuple[Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 10, 10, generator=generator)
    return images, {t: torch.randint(CLASSES, (count,), generator=generator) for t in "abcde"}


def run(net: Net, rule: Rule, tasks: Sequence[str] | None = None, factor: float = 1.0) -> dict[str, float]:
    """One backward pass of `rule` on the tree; its gradients are added to `.grad`."""
    images, labels = rows_and_labels()
    tree = net.tree(images)
    losses = {t: net.loss(t, tree[t], labels[t]) for t in (net.tasks if tasks is None else tasks)}
    return rule.backward(losses, tree, lambda loss: (loss * factor).backward())


def task_gradients(net: Net) -> dict[str, dict[str, list[Tensor]]]:
    """Node -> task -> the task's gradient at the node's features, on the graph without cuts."""
    images, labels = rows_and_labels()
    features = net.uncut(images)
    losses = {t: net.loss(t, merged(net, features, t), labels[t]) for t in net.tasks}
    return {
        name: {
            t: list(
                torch.autograd.grad(
                    losses[t], list(features[name].values()), retain_graph=True, allow_unused=True
                )
            )
            for t in tasks
        }
        for name, tasks in net.inner().items()
    }


def merged(net: Net, features: Mapping[str, Mapping[str, Tensor]], task: str) -> dict[str, Tensor]:
    return {key: value for name in net.path(task) for key, value in features[name].items()}


def brute_gramians(net: Net) -> dict[str, Tensor]:
    return {name: gramian(list(of.values())) for name, of in task_gradients(net).items()}


def brute_gradients(net: Net, weights: Mapping[str, Mapping[str, float]]) -> dict[str, Tensor]:
    """Every parameter's gradient where each node takes its weighted sum, each from a backward pass of its own."""
    images, labels = rows_and_labels()
    features = net.uncut(images)
    total = torch.stack([net.loss(t, merged(net, features, t), labels[t]) for t in net.tasks]).sum()
    named = dict(net.named_parameters())
    own = {n: p for n, p in named.items() if n.partition(".")[2].partition(".")[0] not in net.inner()}
    found = dict(zip(own, torch.autograd.grad(total, list(own.values()), retain_graph=True), strict=True))
    at_nodes = task_gradients(net)
    for name, chosen in weights.items():
        outputs = list(features[name].values())
        mixtures = []
        for k, feature in enumerate(outputs):
            mixture = torch.zeros_like(feature)
            for task, weight in chosen.items():
                if at_nodes[name][task][k] is not None:
                    mixture.add_(at_nodes[name][task][k], alpha=weight)
            mixtures.append(mixture)
        mine = {n: p for n, p in named.items() if n.startswith(f"nodes.{name}.")}
        gradients = torch.autograd.grad(outputs, list(mine.values()), mixtures, retain_graph=True)
        found.update(zip(mine, gradients, strict=True))
    return found


def by_node(weights: Mapping[str, float]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for key, weight in weights.items():
        name, _, task = key.partition("/")
        found.setdefault(name, {})[task] = weight
    return found
