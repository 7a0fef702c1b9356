"""Networks of one architecture side by side, and the units that join them: what `shapes.columns` is made of."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from distill_mtl.errors import UserError
from distill_mtl.networks.modes import evaluating, freeze
from distill_mtl.networks.stages import Chain, State, tensors_in, with_each_tensor
from distill_mtl.recipe.schema import ColumnKind, EachWeight
from distill_mtl.students.units import NDDR, CrossStitch, Lateral, Place, Sluice, Unit

PROGRESSIVE = "progressive"
MOST = 6
"""Units between two columns, unless the recipe names stages: of more stages, as transformers have them, some."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class ColumnLayout:
    """What `student.columns` says, with the columns named; plain values for config.json.

    Attributes:
        kind: of the units.
        groups: the tasks that each column serves; of `progressive` in the order in which they were trained.
        after: the stages behind which columns are joined; none: behind each of the network, up to `MOST`.
        own: first weight of a column on itself.
        each: whether a cross-stitch unit has a weight for each channel or one for all.
        subspaces: of a sluice unit.
    """

    kind: ColumnKind
    groups: tuple[tuple[str, ...], ...]
    after: tuple[str, ...] = ()
    own: Annotated[float, Field(ge=0, le=1)] = 0.9
    each: EachWeight = "channel"
    subspaces: Annotated[int, Field(ge=2)] = 2

    @property
    def columns(self) -> dict[str, tuple[str, ...]]:
        """Name of each column -> its tasks."""
        return {"+".join(group): group for group in self.groups}

    @property
    def frozen(self) -> tuple[str, ...]:
        """The columns that do not train."""
        return tuple(self.columns)[:-1] if self.kind == PROGRESSIVE else ()

    def unit(self, place: Place) -> Unit:
        """A new unit of this kind."""
        if self.kind == "cross_stitch":
            return CrossStitch(place, own=self.own, each=self.each)
        if self.kind == "sluice":
            return Sluice(place, own=self.own, subspaces=self.subspaces)
        return NDDR(place, own=self.own) if self.kind == "nddr" else Lateral(place)


class ColumnNetwork(nn.Module):
    """The columns by name, and the units by stage and column.

    Args:
        model: the whole network; every column begins with its weights.
        chain: its steps.
        layout: with the stages of its units.
        stages: names of the network's stages that can be read.
        pixels: some normalised pictures, which tell the shapes of states.

    Raises:
        UserError: a stage does not give one tensor, or no unit can stand behind it.
    """

    def __init__(
        self, model: Any, chain: Chain, layout: ColumnLayout, stages: Sequence[str], pixels: Tensor
    ) -> None:
        super().__init__()
        names = list(layout.columns)
        self.columns = nn.ModuleDict({name: chain.cut(model, 0, len(chain)) for name in names})
        self.units = nn.ModuleDict()
        self.chain, self.layout, self.stages = chain, layout, tuple(stages)
        # What `Backbone` asks of a timm network to read its features.
        self.num_prefix_tokens = getattr(model, "num_prefix_tokens", 0)
        self.output_fmt = getattr(model, "output_fmt", "NCHW")
        self.borders = [0, *(_end_of(chain, stage) for stage in layout.after)]
        self.in_place: frozenset[int] = frozenset()
        states = self._states(model, pixels)
        for stage, state in zip(layout.after, states, strict=True):
            self.units[unit_key(stage)] = nn.ModuleDict(self._units(stage, state))
        for name in layout.frozen:
            for module in self._of(name):
                freeze(module)

    def train(self, mode: bool = True) -> "ColumnNetwork":
        """Frozen columns stay in evaluation mode."""
        super().train(mode)
        for name in self.layout.frozen:
            for module in self._of(name):
                module.eval()
        return self

    def run(self, pixels: Tensor) -> dict[str, State]:
        """What every column ends in, by name, from normalised pixels [B, C, H, W]."""
        return {column: state for column, _, state in self.walk(pixels)}

    def walk(self, pixels: Tensor) -> Iterator[tuple[str, Callable[[], State], State]]:
        """Every step of a forward pass, a unit or the stages between two: its column, how to compute it, its state."""
        states: dict[str, State] = dict.fromkeys(self.columns, pixels)
        for at in range(len(self.borders)):
            if at:
                units: Any = self.units[unit_key(self.layout.after[at - 1])]
                given = list(states.values())
                for name, unit in units.items():
                    mix = partial(unit, given[: self._reads(name)])
                    states[name] = mix()
                    yield name, mix, states[name]
            for name in self.columns:
                advance = partial(self._advance, name, at, states[name])
                states[name] = advance()
                yield name, advance, states[name]

    def _advance(self, column: str, at: int, state: State) -> State:
        """What a column's stages before the next units make of its state."""
        if at in self.in_place:
            state = with_each_tensor(torch.clone, state)
        stop = self.borders[at + 1] if at + 1 < len(self.borders) else len(self.chain)
        return self.chain.run(self.columns[column], state, self.borders[at], stop)

    def has_unit(self, stage: str, column: str) -> bool:
        """Whether a column reads others behind this stage."""
        return stage in self.layout.after and column in self.units[unit_key(stage)]  # type: ignore[operator]

    def _of(self, column: str) -> list[nn.Module]:
        """A column and its units."""
        units: list[Any] = list(self.units.values())
        return [self.columns[column], *(at_stage[column] for at_stage in units if column in at_stage)]

    def _reads(self, column: str) -> int:
        """How many of the columns, from the first, a column's units read."""
        names = list(self.columns)
        return names.index(column) + 1 if self.layout.kind == PROGRESSIVE else len(names)

    def _units(self, stage: str, state: Tensor) -> dict[str, Unit]:
        first = state.ndim == 4 and self.output_fmt != "NHWC"
        channels, positive = state.shape[1 if first else -1], bool((state >= 0).all())
        made = {}
        for position, name in enumerate(self.columns):
            if self._reads(name) > 1:
                place = Place(stage, position, self._reads(name), channels, 1 if first else -1, positive)
                made[name] = self.layout.unit(place)
        return made

    @torch.no_grad()
    def _states(self, model: nn.Module, pixels: Tensor) -> list[Tensor]:
        """What the stages before units give; finds the spans that write into what they are given."""
        found: list[Tensor] = []
        state: State = pixels
        with evaluating(model):
            for at, start in enumerate(self.borders):
                before = [tensor._version for tensor in tensors_in(state)]
                stop = self.borders[at + 1] if at + 1 < len(self.borders) else len(self.chain)
                after = self.chain.run(model, state, start, stop)
                if before != [tensor._version for tensor in tensors_in(state)]:
                    self.in_place |= {at}
                state = after
                if at < len(self.layout.after):
                    if not isinstance(state, Tensor) or state.ndim not in (3, 4):
                        raise UserError(
                            f"{self.layout.after[at]} gives several tensors, and columns are joined by one. Name "
                            "other stages in `after`, or take another architecture."
                        )
                    found.append(state.clone())
        return found


