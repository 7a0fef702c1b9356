"""A trunk in parts, each run for some of the tasks: what trees, private parts and own encoders have in common.

Every part is cut from one network of the family and keeps its names, so that the path of any task is a plain network of
the architecture again. Parts may share parameters; statistics of normalisation are always a part's own.
"""

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from distill_mtl.errors import UserError, nearest
from distill_mtl.networks.backbone import LOGITS, POOLED
from distill_mtl.networks.stages import Chain, State, tensors_in, with_each_tensor
from distill_mtl.students.owners import Node
from distill_mtl.students.shape import Shape
from distill_mtl.students.student import FAMILIES, Body, Computation, Trunk

if TYPE_CHECKING:
    from distill_mtl.balance import Shared, Tree


class PartNetwork(nn.ModuleDict):
    """The parts of a network by name. A parameter of several parts is in its state dict once, where it comes first.

    Args:
        parts: what each computes with; one that no node has the name of holds parameters for the others.
        model: the whole network.
        chain: its steps.
        nodes: what is computed, by parts of the same names, parents before children.
        stages: names of its stages that can be read.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        model: Any,
        chain: Chain,
        nodes: Sequence[Node],
        stages: Sequence[str],
    ) -> None:
        for name in parts:
            if hasattr(nn.ModuleDict, name) or name in vars(nn.ModuleDict()):
                raise UserError(f"PyTorch keeps the name '{name}' for itself. Use another one.")
        super().__init__(dict(parts))
        self.chain, self.nodes, self.stages = chain, tuple(nodes), tuple(stages)
        # What `Backbone` asks of a timm network to read its features.
        self.num_prefix_tokens = getattr(model, "num_prefix_tokens", 0)
        self.output_fmt = getattr(model, "output_fmt", "NCHW")
        self.in_place: frozenset[str] = frozenset()
        self._aliases: dict[str, str] = {}
        seen: dict[int, str] = {}
        for name, parameter in self.named_parameters(remove_duplicate=False):
            first = seen.setdefault(id(parameter), name)
            if first.partition(".")[0] != name.partition(".")[0]:
                self._aliases[name] = first

    def state_dict(self, *args: Any, prefix: str = "", **keys: Any) -> Any:
        """As PyTorch's, without further names of a parameter."""
        state = super().state_dict(*args, prefix=prefix, **keys)
        for name in self._aliases:
            state.pop(prefix + name, None)
        return state

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for name, first in self._aliases.items():
            if prefix + first in state_dict:
                state_dict[prefix + name] = state_dict[prefix + first]
        super()._load_from_state_dict(state_dict, prefix, *args)

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


class PartedTrunk(Shape):
    """A body in parts.

    Features have the names `NODE.LAYER`.

    Args:
        whole: the trunk that the parts were cut from.
        network: the parts.
        tasks: names of all tasks.
        said: the settled form of what the recipe says of the shape.
    """

    model: PartNetwork

    def __init__(self, whole: Trunk, network: PartNetwork, tasks: Sequence[str], said: Any) -> None:
        self.said, self.tasks, self.family = said, tuple(tasks), whole.family
        self.ends = whole.classifier()
        network.eval().find_in_place(whole.preprocess(torch.zeros(1, 3, *whole.inputs.size)))
        super().__init__(network.train(whole.training), whole.inputs, whole.name, whole.args)

    @classmethod
    @abstractmethod
    def of_trunk(cls, whole: Trunk, said: Any, tasks: Sequence[str], chain: Chain | None = None) -> Self:
        """As `Shape.of_trunk`; `chain` of the trunk's network, where it is known."""

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Parents before children."""
        return self.model.nodes

    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """Those that hold parameters for others first."""
        computed = {node.name: node.tasks for node in self.nodes}
        return {name: computed.get(name, self.tasks) for name in self.model}

    def names_of(self, layer: str) -> Mapping[str, str]:
        return {task: f"{node.name}.{layer}" for node in self._nodes_with(layer) for task in node.tasks}

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

    def cut(self, images: Tensor, tasks: Sequence[str]) -> "Shared | Tree":
        from distill_mtl.balance import Tree  # a deployed student needs none of it

        tree = Tree(tasks, self.in_common())
        for node, compute, inputs in self.computations(images):
            tree.add(node.name, node.tasks, compute, parent=node.parent, inputs=inputs)
        return tree

    def beyond_cut(self) -> list[nn.Parameter]:
        alone = (self.model[node.name] for node in self.nodes if len(node.tasks) == 1)
        return [*{id(parameter): parameter for module in alone for parameter in module.parameters()}.values()]

    def computed(self, images: Tensor) -> list[Computation]:
        pixels = self.preprocess(images)
        states: dict[str | None, State] = {None: pixels}
        states |= {node.name: state for node, state in self.model.walk(pixels)}
        self._taps.read()
        names = self.model.chain.names
        computed = {
            node.name: Computation(
                *(node.name, node.tasks, node.parent, names[node.start]),
                run=partial(self.model.advance, node, states[node.parent]),
            )
            for node in self.nodes
        }
        return [
            computed.get(part) or Computation(part, tasks, None, self._begins(part), run=lambda: None)
            for part, tasks in self.parts.items()
        ]

    def _begins(self, part: str) -> str:
        """The first step that a part has weights for."""
        own = [name.split(".", 2)[2] for name in self.owned(part)]
        held = ((step.name, place) for step in self.model.chain.steps for place in step.holds)
        return next(
            (step for step, place in held if any(f"{name}.".startswith(f"{place}.") for name in own)), part
        )

    def only(self, tasks: Sequence[str]) -> Body:
        tasks = [task for task in self.tasks if task in tasks]
        if len(tasks) == len(self.tasks):
            return self
        whole = FAMILIES[self.family].restore(self.describe_whole())
        device = self.preprocess.mean.device
        whole.model.load_state_dict(self.path_state(tasks[0]))
        left = self.inherited(self.said, self.tasks, tasks)
        if left is None:
            return whole.to(device).train(self.training)
        part = self.of_trunk(whole, left, tasks, self.model.chain)
        part.model.load_state_dict(self._state_of(part))
        return part.to(device).train(self.training)

    def _state_of(self, part: Self) -> dict[str, Tensor]:
        """The state dict of a part that serves some of the tasks."""
        state = self.model.state_dict()
        return {name: state[name] for name in part.model.state_dict()}

    @property
    def networks(self) -> list[nn.Module]:
        return [self.model[node.name] for node in self.nodes if node.parent is None]

    def undecayed(self) -> list[str]:
        return [
            f"model.{part}.{name}"
            for part, module in self.model.items()
            for name in getattr(module, "no_weight_decay", set)()
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


def holding(part: nn.Module, buffers: Collection[str] = ()) -> nn.Module:
    """The part with its parameters, and no buffers but these: what several other parts use of it."""
    for name, module in part.named_modules():
        for buffer in module._buffers:
            if f"{name}.{buffer}".lstrip(".") not in buffers:
                module._buffers[buffer] = None
                if hasattr(module, "track_running_stats"):
                    module.track_running_stats = False  # else it would count batches when it is loaded
    return part


def using(part: nn.Module, owner: nn.Module) -> nn.Module:
    """The part with the owner's parameters wherever the owner has them."""
    common = dict(owner.named_parameters())
    for name, module in part.named_modules():
        for own in module._parameters:
            module._parameters[own] = common.get(f"{name}.{own}".lstrip("."), module._parameters[own])
    return part
