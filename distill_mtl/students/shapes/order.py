"""Soft layer ordering: all tasks share the blocks of a transformer, and each mixes them at every depth by weights of
its own (Meyerson & Miikkulainen 2018, section 4).

With D blocks F_j, task t computes y_l = sum_j s(t, l, j) F_j(y_(l-1)), where s(t, l) is a softmax over j. A trunk runs
D blocks, this D for the first depth, which all tasks share, and D (D - 1) more for each task.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from distill_mtl.errors import UserError, nearest
from distill_mtl.networks.backbone import POOLED
from distill_mtl.networks.stages import Chain
from distill_mtl.recipe.branches import ROOT
from distill_mtl.students.shape import SHAPES, Shape, chain_of
from distill_mtl.students.student import FAMILIES, Computation, Trunk

OWN = 0.9
"""Weight of block l at depth l to begin with. The paper begins with even weights, from random blocks; trained ones are
themselves only in their own order."""


class Order(nn.Module):
    """One task's weights of D blocks at D depths."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        begun = torch.full((depth, depth), (1 - OWN) / (depth - 1)).fill_diagonal_(OWN)
        # Flat: optimizers decay matrices, and take orthogonal steps on them.
        self.order = nn.Parameter(begun.log().flatten())

    def forward(self) -> Tensor:
        """[D, D], by depth and block; each depth's sum to 1."""
        depth = round(self.order.numel() ** 0.5)
        return self.order.float().unflatten(0, (depth, depth)).softmax(1)


