"""Own first stages for groups of tasks, and a trunk behind whose weights are common (Luong et al. 2016, Caruana 1997).

For inputs that differ, such as grey X-rays and photographs. What the encoders give differs, so the trunk behind them
runs once for each encoder: common weights save parameters here, and no time.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn

from distill_mtl.errors import UserError
from distill_mtl.networks.stages import Chain
from distill_mtl.recipe.branches import ROOT, mistakes_of_groups
from distill_mtl.recipe.schema import EncodersSection
from distill_mtl.students.owners import Node
from distill_mtl.students.parted import PartedTrunk, PartNetwork, holding, using
from distill_mtl.students.shape import SHAPES, Shape, chain_of
from distill_mtl.students.student import Trunk

if TYPE_CHECKING:
    from distill_mtl.balance import Shared, Tree


Groups = dict[str, list[str]]


@SHAPES.register("encoders")
class EncodersTrunk(PartedTrunk):
    """A body with own first stages for groups of tasks.

    The part of all tasks, `root`, has the parameters of the common trunk; each encoder's part runs from the image to
    the end.
    """

    form = EncodersSection
    said: EncodersSection

    @classmethod
    def of_trunk(
        cls, whole: Trunk, said: EncodersSection | Groups, tasks: Sequence[str], chain: Chain | None = None
    ) -> Self:
        chain = chain or chain_of(whole)
        asked = said if isinstance(said, EncodersSection) else EncodersSection(groups=said)
        until = asked.until or _behind_stem(chain, whole.model)
        start = chain.position(until)
        if start == 0:
            raise UserError(f"until: {until} is the first step, so that nothing is left for the encoders.")
        root = holding(chain.cut(whole.model, start, len(chain)))
        parts = {ROOT: root}
        nodes = []
        for name, group in asked.groups.items():
            parts[name] = using(chain.cut(whole.model, 0, len(chain)), root)
            served = tuple(task for task in tasks if task in group)
            nodes.append(Node(name, served, 0, len(chain), None))
        settled = EncodersSection(groups=asked.groups, until=until)
        return cls(whole, PartNetwork(parts, whole.model, chain, nodes, whole.stages), tasks, settled)

    @classmethod
    def mistakes(cls, said: EncodersSection, tasks: Sequence[str]) -> list[str]:
        return mistakes_of_groups([*said.groups.values()], tasks)

    @classmethod
    def inherited(
        cls, said: EncodersSection, old: Sequence[str], tasks: Sequence[str]
    ) -> EncodersSection | None:
        if new := [task for task in tasks if task not in old]:
            raise UserError(
                f"groups of tasks have encoders of their own, and {', '.join(new)} is in no group. Write `encoders` "
                "with all tasks."
            )
        left = {name: [task for task in group if task in tasks] for name, group in said.groups.items()}
        left = {name: group for name, group in left.items() if group}
        return EncodersSection(groups=left, until=said.until) if len(left) > 1 else None

    @property
    def layout(self) -> dict[str, Any]:
        return {"encoders": self.said.model_dump(mode="json")}

    @property
    def compares(self) -> bool:
        return False

    def cut(self, images: Tensor, tasks: Sequence[str]) -> "Shared | Tree":
        return Shape.cut(self, images, tasks)

    def beyond_cut(self) -> list[nn.Parameter]:
        return [*self.parameters()]


def _behind_stem(chain: Chain, model: nn.Module) -> str:
    """The first stage of the network behind a step with weights."""
    held = [name for name, _ in model.named_parameters()]
    before = False
    for step in chain.steps:
        stage = any(
            f"{name}.".startswith(f"{step.name}.") or step.name.startswith(f"{name}.")
            for name in chain.stages
        )
        weights = any(f"{name}.".startswith(f"{own}.") for name in held for own in step.holds)
        if before and stage and weights:
            return step.name
        before = before or weights
    raise UserError("the network has no stage behind its stem. Name the first common one with `until`.")
