"""distill_mtl merges trained single-task vision networks into one multi-task student.

    from distill_mtl import Recipe, distill, evaluate, load_student

Every command is a function here, with the command's arguments and checks. `load_student("runs/NAME/student")` gives
an `nn.Module` and imports nothing that training needs.
"""

import importlib
from typing import TYPE_CHECKING, Any

from distill_mtl.jobs import JOBS

if TYPE_CHECKING:
    from distill_mtl.errors import Stopped, UserError
    from distill_mtl.evaluation import Evaluation
    from distill_mtl.jobs.annotated_shards import (
        shards_from_coco,
        shards_from_hf,
        shards_from_voc,
        shards_from_yolo,
    )
    from distill_mtl.jobs.branch import branch
    from distill_mtl.jobs.cache import verify_cache, write_cache
    from distill_mtl.jobs.check import check
    from distill_mtl.jobs.distill import distill
    from distill_mtl.jobs.evaluate import evaluate
    from distill_mtl.jobs.export import export_student
    from distill_mtl.jobs.forecast import forecast
    from distill_mtl.jobs.index import index_shards
    from distill_mtl.jobs.new_recipe import draft_recipe, recipe_schema
    from distill_mtl.jobs.one_teacher import check_teacher, inspect_teacher, train_teacher
    from distill_mtl.jobs.predict import predict
    from distill_mtl.jobs.report import write_report
    from distill_mtl.jobs.shards import (
        shards_from_folder,
        shards_from_pairs,
        shards_from_table,
        shards_from_torchvision,
    )
    from distill_mtl.jobs.verify import verify_export
    from distill_mtl.recipe import Recipe, load_recipe
    from distill_mtl.students.student_folder import load_student

__version__ = "0.1.0"

_WHERE = {
    "Evaluation": "distill_mtl.evaluation",
    "Recipe": "distill_mtl.recipe",
    "Stopped": "distill_mtl.errors",
    "UserError": "distill_mtl.errors",
    "load_recipe": "distill_mtl.recipe",
    "load_student": "distill_mtl.students.student_folder",
    **{job.function: job.path for job in JOBS},
}

__all__ = [
    "Evaluation",
    "Recipe",
    "Stopped",
    "UserError",
    "__version__",
    "branch",
    "check",
    "check_teacher",
    "distill",
    "draft_recipe",
    "evaluate",
    "export_student",
    "forecast",
    "index_shards",
    "inspect_teacher",
    "load_recipe",
    "load_student",
    "predict",
    "recipe_schema",
    "shards_from_coco",
    "shards_from_folder",
    "shards_from_hf",
    "shards_from_pairs",
    "shards_from_table",
    "shards_from_torchvision",
    "shards_from_voc",
    "shards_from_yolo",
    "train_teacher",
    "verify_cache",
    "verify_export",
    "write_cache",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'distill_mtl' has no attribute '{name}'")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE})
