"""Private norms and adapters: every task has some layers for itself, and all other weights are common.

Normalisation by task is that of Bilen & Vedaldi 2017 (arXiv:1701.07275); adapters are the 1x1 convolutions of Rebuffi
et al. 2017 (series, arXiv:1705.08045) and 2018 (parallel, arXiv:1803.10082), which begin at zero. What private layers
compute differs by task, and so does all that follows: from the first stage with one on, every task has its own pass.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from distill_mtl.errors import UserError
from distill_mtl.networks.stages import Chain
from distill_mtl.recipe.branches import ROOT
from distill_mtl.recipe.schema import PrivateSection
from distill_mtl.students.owners import Node
from distill_mtl.students.parted import PartedTrunk, PartNetwork, holding, using
from distill_mtl.students.shape import SHAPES, chain_of
from distill_mtl.students.student import Trunk

ADAPTER = "adapter"
_WEIGHT = f".{ADAPTER}.weight"


@SHAPES.register("private")
class PrivateTrunk(PartedTrunk):
    """A body of which each task has some layers for itself, from a stage on.

    The part of all tasks, `root`, computes the stages before the first private layer, and has all common parameters.
    """

    form = PrivateSection
    said: PrivateSection

    @classmethod
    def of_trunk(
        cls, whole: Trunk, said: PrivateSection, tasks: Sequence[str], chain: Chain | None = None
    ) -> Self:
        chain = chain or chain_of(whole)
        modules = dict(whole.model.named_modules())
        norms = _found(
            chain, "norms", said.norms, {name for name, module in modules.items() if is_norm(module)}
        )
        convolutions = {name for name, module in modules.items() if _takes_adapter(module)}
        adapted = _found(chain, "adapters", said.adapters, convolutions)
        start = min(_step_of(chain, name) for name in (*norms, *adapted))
        # Named so, because a table that is reckoned anew, as of rotary positions, is in no state dict.
        before = dict(chain.cut(whole.model, 0, start).named_buffers()) if start else ()
        root = holding(chain.cut(whole.model, 0, len(chain)), before)
        for name in norms:
            _replace(root, name, nn.Identity())
        parts = {ROOT: root}
        for task in tasks:
            parts[task] = using(chain.cut(whole.model, start, len(chain)), root)
            for name in adapted:
                _adapt(parts[task].get_submodule(name), said.kind)
        nodes = [Node(ROOT, tuple(tasks), 0, start, None)] if start else []
        nodes += [Node(task, (task,), start, len(chain), ROOT if start else None) for task in tasks]
        return cls(whole, PartNetwork(parts, whole.model, chain, nodes, whole.stages), tasks, said)

    @classmethod
    def mistakes(cls, said: PrivateSection, tasks: Sequence[str]) -> list[str]:
        return [] if said.norms or said.adapters else ["found neither norms nor adapters."]

    @classmethod
    def inherited(
        cls, said: PrivateSection, old: Sequence[str], tasks: Sequence[str]
    ) -> PrivateSection | None:
        if said.adapters and (new := [task for task in tasks if task not in old]):
            raise UserError(
                f"each task has adapters, and {', '.join(new)} has none there. Write the shape of the student, and "
                "begin with the path of one task: `distill-mtl export --to timm --only TASK`."
            )
        return said if len(tasks) > 1 else None

    @property
    def layout(self) -> dict[str, Any]:
        return {"private": self.said.model_dump(mode="json", exclude_none=True)}

    def in_common(self) -> list[nn.Parameter]:
        behind = {id(parameter) for parameter in self.beyond_cut()}
        return [parameter for parameter in self.owned(ROOT).values() if id(parameter) in behind]

    def path_state(self, task: str) -> dict[str, Tensor]:
        """As `Body.path_state`, with the adapters folded into their convolutions."""
        state = super().path_state(task)
        for name in [key.removesuffix(_WEIGHT) for key in state if key.endswith(_WEIGHT)]:
            adapter = state.pop(name + _WEIGHT)
            given = {
                part: state[f"{name}.{part}"] for part in ("weight", "bias") if f"{name}.{part}" in state
            }
            state |= {
                f"{name}.{part}": value for part, value in _folded(given, adapter, self.said.kind).items()
            }
        return state

    def from_paths(self, paths: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """As `Body.from_paths`; adapters stay as they are."""
        own = {name: value for name, value in self.model.state_dict().items() if name.endswith(_WEIGHT)}
        return own | super().from_paths(paths)


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises: its class says so, and it has no convolution or linear layer inside."""
    named = any("Norm" in base.__name__ for base in type(module).__mro__)
    holds = any(isinstance(inner, nn.Conv2d | nn.Linear) for inner in module.modules())
    return named and not holds and bool(module.state_dict())