@SHAPES.register("order")
class SoftOrder(Shape):
    """A body whose tasks have all weights in common but those by which they mix blocks.

    Features are what the steps of the network give: `ROOT.STEP` of those before the blocks, `TASK.STEP` of the others,
    where `blocks.5` is the task's mixture at this depth; `STEP` alone where there is one task.

    Args:
        whole: a trunk of the family, whose weights it takes.
        tasks: names of all tasks.
        chain: of the trunk's network, where it is known.

    Raises:
        UserError: the network has no row of blocks of one shape.
    """

    model: nn.ModuleDict
    form = Literal["soft"]

    def __init__(self, whole: Trunk, tasks: Sequence[str], chain: Chain | None = None) -> None:
        whole.tap(())  # its network runs here itself, where other shapes run copies
        self.chain = chain or chain_of(whole)
        black = whole.preprocess(torch.zeros(1, 3, *whole.inputs.size))
        self.family, self.tasks, self.ends = whole.family, tuple(tasks), whole.classifier()
        self._start, self._stop = _equal_blocks(self.chain, whole, black)
        orders = {task: Order(self._stop - self._start) for task in tasks}
        model: Any = nn.ModuleDict({ROOT: whole.model, **orders})
        # What `Backbone` asks of a timm network to read its features.
        model.num_prefix_tokens = getattr(whole.model, "num_prefix_tokens", 0)
        model.output_fmt = getattr(whole.model, "output_fmt", "NCHW")
        self._whole_stages = whole.stages
        super().__init__(model.train(whole.training), whole.inputs, whole.name, whole.args)

    @classmethod
    def of_trunk(cls, whole: Trunk, said: Any, tasks: Sequence[str]) -> "SoftOrder":
        return cls(whole, tasks)

    @classmethod
    def inherited(cls, said: Any, old: Sequence[str], tasks: Sequence[str]) -> Any:
        return said

    @property
    def layout(self) -> dict[str, Any]:
        return {"order": "soft"}

    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        return {ROOT: self.tasks, **{task: (task,) for task in self.tasks}}

    @property
    def compares(self) -> bool:
        return False

    def names_of(self, layer: str) -> Mapping[str, str]:
        known = self.layer_names()
        if layer not in known:
            raise UserError(
                f"there is no layer '{layer}'.{nearest(layer, known)} With `order: soft` blocks run many times, so "
                f"that only what a step gives can be read: {', '.join(known)}."
            )
        common = layer in self.chain.names[: self._start]
        return {task: self._name(ROOT if common else task, layer) for task in self.tasks}

    def _name(self, part: str, layer: str) -> str:
        return layer if len(self.tasks) == 1 else f"{part}.{layer}"

    def layer_names(self) -> list[str]:
        return [POOLED, *self.chain.names]

    def only(self, tasks: Sequence[str]) -> "SoftOrder":
        tasks = [task for task in self.tasks if task in tasks]
        if len(tasks) == len(self.tasks):
            return self
        whole = FAMILIES[self.family].restore(self.describe_whole())
        part = SoftOrder(whole, tasks, self.chain)
        own = part.model.state_dict()
        part.model.load_state_dict(
            {key: value for key, value in self.model.state_dict().items() if key in own}
        )
        return part.to(self.preprocess.mean.device).train(self.training)

    def undecayed(self) -> list[str]:
        listed: set[str] = getattr(self.model[ROOT], "no_weight_decay", set)()
        return [f"model.{ROOT}.{name}" for name in listed]

    def from_paths(self, paths: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        begun = {f"{task}.order": self.model[task].state_dict()["order"] for task in self.tasks}
        return begun | super().from_paths(paths)

    def parameters_behind(self, layers: Iterable[str], task: str | None = None) -> frozenset[str]:
        # Tasks run in one batch, so that the graph does not know whose order a row depends on.
        others = {f"model.{other}.order" for other in self.tasks if task not in (None, other)}
        return super().parameters_behind(layers, task) - others

    def no_network(self) -> str:
        return (
            "its tasks mix the trunk's blocks, each in an order of its own, and no network of timm does. Use another "
            "form."
        )

    def computed(self, images: Tensor) -> list[Computation]:
        pixels = self.preprocess(images)
        names, given = self.chain.names, self._shared(pixels, {})
        first = Computation(ROOT, self.tasks, None, names[0], partial(self._shared, pixels, {}))
        later = names[self._start + 1]
        return [
            first,
            *(
                Computation(task, (task,), ROOT, later, partial(self._own, given, (task,), {}))
                for task in self.tasks
            ),
        ]

    def _hooked(self, returns: Sequence[str]) -> list[str]:
        return []

    def _find_stages(self) -> None:
        self.stages = tuple(stage for stage in self._whole_stages if stage in self.chain.names)
        self.tap((POOLED, *self.stages))

    def _run(self, pixels: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        given = self._shared(pixels.contiguous(memory_format=torch.channels_last), found)
        self._own(given, self.tasks, found)
        return found

    def _shared(self, pixels: Tensor, found: dict[str, Tensor]) -> list[Tensor]:
        """What every block gives at the first depth, for all tasks; `found` gets the features before."""
        network: nn.Module = self.model[ROOT]
        state = pixels
        for step in self.chain.steps[: self._start]:
            state = step.run(network, state)
            found[self._name(ROOT, step.name)] = state
        return self._blocks(state)

    def _blocks(self, state: Tensor) -> list[Tensor]:
        network: nn.Module = self.model[ROOT]
        return [step.run(network, state) for step in self.chain.steps[self._start : self._stop]]

    def _own(self, first: Sequence[Tensor], tasks: Sequence[str], found: dict[str, Tensor]) -> None:
        """What follows on the first depth's blocks, the rows of these tasks one behind another."""
        network: Any = self.model[ROOT]
        weights = torch.stack([self.model[task]() for task in tasks])
        blocks = [block[None] for block in first]
        for name, depth in zip(self.chain.names[self._start : self._stop], weights.unbind(1), strict=True):
            mixed = _mixture(blocks, depth)
            self._note(name, mixed, tasks, found)
            state = mixed.flatten(0, 1)
            if name != self.chain.names[self._stop - 1]:
                blocks = [block.unflatten(0, (len(tasks), -1)) for block in self._blocks(state)]
        for step in self.chain.steps[self._stop :]:
            state = step.run(network, state)
            self._note(step.name, state.unflatten(0, (len(tasks), -1)), tasks, found)
        if not self.ends_with_features:
            pooled = network.forward_head(state, pre_logits=True)
            self._note(POOLED, pooled.unflatten(0, (len(tasks), -1)), tasks, found)

    def _note(self, layer: str, state: Tensor, tasks: Sequence[str], found: dict[str, Tensor]) -> None:
        """Keep the feature of each task, state [T, B, ...], if it is read."""
        if layer in self._names:
            found |= {self._name(task, layer): own for task, own in zip(tasks, state, strict=True)}


def _mixture(blocks: Sequence[Tensor], weights: Tensor) -> Tensor:
    """sum_j weights[:, j] blocks[j]: blocks [T or 1, B, ...], weights [T, D] -> [T, B, ...]."""
    shape = (-1, *(1 for _ in blocks[0].shape[1:]))
    parts = [
        block * weight.to(block.dtype).view(shape) for block, weight in zip(blocks, weights.T, strict=True)
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


@torch.no_grad()
def _equal_blocks(chain: Chain, whole: Trunk, pixels: Tensor) -> tuple[int, int]:
    """Positions of the longest row of steps with weights of one shape that give what they take.

    Raises:
        UserError: there are no two such steps in a row.
    """
    kinds: list[Any] = []
    state: Any = pixels
    training = whole.model.training
    whole.model.eval()
    for step in chain.steps:
        given, state = state, step.run(whole.model, state)
        kinds.append(_kind(whole.model, step.holds, given, state))
    whole.model.train(training)
    best, start = (0, 0), 0
    for at in range(1, len(kinds) + 1):
        if at == len(kinds) or kinds[at] is None or kinds[at] != kinds[start]:
            if kinds[start] is not None and at - start > best[1] - best[0]:
                best = start, at
            start = at
    if best[1] - best[0] < 2:
        raise UserError(
            f"{whole.name} has no row of blocks that take and give one tensor of the same shape, so none can change "
            f"places: its steps are {', '.join(chain.names)}. Take a ViT or an MLP-Mixer, or another shape of student: "
            "docs/students.md."
        )
    return best


def _kind(model: nn.Module, holds: tuple[str, ...], given: Any, state: Any) -> Any:
    """What two steps have in common that can change places; None for a step that cannot."""
    if len(holds) != 1 or not isinstance(given, Tensor) or not isinstance(state, Tensor):
        return None
    module = model.get_submodule(holds[0])
    shapes = {key: value.shape for key, value in module.state_dict().items()}
    return (type(module), shapes) if shapes and given.shape == state.shape else None
