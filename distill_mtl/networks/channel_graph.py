"""Which layers of a convolutional network share their channels: what may be put into another order together.

A convolution makes channels of its own; normalisation, activation and pooling keep them; a sum or a product of two
features makes theirs the same. Read from torch.fx's record of `forward_features`. Zipped starts are built on it
(`networks.zip`).
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from distill_mtl.errors import UserError, brief

_JOINS = (operator.add, operator.iadd, operator.mul, operator.imul, torch.add, torch.mul)
_KEEPS = ("mean", "contiguous", "relu", "relu_")


@dataclass(frozen=True)
class Layer:
    """A convolution, with the normalisation right behind it.

    Attributes:
        node: in the graph.
        conv: dotted name.
        norm: dotted name; None where another layer reads the convolution.
        into: the space of the channels that it reads.
        out: of those that it gives; the same as `into` for a convolution of each channel alone.
    """

    node: fx.Node
    conv: str
    norm: str | None
    into: int
    out: int


@dataclass(frozen=True)
class ChannelGraph:
    """The layers of a network and their spaces of channels.

    Attributes:
        graph: of `forward_features`.
        layers: in the order they run.
        spaces: node -> its space.
        ends: space -> the last node whose features have its channels.
        pixels: the space of the picture's channels, whose order is given.
    """

    graph: fx.Graph
    layers: tuple[Layer, ...]
    spaces: Mapping[fx.Node, int]
    ends: Mapping[int, fx.Node]
    pixels: int

    def space_of(self, feature: str) -> int:
        """The space of a stage's output; of the last feature for any other name, such as `pooled`."""
        inside = [node for node in self.spaces if _runs_in(node, feature)]
        return self.spaces[inside[-1] if inside else list(self.spaces)[-1]]


def read_channels(model: nn.Module, name: str) -> ChannelGraph:
    """The channel graph of a network of timm.

    Args:
        model: the network.
        name: of the architecture, for the message.

    Raises:
        UserError: it has a layer that is not understood; the message names it.
    """
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except (TypeError, ValueError, RuntimeError, NotImplementedError, fx.proxy.TraceError) as error:
        raise _refusal(name, f"its code cannot be recorded ({brief(error)})") from error
    reader = _Reader(model, name)
    for node in graph.nodes:
        reader.read(node)
    reader.refuse_unread()
    return reader.channels(graph)


class _Tracer(fx.Tracer):
    traced_func_name = "forward_features"

    def is_leaf_module(self, module: nn.Module, qualified: str) -> bool:
        return (
            super().is_leaf_module(module, qualified)
            or isinstance(module, nn.BatchNorm2d)
            or not len(list(module.children()))
        )


class _Reader:
    """Follows a graph from the picture on; joins spaces as it finds out that they are one."""

    def __init__(self, model: nn.Module, name: str) -> None:
        self.model, self.name = model, name
        self._joined: list[int] = []
        self._spaces: dict[fx.Node, int] = {}
        self._convs: list[tuple[fx.Node, int]] = []
        self._read: set[str] = set()

    def read(self, node: fx.Node) -> None:
        """Find the space of one node."""
        if node.op == "output":
            return
        given = [self._spaces[one] for one in node.all_input_nodes if one in self._spaces]
        if node.op == "placeholder":
            self._spaces[node] = self._new()
        elif node.op == "call_module":
            self._spaces[node] = self._module(node, str(node.target), given)
        elif node.op == "call_function" and node.target in _JOINS and given:
            for other in given[1:]:
                self._joined[self._root(other)] = self._root(given[0])
            self._spaces[node] = given[0]
        elif node.op == "call_method" and node.target in _KEEPS and len(given) == 1:
            self._spaces[node] = given[0]
        else:
            what = (
                node.target if isinstance(node.target, str) else getattr(node.target, "__name__", node.target)
            )
            raise _refusal(self.name, f"it uses {what} on its features")

    def _module(self, node: fx.Node, target: str, given: list[int]) -> int:
        module: Any = self.model.get_submodule(target)
        if target in self._read:
            raise _refusal(self.name, f"{target} runs twice")
        self._read.add(target)
        if isinstance(module, nn.Conv2d):
            if type(module) is not nn.Conv2d:  # one that pads as TensorFlow does, or standardises its weights
                raise _refusal(self.name, f"{target} is a {type(module).__name__}")
            if isinstance(module.padding, str) or module.padding_mode != "zeros":
                raise _refusal(self.name, f"{target} pads by {module.padding}, {module.padding_mode}")
            if module.groups not in (1, module.in_channels) or (
                module.groups > 1 and module.in_channels != module.out_channels
            ):
                raise _refusal(self.name, f"{target} is a convolution of {module.groups} groups")
            self._convs.append((node, given[0]))
            return given[0] if module.groups > 1 else self._new()
        if isinstance(module, nn.BatchNorm2d):
            source = node.all_input_nodes[0]
            if [one for one, _ in self._convs if one is source] and len(source.users) == 1:
                return given[0]
            raise _refusal(self.name, f"{target} does not stand behind a convolution of its own")
        if next(module.parameters(), None) is not None:
            raise _refusal(self.name, f"{target} is a {type(module).__name__}")
        return given[0]

    def refuse_unread(self) -> None:
        """Refuse a network with weights that `forward_features` does not use: they read its channels, too."""
        for name, _ in self.model.named_parameters():
            if name.rpartition(".")[0] not in self._read:
                raise _refusal(self.name, f"{name} stands behind its features")

    def channels(self, graph: fx.Graph) -> ChannelGraph:
        spaces = {node: self._root(space) for node, space in self._spaces.items()}
        layers = []
        for node, into in self._convs:
            norm = next((one for one in node.users if self._is_norm(one)), None)
            layers.append(
                Layer(
                    node,
                    str(node.target),
                    None if norm is None else str(norm.target),
                    self._root(into),
                    spaces[node],
                )
            )
        ends = {spaces[node]: node for node in spaces}
        return ChannelGraph(graph, tuple(layers), spaces, ends, next(iter(spaces.values())))

    def _is_norm(self, node: fx.Node) -> bool:
        return node.op == "call_module" and isinstance(
            self.model.get_submodule(str(node.target)), nn.BatchNorm2d
        )

    def _new(self) -> int:
        self._joined.append(len(self._joined))
        return len(self._joined) - 1

    def _root(self, space: int) -> int:
        while self._joined[space] != space:
            space = self._joined[space]
        return space


def _runs_in(node: fx.Node, stage: str) -> bool:
    if node.op == "call_module" and (node.target == stage or str(node.target).startswith(f"{stage}.")):
        return True
    stack = node.meta.get("nn_module_stack") or {}
    return any(name == stage or str(name).startswith(f"{stage}.") for name in stack)


def _refusal(name: str, why: str) -> UserError:
    return UserError(
        f"the channels of {name} cannot be matched: {why}. Networks of convolutions, BatchNorm and sums can be zipped, "
        "such as ResNets and EfficientNets. Otherwise begin with `init: teacher:TASK`."
    )
