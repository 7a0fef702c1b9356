"""A network that `torch.export.save` wrote: a graph of PyTorch's own operations, with names for each."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from distill_mtl.errors import UserError, brief, nearest
from distill_mtl.networks.modes import freeze
from distill_mtl.networks.runtime import (
    RUNTIMES,
    Runtime,
    declared_input,
    not_one_input,
    read_extra_files,
    saved_while_training,
)

_COPY = "distill_mtl_copy"


@RUNTIMES.register(".pt2")
class ExportedRuntime(Runtime):
    """Opening the file may run code in it (it can hold pickles): only for files whose origin you trust.

    Names are those of the graph, as `print(torch.export.load(FILE).graph)` shows them. What the
    program returns in a dict has its keys for names.

    Args:
        path: the file.

    Raises:
        UserError: no such file, no exported program, one that takes something else than one batch of
            images, or one that was exported in training mode.
    """

    words = "a torch.export program"
    is_program = True

    network: fx.GraphModule

    def __init__(self, path: Path) -> None:
        super().__init__()
        notes = read_extra_files(path)
        program = _load(path)
        _refuse_training(program, path)
        module = program.module()
        image = _image(module.graph, path)
        value = image.meta["val"]
        shape = [side if isinstance(side, int) else None for side in value.shape]
        self.declared = declared_input(shape, value.dtype, notes, file=path, name=image.name)
        self.files = (path,)
        # Output -> node.
        self._sources = _returned(module.graph, program)
        self.outputs = tuple(self._sources)
        if not self.outputs:
            raise UserError(f"{path} returns no tensor. A teacher returns at least one.")
        self._taps: tuple[str, ...] = ()
        # Plain arguments and results from here on, not the trees of the program's signature.
        module.graph.set_codegen(fx.graph.CodeGen())
        self.network = fx.GraphModule(module, module.graph)
        self.tap(())
        # A program that was exported on an accelerator is read onto it.
        self.to("cpu")
        freeze(self)

    def names(self) -> list[str]:
        inner = [
            node.name
            for node in _reached(self.network.graph)
            if isinstance(node.meta.get("val"), Tensor) and _COPY not in node.meta
        ]
        return list(dict.fromkeys((*inner, *self.outputs)))

    def behind(self, output: str) -> frozenset[str]:
        found: set[fx.Node] = set()
        waiting = [
            node for node in self.network.graph.nodes if node.name == self._sources.get(output, output)
        ]
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting.extend(node.all_input_nodes)
        return frozenset(node.name for node in found)

    def tap(self, names: Sequence[str]) -> None:
        known = self.names()
        for name in names:
            if name not in known:
                raise UserError(f"{self.files[0]} has no tensor '{name}'.{nearest(name, known)}")
        self._taps = tuple(name for name in dict.fromkeys(names) if name not in self.outputs)
        graph = self.network.graph
        nodes = {node.name: node for node in graph.nodes}
        returned = [nodes[source] for source in self._sources.values()]
        taken = [_kept(nodes[name], graph) for name in self._taps]
        graph.output_node().args = ((*returned, *taken),)
        for node in nodes.values():
            if _COPY in node.meta:
                graph.erase_node(node)
        self.network.recompile()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        # `forward` itself: calling the module would print the generated code beside every error.
        results = self.network.forward(images)
        return dict(zip((*self.outputs, *self._taps), results, strict=True))

    def moved(self, device: torch.device) -> None:
        # Tensors that the program makes as it runs (`torch.arange(n, device=x.device)`) are written into
        # the graph with the device of the export.
        def place(argument: Any) -> Any:
            return device if isinstance(argument, torch.device) else argument

        for graph_module in _graph_modules(self.network):
            for node in graph_module.graph.nodes:
                node.args = fx.node.map_aggregate(node.args, place)
                node.kwargs = fx.node.map_aggregate(node.kwargs, place)
            graph_module.recompile()


def _load(path: Path) -> ExportedProgram:
    logged = _Logged()
    try:
        with logged.instead():
            return torch.export.load(path)
    # Whatever the reader stumbles over: files of other versions fail in many ways.
    except Exception as error:
        raise UserError(
            f"{path} cannot be opened as an exported program: {brief(logged.error or error)}. "
            "Export the network on the CPU and save it with torch.export.save, with a PyTorch no newer than "
            f"this one ({torch.__version__})."
        ) from error


class _Logged(logging.Handler):
    """PyTorch logs why it cannot open a program, with a traceback, and raises an error without a reason."""

    error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.error = record.exc_info[1]

    @contextmanager
    def instead(self) -> Iterator[None]:
        """Take the messages of torch.export for the block."""
        log = logging.getLogger("torch.export")
        handlers, propagate = log.handlers, log.propagate
        log.handlers, log.propagate = [self], False
        try:
            yield
        finally:
            log.handlers, log.propagate = handlers, propagate


def _image(graph: fx.Graph, path: Path) -> fx.Node:
    """The only input."""
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    if len(inputs) != 1 or not isinstance(inputs[0].meta["val"], Tensor):
        raise not_one_input(path, (node.name for node in inputs))
    return inputs[0]


def _returned(graph: fx.Graph, program: ExportedProgram) -> dict[str, str]:
    """Name of each returned tensor -> its node: by keys where the program returns a mapping, else the node's."""
    leaves = graph.output_node().args[0]
    assert isinstance(leaves, list | tuple)
    sources: dict[str, str] = {}
    for keys, leaf in zip(_keys(program, len(leaves)), leaves, strict=True):
        if isinstance(leaf, fx.Node) and isinstance(leaf.meta.get("val"), Tensor):
            sources[leaf.name if not keys or None in keys else ".".join(keys)] = leaf.name
    return sources


