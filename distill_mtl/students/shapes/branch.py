"""A trunk in parts: the first stages of a network serve all tasks, later ones some of them, each with its own weights.

Every part is cut from one network of the family and keeps its names, so that the path of any task is a plain network of
the architecture again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from distill_mtl.balance import Shared, Tree
from distill_mtl.errors import UserError, nearest
from distill_mtl.networks.backbone import LOGITS, POOLED
from distill_mtl.networks.stages import Chain, State, find_chain, tensors_in, with_each_tensor
from distill_mtl.recipe.branches import Branches, mistakes_of_groups
from distill_mtl.students.owners import Node, SettledBranches, in_words, nodes_of, only, settle
from distill_mtl.students.shape import SHAPES, Shape
from distill_mtl.students.student import FAMILIES, Body, Computation, Trunk


class SplitNetwork(nn.ModuleDict):
    """The parts of a network by the name of their node.

    Args:
        model: the whole network; every node begins with its weights.
        chain: its steps.
        nodes: parents before children.
        stages: names of its stages that can be read.
    """

    def __init__(self, model: Any, chain: Chain, nodes: Sequence[Node], stages: Sequence[str]) -> None:
        super().__init__({node.name: chain.cut(model, node.start, node.stop) for node in nodes})
        self.chain, self.nodes, self.stages = chain, tuple(nodes), tuple(stages)
        # What `Backbone` asks of a timm network to read its features.
        self.num_prefix_tokens = getattr(model, "num_prefix_tokens", 0)
        self.output_fmt = getattr(model, "output_fmt", "NCHW")
        self.in_place: frozenset[str] = frozenset()

    def advance(self, node: Node, state: State) -> State:
        """What a node makes of its parent's state, or of normalised pixels."""
        if node.name in self.in_place:
            state = with_each_tensor(torch.clone, state)
        return self.chain.run(self[node.name], state, node.start, node.stop)

    def walk(self, pixels: Tensor) -> Iterator[tuple[Node, State]]:
        """Every node and what it gives, parents before children."""
        states: dict[str | None, State] = {None: pixels}
        for node in self.nodes:
            states[node.name] = self.advance(node, states[node.parent])
            yield node, states[node.name]

    @torch.no_grad()
    def find_in_place(self, pixels: Tensor) -> None:
        """Find the nodes that write into what they are given: others read it too, so they get a copy."""
        states: dict[str | None, State] = {None: pixels}
        for node in self.nodes:
            given = states[node.parent]
            before = [tensor._version for tensor in tensors_in(given)]
            states[node.name] = self.advance(node, given)
            if before != [tensor._version for tensor in tensors_in(given)]:
                self.in_place |= {node.name}


