"""Any timm network as a chain of steps: what runs one after the other in its `forward_features`.

The chain is found, not programmed: the network's children in the order in which it registers them, with the containers
of its stages opened. A chain counts only where it gives the same bits as `forward_features`, in evaluation and in
training mode. Students with branches, zipped starts and the comparison of teachers by depth are built on it.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain as chained
from typing import Any

import torch
from torch import Tensor, nn

from distill_mtl.errors import UserError, nearest
from distill_mtl.networks.backbone import stage_names

State = Any
"""What one step hands to the next: a tensor, or a list or tuple of tensors (HRNet's branches, EVA's rotary table)."""

# What a step may raise when it is given what another step should have: the candidate is dropped.
_DOES_NOT_FIT = (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, IndexError, KeyError)
_ROWS = 2


@dataclass(frozen=True)
class Step:
    """One link of a chain.

    Attributes:
        name: what users write: `layer3`, `blocks.5`, `stages.2`.
        holds: dotted names of the modules and parameters that it uses.
        run: takes the network, or a part of it that `Chain.cut` made, and what the step before gave.
    """

    name: str
    holds: tuple[str, ...]
    run: Callable[[Any, State], State] = field(compare=False)


@dataclass(frozen=True)
class Chain:
    """The steps of a network's `forward_features`, in order.

    Attributes:
        steps: at least two.
        stages: the names in timm's `feature_info`, in the order they run.
    """

    steps: tuple[Step, ...]
    stages: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the steps."""
        return tuple(step.name for step in self.steps)

    def run(self, model: nn.Module, state: State, start: int = 0, stop: int | None = None) -> State:
        """What the steps from `start` to before `stop` make of `state`.

        Args:
            model: the network, or a part that has these steps.
            state: normalised pixels [B, C, H, W] for step 0, else what the step before gave.
            start, stop: positions in `steps`; `stop` None: to the end.
        """
        for step in self.steps[start:stop]:
            state = step.run(model, state)
        return state

    def cut(self, model: nn.Module, start: int, stop: int) -> nn.Module:
        """A copy of the network that holds only these steps, under timm's own names.

        What other steps hold is missing, so that the state dicts of the parts of a network are disjoint and together
        complete. The part with the last step has what `forward_head` reads.
        """
        kept = {name for step in self.steps[start:stop] for name in step.holds}
        others = {name for step in self.steps for name in step.holds} - kept
        if stop < len(self):
            others |= self._head(model)
        gone: dict[int, Any] = {}
        for name, module in model.named_modules():
            if name in others:
                gone[id(module)] = nn.Identity()
        for name, value in chained(model.named_parameters(recurse=False), model.named_buffers(recurse=False)):
            if name in others:
                gone[id(value)] = None
        part = copy.deepcopy(model, gone)
        for module in part.modules():
            module._forward_hooks.clear()  # taps of the network that it is a copy of
        return part

    def position(self, name: str) -> int:
        """Where the step of this name, or the first step inside it, stands.

        Raises:
            UserError: there is no such step; the message names the nearest.
        """
        for position, step in enumerate(self.steps):
            if step.name == name or step.name.startswith(f"{name}."):
                return position
        raise UserError(
            f"the network has no stage '{name}'.{nearest(name, self.names)} Stages: {', '.join(self.names)}."
        )

    def end_of(self, layer: str) -> int | None:
        """Position behind the step in which a layer runs; None where no step holds it."""
        ends = [
            position
            for position, step in enumerate(self.steps, 1)
            if any(_inside(layer, held) or _inside(held, layer) for held in step.holds)
        ]
        return max(ends, default=None)

    def depths(self, model: nn.Module) -> dict[str, int]:
        """Stage -> position of the first step with weights behind the stage before: where a branch that begins with
        the stage leaves the others."""
        starts: dict[str, int] = {}
        before = 0
        for stage in self.stages:
            end = self.end_of(stage)
            if end is None or end <= before:
                continue
            weighty = (at for at in range(before, end) if _has_parameters(model, self.steps[at]))
            starts[stage] = next(weighty, before)
            before = end
        return starts

    def _head(self, model: nn.Module) -> set[str]:
        """Children and parameters of the network itself that no step holds."""
        held = {name.partition(".")[0] for step in self.steps for name in step.holds}
        own = chained(
            model.named_children(), model.named_parameters(recurse=False), model.named_buffers(recurse=False)
        )
        return {name for name, _ in own} - held