def _keys(program: ExportedProgram, count: int) -> list[list[Any]]:
    """The names on the way to each of `count` results; None for a step through a sequence, which has none."""
    tree = pytree.tree_unflatten(list(range(count)), program.call_spec.out_spec)
    try:
        paths, _ = pytree.tree_flatten_with_path(tree)
    # A class of the exporter's own that tells PyTorch no names.
    except ValueError:
        return [[]] * count
    return [[_name(step) for step in path] for path, _ in paths]


def _name(step: Any) -> str | None:
    name = getattr(step, "key", getattr(step, "name", None))
    return None if name is None else str(name)


def _reached(graph: fx.Graph) -> Iterator[fx.Node]:
    """The operations that depend on the images, in their order; not those on weights alone."""
    reached: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder":
            reached.add(node)
        elif node.op == "call_function" and not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
            yield node


def _kept(node: fx.Node, graph: fx.Graph) -> fx.Node:
    """The node, or a copy of its result where a later operation may write into it (an in-place ReLU).

    Which operations share memory a graph does not say, so any later one that writes counts.
    """
    later = node.next
    while later.op != "output" and not _writes(later):
        later = later.next
    if later.op == "output":
        return node
    with graph.inserting_after(node):
        copy = graph.call_function(torch.ops.aten.clone.default, (node,))
    copy.meta[_COPY] = True
    return copy


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _refuse_training(program: ExportedProgram, path: Path) -> None:
    for graph_module in _graph_modules(program.graph_module):
        for node in graph_module.graph.nodes:
            if isinstance(node.target, torch._ops.OpOverload) and _trains(_arguments(node)):
                operation = node.target._schema.name.removeprefix("aten::")
                raise saved_while_training(path, operation, "torch.export.export")


def _arguments(node: fx.Node) -> dict[str, Any]:
    """What a node passes, by the names of its operation."""
    assert isinstance(node.target, torch._ops.OpOverload)
    schema = node.target._schema.arguments
    return {argument.name: value for argument, value in zip(schema, node.args, strict=False)} | node.kwargs


def _trains(arguments: dict[str, Any]) -> bool:
    """Whether an operation with these arguments is a normalisation or a dropout in training mode."""
    if "running_mean" in arguments:
        # Without running statistics (InstanceNorm) those of the batch are what is meant.
        return arguments.get("training") is True and arguments["running_mean"] is not None
    chance = arguments.get("dropout_p", 0.0) if "query" in arguments else 0.0
    if arguments.get("train") is True:
        chance = arguments.get("p", arguments.get("dropout", 0.0))
    return chance > 0


def _graph_modules(module: fx.GraphModule) -> Iterator[fx.GraphModule]:
    return (part for part in module.modules() if isinstance(part, fx.GraphModule))
