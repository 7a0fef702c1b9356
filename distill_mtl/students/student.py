"""The student: a trunk that tasks share, one head per task; and the registry of families of trunks.

A recipe's `student.model` is a name of the default family, timm, or `FAMILY:NAME`. A new family is one
file in `families/`: build a module that follows the three conventions of `Backbone`, and say how.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distill_mtl.errors import StudentError, UserError
from distill_mtl.machine_memory import within_memory
from distill_mtl.networks.backbone import Backbone
from distill_mtl.networks.inputs import InputContract
from distill_mtl.networks.modes import evaluating, freeze
from distill_mtl.registry import Registry
from distill_mtl.tasks.base import TaskKind

if TYPE_CHECKING:
    from distill_mtl.balance import Shared, Tree


FAMILIES: Registry[type["Trunk"]] = Registry("student family", "distill_mtl.students.families")
DEFAULT_FAMILY = "timm"
OWN_CODE = "module"
"""The family of networks of the user's code."""


WHOLE = ""
"""Name of the part of a body that has no parts: the whole."""


@dataclass(frozen=True)
class Computation:
    """What a forward pass computes once for some tasks.

    Attributes:
        part: that has its weights.
        tasks: that share it.
        parent: the part whose result it takes; None: it takes the image.
        begins: name of its first step.
        run: run it once more, on what the computations before it gave.
    """

    part: str
    tasks: tuple[str, ...]
    parent: str | None
    begins: str
    run: Callable[[], object]