def find_chain(
    model: nn.Module, size: tuple[int, int], channels: int = 3, name: str = "the network"
) -> Chain:
    """The chain of a network of timm.

    Args:
        model: the network; it is left as it was, and so is the global random state.
        size: height and width of its images.
        channels: of its images.
        name: of the architecture, for the message.

    Raises:
        UserError: no chain gives the same bits as the network.
    """
    if not hasattr(model, "forward_features") or not hasattr(model, "forward_head"):
        raise UserError(
            f"{name} has no `forward_features(x)` and `forward_head(x, pre_logits=False)`, by which a network is cut "
            "into stages. Add them, or let the tasks share the whole trunk."
        )
    trial = _with_random_weights(model)
    pixels = torch.rand(_ROWS, channels, *size, generator=torch.Generator().manual_seed(0))
    expected = _Runs.of(trial, pixels, trial.forward_features)
    if isinstance(expected.evaluated, Tensor):
        for steps in _candidates(trial):
            candidate = Chain(tuple(steps), stage_names(model))
            if len(steps) > 1 and _gives(candidate, trial, pixels, expected) and _complete(candidate, trial):
                return candidate
    raise UserError(
        f"{name} cannot be cut into stages: no order of its layers gives what the network gives. It can be a whole "
        "trunk. For a student in parts take another architecture: docs/students.md lists those that can be cut."
    )


def tensors_in(state: State) -> Iterator[Tensor]:
    """The tensors of a state, in order."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, list | tuple):
        for part in state:
            yield from tensors_in(part)


def with_each_tensor(change: Callable[[Tensor], Tensor], state: State) -> State:
    """The state with `change` of each of its tensors."""
    if isinstance(state, list | tuple):
        return type(state)(with_each_tensor(change, part) for part in state)
    return change(state) if isinstance(state, Tensor) else state


# Finding it ---------------------------------------------------------------------------------------


def _candidates(model: Any) -> Iterator[list[Step]]:
    """Chains to try, the likeliest first."""
    if hasattr(model, "transition1") and hasattr(model, "incre_modules"):
        yield _hrnet(model)
    children = _opened(model)
    stages = stage_names(model)
    last = max(
        (
            at
            for at, step in enumerate(children)
            if any(_inside(s, step.name) or _inside(step.name, s) for s in stages)
        ),
        default=len(children) - 1,
    )
    # What stands behind the last stage belongs to the features (a final norm), or to `forward_head`.
    for end in range(last + 1, len(children) + 1):
        steps = children[:end]
        yield steps
        if embedded := _embedded(model, steps):
            yield embedded
            yield _rotary(embedded)
        yield [*steps[:-1], Step(steps[-1].name, steps[-1].holds, partial(_on_last, name=steps[-1].name))]


def _opened(model: nn.Module) -> list[Step]:
    """The children in order; of the containers of stages, and of lists, their own children."""
    stages = stage_names(model)
    steps: list[Step] = []
    for name, child in model.named_children():
        holds_stages = any(stage.startswith(f"{name}.") for stage in stages)
        if isinstance(child, nn.ModuleList) or (isinstance(child, nn.Sequential) and holds_stages):
            steps += [_module(f"{name}.{inner}") for inner, _ in child.named_children()]
        elif not isinstance(child, nn.ParameterDict | nn.ParameterList):
            steps.append(_module(name))
    return steps


def _module(name: str) -> Step:
    return Step(name, (name,), partial(_call, name=name))


def _call(model: nn.Module, state: State, name: str) -> State:
    return model.get_submodule(name)(state)


def _on_last(model: nn.Module, state: State, name: str) -> State:
    """A final norm over the last dimension, on a map with channels first."""
    return model.get_submodule(name)(state.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _embedded(model: Any, steps: Sequence[Step]) -> list[Step]:
    """The steps of a transformer: patches and position table are one, with whatever the table's code calls."""
    names = [step.name for step in steps]
    if not hasattr(model, "_pos_embed") or "patch_embed" not in names:
        return []
    at = names.index("patch_embed")
    tables = [
        name for name, _ in chained(model.named_parameters(recurse=False), model.named_buffers(recurse=False))
    ]
    called: list[str] = [name for name in ("pos_drop", "rope") if name in names]
    if getattr(model, "rope", None) is not None and "patch_drop" in names:
        called.append("patch_drop")  # EVA drops patches and their rotary table together, inside
    first = Step("patch_embed", ("patch_embed", *called, *tables), _embed)
    return [*steps[:at], first, *(step for step in steps[at + 1 :] if step.name not in called)]


def _embed(model: Any, pixels: Tensor) -> State:
    return model._pos_embed(model.patch_embed(pixels))


def _rotary(steps: Sequence[Step]) -> list[Step]:
    """The steps of EVA and DINOv3: every block gets tokens and a rotary table; what follows gets the tokens."""
    blocks = [step for step in steps if step.name.startswith("blocks.")]
    end = max((steps.index(step) for step in blocks), default=-1)
    changed = []
    for at, step in enumerate(steps):
        if step in blocks:
            run = partial(_rotary_block, name=step.name, depth=blocks.index(step), last=at == end)
            step = Step(step.name, step.holds, run)
        elif 0 < at < end:
            step = Step(step.name, step.holds, partial(_on_tokens, name=step.name))
        changed.append(step)
    return changed


