"""Columns: networks of one architecture side by side, joined behind some of their stages.

Every task has a column of its own, and units mix their states (`cross_stitch`, `sluice`, `nddr`); or columns were
trained one after the other, and a later one reads the earlier ones, which are frozen (`progressive`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import chain as chained
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from distill_mtl.balance import Shared, Tree
from distill_mtl.errors import StudentError, UserError, nearest
from distill_mtl.networks.backbone import LOGITS, POOLED
from distill_mtl.networks.modes import evaluating, freeze
from distill_mtl.networks.stages import Chain, State, find_chain, tensors_in, with_each_tensor
from distill_mtl.recipe.schema import ColumnKind, ColumnsSection, EachWeight
from distill_mtl.students.shape import SHAPES, Shape
from distill_mtl.students.student import FAMILIES, Body, Computation, Trunk
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


class PathBody(Body):
    """The features of one task of coupled columns, by layer."""

    def __init__(self, columns: "Columns", column: str) -> None:
        self.family = columns.family
        super().__init__(ColumnPath(columns.model, column), columns.inputs, columns.name, columns.args)


@SHAPES.register("columns")
class Columns(Shape):
    """A body of columns.

    Features have the names of the modules that give them, and `of` gives those on a task's path by layer. A stage with
    a unit behind it is read behind the unit.

    Args:
        whole: a trunk of the family; every column begins with its weights.
        layout: of the columns; `after` may be empty.
        tasks: that are answered; their order is that of the student.
        chain: of the trunk's network, where it is known.

    Raises:
        UserError: the network cannot be cut, or has no such stage.
    """

    model: ColumnNetwork
    form = ColumnLayout

    def __init__(
        self, whole: Trunk, layout: ColumnLayout, tasks: Sequence[str], chain: Chain | None = None
    ) -> None:
        whole.tap(())
        noise = torch.Generator().manual_seed(0)
        pixels = whole.preprocess(torch.rand(2, 3, *whole.inputs.size, generator=noise))
        chain = chain or find_chain(whole.model, whole.inputs.size, pixels.shape[1], whole.name)
        layout = replace(layout, after=_stages(layout.after, chain))
        network = ColumnNetwork(whole.model, chain, layout, whole.stages, pixels)
        self.family, self.tasks = whole.family, tuple(tasks)
        self._column = {task: name for name, group in layout.columns.items() for task in group}
        self._layers: tuple[str, ...] = ()
        self._paths: dict[str, dict[str, str]] = {}
        self._layer_of: dict[str, str] = {}
        super().__init__(network.train(whole.training), whole.inputs, whole.name, whole.args)

    @classmethod
    def of_trunk(cls, whole: Trunk, said: ColumnsSection | ColumnLayout, tasks: Sequence[str]) -> "Columns":
        if isinstance(said, ColumnsSection):
            if said.kind == PROGRESSIVE:
                raise UserError(
                    "progressive stands beside a student whose answers stay. Give its folder: `init: runs/OLD`."
                )
            values = said.model_dump(exclude_none=True)
            said = ColumnLayout(**values, groups=tuple((task,) for task in tasks))
        for name in said.columns:
            if hasattr(nn.ModuleDict(), name):
                raise StudentError(f"tasks.{name}: PyTorch keeps this name for itself. Rename the task.")
        return cls(whole, said, tasks)

    @classmethod
    def mistakes(cls, said: ColumnLayout, tasks: Sequence[str]) -> list[str]:
        found = list(chained(*said.groups))
        missing = [f"{task} has no column." for task in tasks if found.count(task) != 1]
        return missing + ["a column has no task." for group in said.groups if not group]

    @classmethod
    def inherited(cls, said: ColumnLayout, old: Sequence[str], tasks: Sequence[str]) -> ColumnLayout:
        if new := [task for task in tasks if task not in old]:
            raise UserError(
                f"every column is joined with the others, and {', '.join(new)} has none. Let it have a trunk of its "
                "own, or begin with another student."
                if said.kind != PROGRESSIVE
                else f"{', '.join(new)} has no column. Write `columns: progressive`."
            )
        return said

    @classmethod
    def beside(
        cls, said: ColumnsSection, layout: Mapping[str, Any], old: Sequence[str], tasks: Sequence[str]
    ) -> ColumnsSection | ColumnLayout:
        if said.kind != PROGRESSIVE:
            return said
        new = [task for task in tasks if task not in old]
        if not new or len(new) == len(tasks):
            raise UserError(
                "every task of the recipe is there, so no column is new. Remove `columns`."
                if not new
                else f"no task of the recipe is there ({', '.join(old)} are), so no answer stays. Remove `columns`."
            )
        before: ColumnLayout | None = layout.get("columns")
        if (layout and before is None) or (before is not None and before.kind != PROGRESSIVE):
            raise UserError(
                "tasks have parts of their own, and a progressive column stands beside one trunk. Begin with a student "
                "without `branch` or the like; or train the new task as a network of its own."
            )
        groups = before.groups if before is not None else (tuple(task for task in tasks if task in old),)
        after = before.after if before is not None else tuple(said.after or ())
        return ColumnLayout(PROGRESSIVE, (*groups, tuple(new)), after)

    @property
    def layout(self) -> dict[str, Any]:
        return {"columns": asdict(self.model.layout)}

    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """Of coupled columns each serves all tasks."""
        layout = self.model.layout
        return {
            name: tuple(t for t in self.tasks if layout.kind != PROGRESSIVE or t in group)
            for name, group in layout.columns.items()
        }

    @property
    def compares(self) -> bool:
        last = [task for task in self.tasks if task not in self.frozen]
        return self.model.layout.kind == PROGRESSIVE and len(last) > 1

    def owned(self, part: str) -> dict[str, nn.Parameter]:
        return {
            name: value
            for name, value in self.named_parameters()
            if name.startswith(f"model.columns.{part}.")
            or (name.startswith("model.units.") and name.split(".")[3] == part)
        }

    def keys(self, part: str) -> dict[str, str]:
        return {key: f"columns.{part}.{key}" for key in self.model.columns[part].state_dict()}

    def path_state(self, task: str) -> dict[str, Tensor]:
        column = self._column[task]
        if any(self.model.has_unit(stage, column) for stage in self.model.layout.after):
            raise UserError(
                f"the column of {task} reads the others at {', '.join(self.model.layout.after)}, so no single network "
                "answers as it does."
            )
        return dict(self.model.columns[column].state_dict())

    def from_paths(self, paths: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        first = next(iter(paths.values()))
        state = {f"units.{key}": value for key, value in self.model.units.state_dict().items()}
        for column, group in self.model.layout.columns.items():
            path = next((paths[task] for task in group if task in paths), first)
            state |= {f"columns.{column}.{key}": value for key, value in path.items()}
        return state

    def from_body(self, old: Body, tasks: Sequence[str]) -> dict[str, Tensor]:
        if not isinstance(old, Columns):
            return super().from_body(old, tasks)
        own, known = self.model.state_dict(), old.model.state_dict()
        beginning, columns = f"columns.{next(iter(old.model.columns))}.", old.model.columns
        for column in self.model.columns:
            if column not in columns:
                mine = f"columns.{column}."
                known |= {
                    f"{mine}{key.removeprefix(beginning)}": value
                    for key, value in old.model.state_dict().items()
                    if key.startswith(beginning)
                }
                known |= {key: own[key] for key in own if key.startswith("units.") and f".{column}." in key}
        return known

    def cut(self, images: Tensor, tasks: Sequence[str]) -> Shared | Tree:
        if self.model.layout.kind != PROGRESSIVE:
            return super().cut(images, tasks)
        return Shared(dict(self.of(tasks[0], self(images))), tasks)

    def beyond_cut(self) -> list[nn.Parameter]:
        return [] if self.model.layout.kind == PROGRESSIVE else super().beyond_cut()

    def computed(self, images: Tensor) -> list[Computation]:
        pixels = self.preprocess(images).contiguous(memory_format=torch.channels_last)
        steps = [(column, compute) for column, compute, _ in self.model.walk(pixels)]
        self._taps.read()
        groups, first = self.model.layout.columns, self.model.chain.names[0]
        return [Computation(column, groups[column], None, first, run=compute) for column, compute in steps]

    def seen_by(self, task: str) -> Body:
        part = self.only([task])
        return PathBody(part, self._column[task]) if isinstance(part, Columns) else part

    @property
    def frozen(self) -> tuple[str, ...]:
        return tuple(task for task in self.tasks if self._column[task] in self.model.layout.frozen)

    @property
    def networks(self) -> list[nn.Module]:
        return list(self.model.columns.values())

    def units(self) -> list[nn.Parameter]:
        return list(self.model.units.parameters()) if self.model.layout.kind != PROGRESSIVE else []

    @property
    def tapped(self) -> tuple[str, ...]:
        return self._layers

    def tap(self, returns: Any) -> None:
        self._layers = tuple(dict.fromkeys(returns))
        self._paths = {
            task: {layer: self._name(self._column[task], layer) for layer in self._layers}
            for task in self.tasks
        }
        self._layer_of = {name: layer for path in self._paths.values() for layer, name in path.items()}
        super().tap(self._layer_of)

    def of(self, task: str, features: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {layer: features[name] for layer, name in self._paths[task].items()}

    def layer_of(self, name: str) -> str:
        return self._layer_of.get(name, name)

    def layer_names(self) -> list[str]:
        column = next(iter(self.model.columns.values()))
        return [POOLED, *(name for name, _ in column.named_modules() if name)]

    def only(self, tasks: Sequence[str]) -> Body:
        """The columns that these tasks need: those before the last of them, or all that are mixed."""
        tasks = [task for task in self.tasks if task in tasks]
        if len(tasks) == len(self.tasks):
            return self
        layout = self.model.layout
        if layout.kind == PROGRESSIVE:
            last = max(at for at, group in enumerate(layout.groups) if set(group) & set(tasks))
            layout = replace(layout, groups=layout.groups[: last + 1])
        whole = FAMILIES[self.family].restore(self.describe_whole())
        state, device = self.model.state_dict(), self.preprocess.mean.device
        if len(layout.groups) == 1:
            first = f"columns.{next(iter(layout.columns))}."
            whole.model.load_state_dict(
                {key.removeprefix(first): value for key, value in state.items() if key.startswith(first)}
            )
            return whole.to(device).train(self.training)
        part = Columns(whole, layout, tasks, self.model.chain)
        part.model.load_state_dict({key: state[key] for key in part.model.state_dict()})
        return part.to(device).train(self.training)

    def undecayed(self) -> list[str]:
        networks: list[Any] = self.networks
        listed = [
            f"model.columns.{column}.{name}"
            for column, network in zip(self.model.columns, networks, strict=True)
            for name in getattr(network, "no_weight_decay", set)()
        ]
        return listed + [
            f"model.{name}"
            for name, _ in self.model.named_parameters()
            if name.startswith("units.") and name.endswith(".alpha")
        ]

    def _find_stages(self) -> None:
        self.stages = self.model.stages
        self.tap((POOLED, *self.stages))

    def _name(self, column: str, layer: str) -> str:
        """Of the module that gives a layer on a column's path."""
        if layer not in (POOLED, LOGITS):
            names = self.layer_names()
            if layer.partition("[")[0] not in names:
                raise UserError(f"there is no layer '{layer}'.{nearest(layer, names)}")
            if self.model.has_unit(layer, column):
                return f"units.{unit_key(layer)}.{column}"
        return f"columns.{column}.{layer}"

    def _run(self, pixels: Tensor) -> dict[str, Tensor]:
        ends: dict[str, Tensor] = {}
        states = self.model.run(pixels.contiguous(memory_format=torch.channels_last))
        for column in dict.fromkeys(self._column[task] for task in self.tasks):
            name = f"columns.{column}.{POOLED}"
            # A layer of the head may be tapped too.
            if name in self.returns or not self.ends_with_features:
                network: Any = self.model.columns[column]
                ends[name] = network.forward_head(states[column], pre_logits=True)
        return ends


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


def _stages(named: Sequence[str], chain: Chain) -> tuple[str, ...]:
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
