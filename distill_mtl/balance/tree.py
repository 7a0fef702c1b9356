"""The cuts of a tree of nodes, on which some tasks leave the body earlier than others.

A node that several tasks run through is a problem of its own: its gradient is mixed from each of these tasks' own,
unweighted gradients there, so that what one node chooses does not depend on what another does (survey 1.4; Sener &
Koltun 2018, section 3.3, node by node). One forward pass, and one sweep from the last nodes to the first.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill_mtl.balance.gramian import over_processes
from distill_mtl.balance.shared import Features, Shared

ByNode = dict[str, dict[str, float]]
"""Node -> task -> weight."""


class Tree:
    """The features of a tree of nodes, and each task's gradient at every node.

    A node reads a copy of its parent's features, as a head does, so that the graphs of two nodes have nothing in
    common. A node of one task is part of that task's head: nobody weighs its gradient, and it needs no pass of its
    own. Several nodes may have no parent.

    Args:
        tasks: names of all tasks, in the same order on every process.
        common: parameters with which nodes of one task compute, and which several of these have in common.

    Attributes:
        tasks, common: as given.
        nodes: the cut behind every node of two tasks or more, by the node's name, parents before children.

    >>> from torch import nn
    >>> body, branch, own = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 8)
    >>> tree = Tree(["a", "b", "c"])
    >>> tree.add("root", ["a", "b", "c"], body, inputs=torch.randn(2, 4))
    >>> tree.add("left", ["a", "b"], branch, parent="root")
    >>> tree.add("right", ["c"], own, parent="root")
    >>> list(tree["a"]), list(tree["c"]), list(tree.nodes)
    (['root', 'left'], ['root', 'right'], ['root', 'left'])
    """

    def __init__(self, tasks: Sequence[str], common: Sequence[nn.Parameter] = ()) -> None:
        self.tasks, self.common = tuple(tasks), tuple(common)
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"task names must differ, got {list(self.tasks)}")
        self.nodes: dict[str, Shared] = {}
        self._parents: dict[str, str | None] = {}
        self._serves: dict[str, tuple[str, ...]] = {}
        self._alone: dict[str, Features] = {}
        self._inputs: dict[str, list[Tensor]] = {}
        self._split = False

    @classmethod
    def of(cls, shared: "Shared | Tree") -> "Tree":
        """A plain trunk's cut as the tree of one node without a name; a tree as it is."""
        if isinstance(shared, Tree):
            return shared
        tree = cls(shared.tasks)
        tree.nodes, tree._parents, tree._serves = {"": shared}, {"": None}, {"": shared.tasks}
        return tree

    def add(
        self,
        name: str,
        tasks: Sequence[str],
        compute: Callable[[Any], Features],
        *,
        parent: str | None = None,
        inputs: Any = None,
    ) -> None:
        """Compute one node.

        Args:
            name: of the node.
            tasks: those that run through it; fewer than run through its parent.
            compute: from the parent's features, in the form that the parent gave them, to the node's: one tensor,
                or several by name or in order. A tensor without a name is known by the node's.
            parent: the node that it reads; None for one that computes from `inputs`.
            inputs: what a node without a parent computes from.

        Raises:
            ValueError: a name that is taken, no task, a task that does not run through the parent or already runs
                through another child of it, or all tasks of the parent (then the two are one node).
        """
        served = tuple(task for task in self.tasks if task in tasks)
        self._check(name, tasks, served, parent)
        self._parents[name], self._serves[name] = parent, served
        if parent is not None:
            inputs = self._alone[parent] if parent in self._alone else self._read(name, parent, served)
        features = compute(inputs)
        if len(served) == 1:
            self._alone[name] = features
            return
        node = Shared(features, served)
        if self.nodes:
            node.unit = self._unit
        self.nodes[name] = node

    def __getitem__(self, task: str) -> dict[str, Tensor]:
        """The features on the task's path by name, the first node's first; its own copies, as `Shared` gives them.

        Raises:
            ValueError: two features of the path have one name.
        """
        if task not in self.tasks:
            raise KeyError(f"'{task}' is none of the tasks {list(self.tasks)}")
        found: dict[str, Tensor] = {}
        for name, served in self._serves.items():
            if task not in served:
                continue
            features = self._alone[name] if name in self._alone else self.nodes[name][task]
            named = _by_name(features, name)
            twice = sorted(set(found) & set(named))
            if twice:
                raise ValueError(f"two nodes on the path of '{task}' have a feature named '{twice[0]}'")
            found.update(named)
        return found

    @property
    def loss_scale(self) -> Tensor:
        """The factor (scalar) that `backward_heads`' callable put on the gradients, 1 before it ran."""
        return next(iter(self.nodes.values())).loss_scale

    def at(self, name: str, tasks: Iterable[str]) -> list[str]:
        """Those of `tasks` that run through the node, in the order of all tasks."""
        present = set(tasks)
        return [task for task in self._serves[name] if task in present]

    def leaves(self, name: str) -> list[Tensor]:
        """The parameters of one node, in an order that the graph alone decides."""
        read = {id(copy) for copy in self._inputs.get(name, ())}
        return [leaf for leaf in self.nodes[name].leaves() if id(leaf) not in read]

    def backward_heads(self, total: Tensor, backward: Callable[[Tensor], None]) -> None:
        """One backward from `total`, a sum over tasks, to the heads, the nodes of one task and all tasks' copies."""
        if self.nodes:
            next(iter(self.nodes.values())).backward_heads(total, backward)
        else:
            backward(total)

    def gramians(self, tasks: Sequence[str], *, split: bool = True) -> dict[str, Tensor]:
        """The Gramian of each node, over the tasks that run through it: inner products of their own gradients.

        Args:
            tasks: those that are present in the step.
            split: pass every task's own gradient on to the parents first, which costs one pass to the inputs alone
                for each task of each node that has a parent. Without it only nodes whose gradients are known
                without such passes have a Gramian.

        Returns:
            For each node with a present task float64 [t, t] on the CPU, equal on every process; one collective.

        Raises:
            ValueError: the processes do not agree on which tasks are present.
        """
        if split:
            self.pass_on(tasks)
        names = [name for name in self.nodes if self._is_known(name)]
        if not names:
            return {}
        at = [self.at(name, tasks) for name in names]
        local = [self.nodes[name].local_gramian(present) for name, present in zip(names, at, strict=True)]
        global_ = over_processes(
            local, [[self.tasks.index(task) for task in present] for present in at], self.tasks
        )
        return {name: products for name, products in zip(names, global_, strict=True) if len(products)}

    def backward(self, weights: Mapping[str, Mapping[str, float]]) -> None:
        """One backward through each node, children before parents, with the weighted sum of the tasks' gradients.

        A node without weights takes part without a gradient where several processes wait for each other. Where
        `gramians` did not split the gradients, a node's sum flows on to its parent as it does in a plain backward,
        and all weights have to be 1.
        """
        for name in reversed(self.nodes):
            chosen = weights.get(name, {})
            # Where every task's gradient has gone on to the parent, nothing reads the mixture's.
            beyond = self._split and name in self._inputs
            self.nodes[name].backward(chosen, self.leaves(name) if beyond else None)
            if not self._split and chosen:
                self._hand_on(name, next(iter(chosen)), [copy.grad for copy in self._inputs.get(name, ())])

    def pass_on(self, tasks: Sequence[str]) -> None:
        """Every task's own gradient from each node to its parent, children before parents."""
        if self._split:
            return
        self._split = True
        for name in reversed(self.nodes):
            inputs = self._inputs.get(name, ())
            read = [k for k, copy in enumerate(inputs) if copy.requires_grad]
            for task in self.at(name, tasks) if read else ():
                pairs = self.nodes[name].with_gradients(task)
                if not pairs:
                    continue
                found = torch.autograd.grad(
                    [feature for feature, _ in pairs],
                    [inputs[k] for k in read],
                    [gradient for _, gradient in pairs],
                    retain_graph=True,
                    allow_unused=True,
                )
                sent: list[Tensor | None] = [None] * len(inputs)
                for k, gradient in zip(read, found, strict=True):
                    sent[k] = gradient
                self._hand_on(name, task, sent)

    def _is_known(self, name: str) -> bool:
        """Whether the gradients at the node are those of all its readers; none passes on to where nothing trains."""
        feeds = name in self._parents_of_nodes
        return not feeds or (
            self._split and any(feature.requires_grad for feature in self.nodes[name].features)
        )

    @property
    def _parents_of_nodes(self) -> set[str | None]:
        return {self._parents[name] for name in self.nodes}

    def _hand_on(self, name: str, task: str, gradients: Sequence[Tensor | None]) -> None:
        parent = self._parents[name]
        if parent is not None:
            self.nodes[parent].add_gradients(task, gradients)

    def _read(self, name: str, parent: str, served: tuple[str, ...]) -> Any:
        """What a child computes from: its own copies, or for a child of one task those of that task's head."""
        node = self.nodes[parent]
        if len(served) == 1:
            return node[served[0]]
        self._inputs[name] = node.copies()
        return node.in_given_form(self._inputs[name])

    @property
    def _unit(self) -> Tensor:
        return next(iter(self.nodes.values())).unit

    def _check(self, name: str, tasks: Sequence[str], served: tuple[str, ...], parent: str | None) -> None:
        if name in self._serves:
            raise ValueError(f"the tree has two nodes named '{name}'")
        if parent is not None and parent not in self._serves:
            raise ValueError(f"node '{name}' reads '{parent}', which is not computed yet")
        allowed = self.tasks if parent is None else self._serves[parent]
        wrong = [task for task in tasks if task not in allowed]
        if wrong or not served:
            raise ValueError(
                f"node '{name}' has the tasks {list(tasks)}; it may have those of {list(allowed)}"
            )
        if parent is not None and len(served) > 1 and served == allowed:
            raise ValueError(f"nodes '{parent}' and '{name}' have the same tasks: compute them as one node")
        for other, present in self._serves.items():
            both = sorted(set(present) & set(served))
            if self._parents[other] == parent and other != name and both:
                raise ValueError(
                    f"task '{both[0]}' runs through '{other}' and '{name}', which have one parent"
                )


def _by_name(features: Any, name: str) -> dict[str, Tensor]:
    if isinstance(features, Tensor):
        return {name: features}
    if isinstance(features, Mapping):
        return dict(features)
    return {f"{name}.{k}": feature for k, feature in enumerate(features)}