def _rotary_block(model: Any, state: State, name: str, depth: int, last: bool) -> State:
    tokens, table = state
    own = table[depth] if getattr(model, "rope_mixed", False) and table is not None else table
    tokens = model.get_submodule(name)(tokens, rope=own)
    return tokens if last else (tokens, table)


def _on_tokens(model: nn.Module, state: State, name: str) -> State:
    tokens, table = state
    return model.get_submodule(name)(tokens), table


def _hrnet(model: Any) -> list[Step]:
    """The steps of HRNet, whose stages take and give a list of maps, one per resolution."""
    stem = ("conv1", "bn1", "act1", "conv2", "bn2", "act2", "layer1")
    stages = [
        Step(f"stage{k}", (f"transition{k - 1}", f"stage{k}"), partial(_hrnet_stage, k=k)) for k in (2, 3, 4)
    ]
    end = Step("final_layer", ("incre_modules", "downsamp_modules", "final_layer"), _hrnet_end)
    return [*map(_module, stem), *stages, end]


def _hrnet_stage(model: Any, state: State, k: int) -> State:
    maps = [state] * 2 if k == 2 else state
    inputs = []
    for at, transition in enumerate(getattr(model, f"transition{k - 1}")):
        stays = isinstance(transition, nn.Identity) and k > 2
        inputs.append(maps[at] if stays else transition(maps[-1]))
    return getattr(model, f"stage{k}")(inputs)


def _hrnet_end(model: Any, maps: State) -> State:
    total = model.incre_modules[0](maps[0])
    for at, down in enumerate(model.downsamp_modules, 1):
        total = model.incre_modules[at](maps[at]) + down(total)
    return model.final_layer(total)


# Comparing ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Runs:
    """What a network gave in evaluation mode and in training mode, and its buffers after the latter."""

    evaluated: State
    trained: State
    buffers: list[Tensor]

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, pixels: Tensor, forward: Callable[[Tensor], State]) -> "_Runs":
        before = {name: value.clone() for name, value in model.state_dict().items()}
        try:
            with torch.random.fork_rng(devices=[]):
                model.eval()
                evaluated = _seeded(forward, pixels)
                model.train()
                trained = _seeded(forward, pixels)
            return cls(evaluated, trained, [buffer.clone() for buffer in model.buffers()])
        finally:
            model.load_state_dict(before)

    def equals(self, other: "_Runs") -> bool:
        """To the bit."""
        both = (
            (self.evaluated, other.evaluated),
            (self.trained, other.trained),
            (self.buffers, other.buffers),
        )
        return all(_same(mine, theirs) for mine, theirs in both)


def _seeded(forward: Callable[[Tensor], State], pixels: Tensor) -> State:
    torch.manual_seed(0)  # dropout and stochastic depth
    return with_each_tensor(torch.clone, forward(pixels))


def _gives(candidate: Chain, model: nn.Module, pixels: Tensor, expected: _Runs) -> bool:
    with suppress(*_DOES_NOT_FIT):
        return _Runs.of(model, pixels, partial(candidate.run, model)).equals(expected)
    return False


def _same(mine: State, theirs: State) -> bool:
    if isinstance(mine, list) and isinstance(theirs, list):
        return len(mine) == len(theirs) and all(map(_same, mine, theirs))
    alike = isinstance(mine, Tensor) and isinstance(theirs, Tensor) and mine.shape == theirs.shape
    return alike and torch.equal(mine, theirs)


def _complete(candidate: Chain, model: nn.Module) -> bool:
    """Whether the parts at every step have disjoint state dicts that together are the network's."""
    keys = [set(candidate.cut(model, at, at + 1).state_dict()) for at in range(len(candidate))]
    found = set().union(*keys)
    return sum(map(len, keys)) == len(found) and found == set(model.state_dict())


def _with_random_weights(model: nn.Module) -> Any:
    """A copy in which no layer does nothing: gains of 0 and norms of 1 would let a shorter chain pass."""
    trial = copy.deepcopy(model)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trial.parameters():
            if parameter.min() == parameter.max():
                parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.1)
    for module in trial.modules():
        module._forward_hooks.clear()
    return trial


def _inside(layer: str, module: str) -> bool:
    return layer == module or layer.startswith((f"{module}.", f"{module}["))


def _has_parameters(model: nn.Module, step: Step) -> bool:
    names: Iterable[str] = (name for name, _ in model.named_parameters())
    return any(_inside(name, held) for name in names for held in step.holds)
