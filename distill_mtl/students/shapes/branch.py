"""A tree: the first stages of a network serve all tasks, later ones some of them, each with its own weights."""

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor

from distill_mtl.errors import UserError
from distill_mtl.networks.stages import Chain
from distill_mtl.recipe.branches import Branches, mistakes_of_groups
from distill_mtl.students.owners import SettledBranches, in_words, nodes_of, only, settle
from distill_mtl.students.parted import PartedTrunk, PartNetwork
from distill_mtl.students.shape import SHAPES, chain_of
from distill_mtl.students.student import Trunk


@SHAPES.register("branch")
class SplitTrunk(PartedTrunk):
    """A body whose tasks part at some stages."""

    form = SettledBranches
    said: SettledBranches

    @classmethod
    def of_trunk(cls, whole: Trunk, said: Branches, tasks: Sequence[str], chain: Chain | None = None) -> Self:
        chain = chain or chain_of(whole)
        branches = settle(said, tasks, chain.position)
        nodes = nodes_of(branches, tasks, chain.position, len(chain))
        parts = {node.name: chain.cut(whole.model, node.start, node.stop) for node in nodes}
        return cls(whole, PartNetwork(parts, whole.model, chain, nodes, whole.stages), tasks, branches)

    @classmethod
    def mistakes(cls, said: SettledBranches, tasks: Sequence[str]) -> list[str]:
        return [
            f"{stage}: {text}" for stage, groups in said.items() for text in mistakes_of_groups(groups, tasks)
        ]

    @classmethod
    def inherited(
        cls, said: SettledBranches, old: Sequence[str], tasks: Sequence[str]
    ) -> SettledBranches | None:
        if new := [task for task in tasks if task not in old]:
            raise UserError(
                f"its tasks part in the trunk ({in_words(said)}), and {', '.join(new)} has no place there. Write a "
                "`branch` with all tasks."
            )
        return only(said, tasks) or None

    @property
    def layout(self) -> dict[str, Any]:
        return {"branch": self.said}

    def _state_of(self, part: PartedTrunk) -> dict[str, Tensor]:
        return part.from_paths({task: self.path_state(task) for task in part.tasks})