@SHAPES.register("branch")
class SplitTrunk(Shape):
    """A body whose tasks part at some stages.

    Features have the names `NODE.LAYER`, and `of` gives those on a task's path by layer.

    Args:
        whole: a trunk of the family; every part begins with its weights.
        branches: where tasks part, in any form of `student.branch`.
        tasks: names of all tasks.
        chain: of the trunk's network, where it is known.

    Attributes:
        branches: where tasks part.

    Raises:
        UserError: the network cannot be cut, has no such stage, or the branches contradict one another.
    """

    model: SplitNetwork
    form = SettledBranches

    def __init__(
        self, whole: Trunk, branches: Branches, tasks: Sequence[str], chain: Chain | None = None
    ) -> None:
        whole.tap(())
        black = whole.preprocess(torch.zeros(1, 3, *whole.inputs.size))
        chain = chain or find_chain(whole.model, whole.inputs.size, black.shape[1], whole.name)
        self.branches: SettledBranches = settle(branches, tasks, chain.position)
        self.tasks = tuple(tasks)
        nodes = nodes_of(self.branches, tasks, chain.position, len(chain))
        network = SplitNetwork(whole.model, chain, nodes, whole.stages)
        network.eval().find_in_place(black)
        self.family = whole.family
        self._layers: tuple[str, ...] = ()
        self._paths: dict[str, dict[str, str]] = {}
        super().__init__(network.train(whole.training), whole.inputs, whole.name, whole.args)

    @classmethod
    def of_trunk(cls, whole: Trunk, said: Branches, tasks: Sequence[str]) -> "SplitTrunk":
        return cls(whole, said, tasks)

    @classmethod
    def mistakes(cls, said: SettledBranches, tasks: Sequence[str]) -> list[str]:
        return [
            f"{stage}: {text}" for stage, groups in said.items() for text in mistakes_of_groups(groups, tasks)
        ]

    @classmethod
    def inherited(
        cls, said: SettledBranches, old: Sequence[str], tasks: Sequence[str]
    ) -> SettledBranches | None:
        if new := [task for task in tasks if task not in old]:
            raise UserError(
                f"its tasks part in the trunk ({in_words(said)}), and {', '.join(new)} has no place there. Write a "
                "`branch` with all tasks."
            )
        return only(said, tasks) or None

    @property
    def layout(self) -> dict[str, Any]:
        return {"branch": self.branches}

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Parents before children."""
        return self.model.nodes

    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        return {node.name: node.tasks for node in self.nodes}

    @property
    def tapped(self) -> tuple[str, ...]:
        return self._layers

    def tap(self, returns: Any) -> None:
        self._layers = tuple(dict.fromkeys(returns))
        places = {layer: self._nodes_with(layer) for layer in self._layers}
        self._paths = {
            task: {
                layer: f"{node.name}.{layer}"
                for layer, nodes in places.items()
                for node in nodes
                if task in node.tasks
            }
            for task in self.tasks
        }
        super().tap(dict.fromkeys(name for path in self._paths.values() for name in path.values()))

    def computations(self, images: Tensor) -> Iterator[tuple[Node, Callable[[Any], dict[str, Tensor]], Any]]:
        """What a forward pass computes, node by node, for those who cut between them.

        Args:
            images: float [B, 3, H, W] in [0, 1].

        Yields:
            A node; a function from what it takes to its features by layer, and to what its children need besides; and
            what it takes, None for a node that takes (a copy of) what this function gave for its parent.
        """
        states = _States()
        pixels = self.preprocess(images).contiguous(memory_format=torch.channels_last)
        for node in self.nodes:
            yield node, partial(self._compute, node, states), pixels if node.parent is None else None

    @property
    def compares(self) -> bool:
        return any(len(node.tasks) > 1 for node in self.nodes)

    def cut(self, images: Tensor, tasks: Sequence[str]) -> Shared | Tree:
        tree = Tree(tasks)
        for node, compute, inputs in self.computations(images):
            tree.add(node.name, node.tasks, compute, parent=node.parent, inputs=inputs)
        return tree

    def beyond_cut(self) -> list[nn.Parameter]:
        alone = (node.name for node in self.nodes if len(node.tasks) == 1)
        return [parameter for name in alone for parameter in self.owned(name).values()]

    def computed(self, images: Tensor) -> list[Computation]:
        pixels = self.preprocess(images)
        states: dict[str | None, State] = {None: pixels}
        states |= {node.name: state for node, state in self.model.walk(pixels)}
        self._taps.read()
        names = self.model.chain.names
        return [
            Computation(
                *(node.name, node.tasks, node.parent, names[node.start]),
                run=partial(self.model.advance, node, states[node.parent]),
            )
            for node in self.nodes
        ]

    def of(self, task: str, features: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {layer: features[name] for layer, name in self._paths[task].items()}

    def layer_of(self, name: str) -> str:
        return name.partition(".")[2]

    def only(self, tasks: Sequence[str]) -> Body:
        tasks = [task for task in self.tasks if task in tasks]
        if len(tasks) == len(self.tasks):
            return self
        whole = FAMILIES[self.family].restore(self.describe_whole())
        device = self.preprocess.mean.device
        whole.model.load_state_dict(self.path_state(tasks[0]))
        left = only(self.branches, tasks)
        if not left:
            return whole.to(device).train(self.training)
        part = SplitTrunk(whole, left, tasks, self.model.chain)
        for node in part.nodes:
            state, own = self.path_state(node.tasks[0]), part.model[node.name]
            own.load_state_dict({key: state[key] for key in own.state_dict()})
        return part.to(device).train(self.training)

    def undecayed(self) -> list[str]:
        return [
            f"model.{node.name}.{name}"
            for node in self.nodes
            for name in getattr(self.model[node.name], "no_weight_decay", set)()
        ]

    def layer_names(self) -> list[str]:
        names = (layer for part in self.model.values() for layer, _ in part.named_modules() if layer)
        return [POOLED, *dict.fromkeys(names)]

    def _find_stages(self) -> None:
        self.stages = self.model.stages
        self.tap((POOLED, *self.stages))

    def _nodes_with(self, layer: str) -> list[Node]:
        """The nodes in which a layer runs, one on every task's path."""
        end = len(self.model.chain)
        if layer not in (POOLED, LOGITS):
            names = self.layer_names()
            if layer.partition("[")[0] not in names:
                raise UserError(f"there is no layer '{layer}'.{nearest(layer, names)}")
            end = self.model.chain.end_of(layer) or end
        return [node for node in self.nodes if node.start < end <= node.stop]

    def _run(self, pixels: Tensor) -> dict[str, Tensor]:
        ends: dict[str, Tensor] = {}
        for node, state in self.model.walk(pixels.contiguous(memory_format=torch.channels_last)):
            ends |= self._end(node, state)
        return ends

    def _end(self, node: Node, state: State) -> dict[str, Tensor]:
        """The pooled vector of a node that ends the network."""
        name = f"{node.name}.{POOLED}"
        # A layer of the head may be tapped too.
        if node.stop < len(self.model.chain) or (self.ends_with_features and name not in self.returns):
            return {}
        part: Any = self.model[node.name]
        return {name: part.forward_head(state, pre_logits=True)}

    def _compute(self, node: Node, states: "_States", given: Any) -> dict[str, Tensor]:
        """The features of one node by layer, and the tensors that its children take.

        Args:
            node: to compute.
            states: of the nodes before it; the node's own is added.
            given: pixels, or a copy of what this gave for the parent.
        """
        state = self.model.advance(node, given if node.parent is None else states.of(node.parent, given))
        raw = self._end(node, state) | self._taps.read()
        own = [name for name in self.returns if name in raw and name.startswith(f"{node.name}.")]
        features = {self.layer_of(name): self._layouts[name](raw[name]) for name in own}
        if node.stop < len(self.model.chain):
            features |= states.hand_on(node.name, state, features)
        return features


class _States:
    """The forms in which nodes hand on their states, and where in their features the tensors are."""

    def __init__(self) -> None:
        self._forms: dict[str, tuple[State, list[str]]] = {}

    def hand_on(self, node: str, state: State, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a child needs besides these features, which may be the state already."""
        places: list[str] = []
        more: dict[str, Tensor] = {}
        for number, tensor in enumerate(tensors_in(state)):
            same = next((name for name, feature in features.items() if feature is tensor), None)
            places.append(same or f"{node}:{number}")
            more |= {} if same else {places[-1]: tensor}
        self._forms[node] = with_each_tensor(torch.Tensor.detach, state), places
        return more

    def of(self, node: str, features: Mapping[str, Tensor]) -> State:
        """The state of a node, made of copies of its features."""
        form, places = self._forms[node]
        left = iter(places)
        return with_each_tensor(lambda _: features[next(left)], form)