class ColumnPath(nn.Module):
    """What one column ends in, by timm's conventions, for those who know no columns; all of them run.

    Args:
        network: with all columns.
        column: whose layers have timm's names here, stages as they are behind their units.
    """

    def __init__(self, network: ColumnNetwork, column: str) -> None:
        super().__init__()
        units: dict[str, Any] = {stage: network.units[unit_key(stage)] for stage in network.layout.after}
        _rename(self, network.columns[column], {s: by[column] for s, by in units.items() if column in by})
        self.network, self.column = network, column
        self.feature_info = [{"module": stage} for stage in network.stages]
        self.num_prefix_tokens, self.output_fmt = network.num_prefix_tokens, network.output_fmt

    def forward_features(self, pixels: Tensor) -> State:
        """The column's last state, from normalised pixels [B, C, H, W]."""
        return self.network.run(pixels)[self.column]

    def forward_head(self, state: State, pre_logits: bool = False) -> Tensor:
        """The pooled vector [B, C] of a last state."""
        network: Any = self.network.columns[self.column]
        pooled: Tensor = network.forward_head(state, pre_logits=pre_logits)
        return pooled


def _rename(into: nn.Module, column: nn.Module, units: Mapping[str, nn.Module]) -> None:
    """Give a module the children of a column, with units in the place of some, by dotted name."""
    for name, child in column.named_children():
        inside = {
            key.removeprefix(f"{name}."): unit for key, unit in units.items() if key.startswith(f"{name}.")
        }
        if inside:
            _rename(made := nn.Module(), child, inside)
            child = made
        into.add_module(name, units.get(name, child))


def unit_key(stage: str) -> str:
    """A stage's name as a module's: without dots."""
    return stage.replace(".", "_")


def _end_of(chain: Chain, stage: str) -> int:
    """Position behind a stage."""
    chain.position(stage)
    end = chain.end_of(stage)
    assert end is not None
    return end


def stages_of(named: Sequence[str], chain: Chain) -> tuple[str, ...]:
    """The stages behind which units stand, in the order they run, no two with the same end.

    Raises:
        UserError: there is no such stage.
    """
    ends: dict[int, str] = {}
    if named:
        for stage in named:
            ends.setdefault(_end_of(chain, stage), stage)
    else:
        for stage in chain.stages:
            if (end := chain.end_of(stage)) is not None:
                ends[end] = stage
        every = -(-len(ends) // MOST)
        ends = dict(sorted(ends.items())[::-every][::-1])
    return tuple(ends[end] for end in sorted(ends))
