"""Columns: networks of one architecture side by side, joined behind some of their stages.

Every task has a column of its own, and units mix their states (`cross_stitch`, `sluice`, `nddr`); or columns were
trained one after the other, and a later one reads the earlier ones, which are frozen (`progressive`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain as chained
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distill_mtl.errors import StudentError, UserError, nearest
from distill_mtl.networks.backbone import LOGITS, POOLED
from distill_mtl.networks.stages import Chain
from distill_mtl.recipe.schema import ColumnsSection
from distill_mtl.students.column_network import (
    PROGRESSIVE,
    ColumnLayout,
    ColumnNetwork,
    ColumnPath,
    stages_of,
    unit_key,
)
from distill_mtl.students.shape import SHAPES, Shape, chain_of
from distill_mtl.students.student import FAMILIES, Body, Computation, Trunk

if TYPE_CHECKING:
    from distill_mtl.balance import Shared, Tree


class PathBody(Body):
    """The features of one task of coupled columns, by layer."""

    def __init__(self, columns: "Columns", column: str) -> None:
        self.family = columns.family
        super().__init__(ColumnPath(columns.model, column), columns.inputs, columns.name, columns.args)


@SHAPES.register("columns")
class Columns(Shape):
    """A body of columns.

    Features have the names of the modules that give them. A stage with a unit behind it is read behind the unit.

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
        chain = chain or chain_of(whole)
        noise = torch.Generator().manual_seed(0)
        pixels = whole.preprocess(torch.rand(2, 3, *whole.inputs.size, generator=noise))
        layout = replace(layout, after=stages_of(layout.after, chain))
        network = ColumnNetwork(whole.model, chain, layout, whole.stages, pixels)
        self.family, self.tasks, self.ends = whole.family, tuple(tasks), whole.classifier()
        self._column = {task: name for name, group in layout.columns.items() for task in group}
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

    def no_network(self) -> str:
        for task in self.tasks:
            self.path_state(task)  # raises where no single network answers as it does
        return "its columns are several networks. Name one task with --only."

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

    def cut(self, images: Tensor, tasks: Sequence[str]) -> "Shared | Tree":
        if self.model.layout.kind != PROGRESSIVE:
            return super().cut(images, tasks)
        from distill_mtl.balance import Shared  # a deployed student needs none of it

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

    def names_of(self, layer: str) -> Mapping[str, str]:
        return {task: self._name(self._column[task], layer) for task in self.tasks}

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
