"""The comparison of a recipe's teachers, and the tree of a recipe that leaves it to `auto`."""

import torch
from accelerate.utils import broadcast_object_list

from distill_mtl.recipe import Recipe
from distill_mtl.students.initial_weights import build_student, find_initial_student
from distill_mtl.training.branching.find import Compared, gather
from distill_mtl.training.parts import build_sources, build_teachers


def compare_teachers(recipe: Recipe, rows: int, device: torch.device) -> Compared:
    """Load teachers and rows of a recipe, and the trunk that its student would have in one piece.

    Raises:
        UserError: something is missing or does not fit, or cannot be compared.
    """