def _takes_adapter(module: nn.Module) -> bool:
    """Whether a convolution is larger than 1x1, and a 1x1 convolution beside it is part of its kernel's centre."""
    return (
        type(module) is nn.Conv2d
        and module.groups == 1
        and max(module.kernel_size) > 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and all(
            2 * padding == dilation * (size - 1)
            for size, padding, dilation in zip(
                module.kernel_size, module.padding, module.dilation, strict=True
            )
        )
    )


def _found(chain: Chain, key: str, stages: Iterable[str] | None, names: set[str]) -> list[str]:
    """Those of the modules that stand in the stages, in the order of the steps.

    Raises:
        UserError: there is no such stage, or none of the modules in it.
    """
    if stages is None:
        return []
    found: dict[str, None] = {}
    steps = [[name for name in names if _holds(chain, at, name)] for at in range(len(chain))]
    wanted: dict[str, list[int]] = {"all": [*range(len(chain))]}
    if stages != "all":
        wanted = {stage: _positions(chain, stage) for stage in stages}
    for stage, positions in wanted.items():
        inside = [name for at in positions for name in sorted(steps[at])]
        if not inside:
            able = ", ".join(name for name, there in zip(chain.names, steps, strict=True) if there)
            what = (
                "normalisation layer"
                if key == "norms"
                else "convolution larger than 1x1 that takes an adapter"
            )
            where = f"Stages with one: {able}" if able else f"No stage has one. Remove `{key}`"
            raise UserError(f"{key}: {stage} has no {what}. {where}.")
        found |= dict.fromkeys(inside)
    return list(found)


def _positions(chain: Chain, stage: str) -> list[int]:
    first = chain.position(stage)
    names = chain.names
    return [at for at, name in enumerate(names) if at == first or name.startswith(f"{stage}.")]


def _holds(chain: Chain, at: int, module: str) -> bool:
    return any(module == held or module.startswith(f"{held}.") for held in chain.steps[at].holds)


def _step_of(chain: Chain, module: str) -> int:
    return next(at for at in range(len(chain)) if _holds(chain, at, module))


def _replace(part: nn.Module, name: str, by: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(part.get_submodule(parent), child, by)


# Adapters -----------------------------------------------------------------------------------------


def _adapt(convolution: Any, kind: str) -> None:
    """Give a convolution an adapter, of zeros."""
    series = kind == "series"
    channels = convolution.out_channels if series else convolution.in_channels
    adapter = nn.Conv2d(channels, convolution.out_channels, 1, bias=False)
    nn.init.zeros_(adapter.weight)
    convolution.add_module(ADAPTER, adapter)
    convolution.register_forward_hook(_behind if series else _beside)


def _behind(convolution: Any, given: tuple[Tensor], output: Tensor) -> Tensor:
    return output + convolution.adapter(output)


def _beside(convolution: Any, given: tuple[Tensor], output: Tensor) -> Tensor:
    # Not a stride of the adapter's: oneDNN's gradient of a strided 1x1 convolution of pixels writes where it must not
    # (torch 2.14, 3 channels, 224 px, channels last).
    down, right = convolution.stride
    return output + convolution.adapter(given[0][:, :, ::down, ::right])


def _folded(convolution: Mapping[str, Tensor], adapter: Tensor, kind: str) -> dict[str, Tensor]:
    """Weight and bias of the one convolution that computes what both do."""
    weight, mixing = convolution["weight"].double(), adapter[:, :, 0, 0].double()
    bias = convolution.get("bias")
    if kind == "series":
        weight = weight + torch.einsum("oc,cihw->oihw", mixing, weight)
        bias = None if bias is None else bias.double() + mixing @ bias.double()
    else:
        weight = weight.clone()
        weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2] += mixing
    folded = {"weight": weight, **({} if bias is None else {"bias": bias})}
    return {name: value.to(convolution[name].dtype) for name, value in folded.items()}