class Body(Backbone):
    """What stands between images and heads: images in [0, 1] -> the features that heads and hints read.

    All tasks read the same features of a `Trunk`. Other shapes have parts that serve some tasks only; `of` says what
    a task reads.

    Args:
        model: the network, without a classifier.
        inputs: what it is trained on.
        name: of the architecture, within the family.
        args: plain values with which the family's `build` makes the same network again.

    Attributes:
        family: name that a recipe uses.
    """

    family: str

    def __init__(self, model: nn.Module, inputs: InputContract, name: str, args: Mapping[str, Any]) -> None:
        super().__init__(model, inputs)
        self.name, self.args = name, dict(args)

    @property
    def parts(self) -> Mapping[str, tuple[str, ...]]:
        """Name of each part that serves some tasks only, or all -> these tasks; empty where all tasks share all."""
        return {}

    @property
    def frozen(self) -> tuple[str, ...]:
        """Tasks whose answers never change: what they need of the body, and their heads, do not train."""
        return ()

    @property
    def networks(self) -> list[nn.Module]:
        """The whole networks that it holds, each of which begins with pixels."""
        return [self.model]

    def units(self) -> list[nn.Parameter]:
        """Parameters that join networks; an optimizer steps them at a rate of their own."""
        return []

    @property
    def tapped(self) -> tuple[str, ...]:
        """The layers that `tap` was asked for."""
        return self.returns

    def alone(self, task: str) -> list[str]:
        """The parts that serve this task only."""
        return [part for part, tasks in self.parts.items() if tasks == (task,)]

    def owned(self, part: str) -> dict[str, nn.Parameter]:
        """The parameters of a part, by their names in the body; each parameter has one part."""
        return dict(self.named_parameters()) if part == WHOLE else _below(self, f"model.{part}.")

    def keys(self, part: str) -> dict[str, str]:
        """Name of each tensor of a part in a whole network of the architecture -> its name in `model`'s state."""
        names = self.model.state_dict()
        prefix = "" if part == WHOLE else f"{part}."
        return {name.removeprefix(prefix): name for name in names if name.startswith(prefix)}

    def path_state(self, task: str) -> dict[str, Tensor]:
        """The state dict of a whole network of the architecture that computes what this task reads."""
        state = self.model.state_dict()
        served = [part for part, tasks in self.parts.items() if task in tasks] or [WHOLE]
        return {key: state[name] for part in served for key, name in self.keys(part).items()}

    def no_network(self) -> str:
        """Why the body as a whole is no plain network of its architecture; empty for a trunk."""
        if not self.parts:
            return ""
        return "its tasks part in the trunk, so it is no single network of timm. Name one with --only: its path is."

    @property
    def layout(self) -> dict[str, Any]:
        """What a recipe's `student` says of this shape, in its settled form; empty for a plain trunk."""
        return {}

    @property
    def compares(self) -> bool:
        """Whether some tasks read the same features, so that their gradients can be compared there."""
        return True

    def cut(self, images: Tensor, tasks: Sequence[str]) -> "Shared | Tree":
        """The features of a forward pass, cut where tasks read the same ones, for the balancing rules.

        A body whose tasks read no common tensor has a tree with one node for each task and no cut at all.

        Args:
            images: float [B, 3, H, W] in [0, 1].
            tasks: names of all tasks.
        """
        features = self(images)
        from distill_mtl.balance import Tree  # a deployed student needs none of it

        tree = Tree(tasks, self.in_common())
        for task in tasks:
            tree.add(task, [task], dict, inputs=self.of(task, features))
        return tree

    def in_common(self) -> list[nn.Parameter]:
        """Parameters that several tasks depend on behind the cut, or where there is none: `mgda` compares the tasks'
        gradients there."""
        if self.compares:
            return []
        shared = (part for part, tasks in self.parts.items() if len(tasks) > 1)
        return [value for part in shared for value in self.owned(part).values() if value.requires_grad]

    def beyond_cut(self) -> list[nn.Parameter]:
        """Parameters that have their gradient from the heads' backward, and not from that of a cut."""
        return [*self.parameters()]

    def computed(self, images: Tensor) -> list["Computation"]:
        """What a forward pass computes, in order, with a function for each to run it alone; nothing of a plain trunk.

        A part whose computations do not follow one another comes several times.

        Args:
            images: float [B, 3, H, W] in [0, 1], without gradients.
        """
        return []

    def of(self, task: str, features: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The features of one task by layer, from what a forward pass gave, or from copies of it by the same names."""
        return features

    def only(self, tasks: Sequence[str]) -> "Body":
        """The part of the body that serves these tasks."""
        return self

    def take_pixels(self) -> list[nn.Parameter]:
        """The matrices and convolutions that images go through first."""
        # A table of positions or a class token may stand before them, and is no `weight`.
        matrices = (
            [p for name, p in network.named_parameters() if p.ndim > 1 and name.endswith("weight")]
            for network in self.networks
        )
        return [first for first, *_ in matrices]

    def undecayed(self) -> list[str]:
        """Names of the parameters that the network wants without weight decay."""
        listed: set[str] = getattr(self.model, "no_weight_decay", set)()
        return [f"model.{name}" for name in listed]

    def from_whole(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of `model` with the weights of one whole network of its architecture."""
        return self.from_paths({WHOLE: state})

    def from_paths(self, paths: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The state dict of `model` from whole networks of its architecture.

        Args:
            paths: task -> state of the network that its path begins with. A part begins with the path of its tasks;
                a part of other tasks alone with the first.

        Raises:
            UserError: tasks that share a part have different weights for it.
        """
        given: dict[str, Tensor] = {}
        known: set[str] = set()
        for part, tasks in (self.parts or {WHOLE: ()}).items():
            served = [task for task in tasks or paths if task in paths] or [*paths][:1]
            first = paths[served[0]]
            keys = self.keys(part)
            known |= set(keys)
            for other in served[1:]:
                if any(key in first and not _same(first[key], paths[other].get(key)) for key in keys):
                    raise UserError(
                        f"{served[0]} and {other} have weights of their own for what they would share here. Let "
                        "them part there too, or begin with the path of one task: `distill-mtl export --to timm --only "
                        "TASK`."
                    )
            given |= {name: first[key] for key, name in keys.items() if key in first}
        unknown = {key: value for state in paths.values() for key, value in state.items() if key not in known}
        return given | unknown

    def from_body(self, old: "Body", tasks: Sequence[str]) -> dict[str, Tensor]:
        """The state dict of `model` that begins as an older body with these tasks.

        Raises:
            UserError: tasks that share a part have different weights for it, or no weights of their own.
        """
        same = old.only(tasks)
        if same.layout and same.layout == self.layout:
            return dict(same.model.state_dict())
        return self.from_paths({task: old.path_state(task) for task in tasks})

    def seen_by(self, task: str) -> "Body":
        """A body that gives the features of one task, by layer."""
        return self.only([task])

    def describe(self) -> dict[str, Any]:
        """What a student's config.json keeps."""
        return {**self.describe_whole(), **self.layout}

    def describe_whole(self) -> dict[str, Any]:
        """The same of the plain trunk of this architecture."""
        return {
            "family": self.family,
            "model": self.name,
            "args": self.args,
            "inputs": self.inputs.to_dict(),
            **({"code": code} if (code := self.code) else {}),
        }

    @property
    def code(self) -> dict[str, str]:
        """The user's code that it needs: `module`, `file` and `sha256`; empty where it needs none."""
        return FAMILIES[self.family].code_of(self.name)

    def reads(self) -> str:
        """What is read of a network of the user's code, in words; empty for one whose layers its library names."""
        return ""

    def classifier(self) -> tuple[str, ...]:
        """Layers that a whole network of the architecture has, and a trunk has not."""
        named = getattr(self.model, "pretrained_cfg", {}).get("classifier") or ()
        return (named,) if isinstance(named, str) else tuple(named)

    @torch.enable_grad()
    def parameters_behind(self, layers: Iterable[str], task: str | None = None) -> frozenset[str]:
        """Names of the trainable parameters that the layers' outputs depend on, by a pass of a black image.

        Args:
            layers: names of layers.
            task: whose layers; None: those of every task.

        Raises:
            UserError: there is no such layer, or its output cannot be read.
        """
        wanted = list(layers)
        trainable = {name: value for name, value in self.named_parameters() if value.requires_grad}
        if not wanted or not trainable:
            return frozenset()
        before = self.tapped
        try:
            self.tap((*before, *wanted))
            with evaluating(self):
                given = self(torch.zeros(1, 3, *self.inputs.size, device=self.preprocess.mean.device))
            tasks = [task] if task is not None else list(dict.fromkeys(chain(*self.parts.values())))
            read = [self.of(one, given)[layer] for one in tasks for layer in wanted]
        finally:
            self.tap(before)
        read = read or [given[layer] for layer in wanted]
        total = torch.stack([feature.float().sum() for feature in read]).sum()
        gradients = torch.autograd.grad(total, list(trainable.values()), allow_unused=True)
        return frozenset(
            name for name, gradient in zip(trainable, gradients, strict=True) if gradient is not None
        )


class Trunk(Body, ABC):
    """A body that all tasks share, and how a family makes it. The base class of families."""

    def cut(self, images: Tensor, tasks: Sequence[str]) -> "Shared | Tree":
        from distill_mtl.balance import Shared  # a deployed student needs none of it

        return Shared(self(images), tasks)

    def beyond_cut(self) -> list[nn.Parameter]:
        return []

    @classmethod
    @abstractmethod
    def create(
        cls, name: str, args: Mapping[str, Any], size: tuple[int, int] | None, *, pretrained: bool
    ) -> "Trunk":
        """The trunk that a recipe asks for; `size` None: the one the architecture was made for.

        Raises:
            StudentError: no such architecture or arguments, or no pretrained weights within reach.
        """

    @classmethod
    @abstractmethod
    def build(cls, name: str, args: Mapping[str, Any]) -> nn.Module:
        """The bare network with random weights, from what `describe` keeps."""

    @classmethod
    def code_of(cls, name: str) -> dict[str, str]:
        """What `code` says of an architecture."""
        return {}

    @classmethod
    def restore(cls, entry: Mapping[str, Any]) -> "Trunk":
        """The trunk that `describe` described, with random weights."""
        inputs = InputContract.from_dict(entry["inputs"])
        return cls(cls.build(entry["model"], entry["args"]), inputs, entry["model"], entry["args"])


def _below(module: nn.Module, prefix: str) -> dict[str, nn.Parameter]:
    return {name: value for name, value in module.named_parameters() if name.startswith(prefix)}


def _same(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and torch.equal(one, other)


def split_family(model: str) -> tuple[str, str]:
    """Family and name in a recipe's `student.model`."""
    family, colon, name = model.partition(":")
    return (family, name) if colon else (DEFAULT_FAMILY, model)


class Student(nn.Module):
    """Images [B, 3, H, W] in [0, 1] -> logits per task.

    Training runs `trunk` and `heads` itself, to cut between them. Hint adapters are not part of it.

    Args:
        trunk: shared by all tasks, or with parts for some of them.
        kinds: task -> its kind, which makes the head.

    Attributes:
        heads: task -> module from named features to logits.

    Raises:
        StudentError: a task's name cannot be used, or the trunk lacks what a head reads.
    """

    def __init__(self, trunk: Body, kinds: Mapping[str, TaskKind]) -> None:
        super().__init__()
        self.trunk = trunk
        self.kinds = dict(kinds)
        self.heads = nn.ModuleDict()
        for task, kind in kinds.items():
            if hasattr(self.heads, task):
                raise StudentError(f"tasks.{task}: PyTorch keeps this name for itself. Rename the task.")
            try:
                with within_memory("its head", "Give it fewer classes, or a smaller head."):
                    self.heads[task] = kind.head(trunk.shapes)
            except UserError as error:
                raise StudentError(f"tasks.{task}: {error} The student is {trunk.name}.") from error
            if task in trunk.frozen:
                freeze(self.heads[task])
        self.tap(())

    def train(self, mode: bool = True) -> "Student":
        """Heads of frozen tasks stay in evaluation mode."""
        super().train(mode)
        for task in self.trunk.frozen:
            if task in self.heads:
                self.heads[task].eval()
        return self

    def tap(self, layers: Sequence[str]) -> None:
        """Let the trunk give these features besides those that the heads read."""
        shapes = dict(self.trunk.shapes)
        read = [name for kind in self.kinds.values() for name in kind.needs(shapes)]
        self.trunk.tap((*read, *layers))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of every task, as its head gives them."""
        features = self.trunk(images)
        return {task: head(self.trunk.of(task, features)) for task, head in self.heads.items()}
