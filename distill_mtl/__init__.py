"""distill_mtl merges trained single-task vision networks into one multi-task student.

    from distill_mtl import Recipe, distill, evaluate, load_student

`load_student("runs/NAME/student")` gives an `nn.Module` and imports nothing that training needs.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "Evaluation": "distill_mtl.evaluation",
    "Recipe": "distill_mtl.recipe",
    "distill": "distill_mtl.jobs.distill",
    "evaluate": "distill_mtl.jobs.evaluate",
    "load_recipe": "distill_mtl.recipe",
    "load_student": "distill_mtl.students.student_folder",
}

__all__ = ["Evaluation", "Recipe", "__version__", "distill", "evaluate", "load_recipe", "load_student"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'distill_mtl' has no attribute '{name}'")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
