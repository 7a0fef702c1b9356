"""What an exported file says about itself, under the name that teachers' files use (`teachers/contract.py`)."""

from typing import Any

from distill_mtl import __version__
from distill_mtl.export.deployable import Deployable
from distill_mtl.networks.file_contract import NOTE

__all__ = ["NOTE", "describe"]


def describe(
    module: Deployable, recipe_sha256: str | None, precision: str = "fp32", *, resize: str | None = None
) -> dict[str, Any]:
    """The note, plain values for JSON.

    Keys: `inputs`, what to feed (`InputContract`); `tasks`, by name what each is (`TaskKind.describe`: kind, classes
    and options), and of a single task also `kind` and `classes` by themselves; `outputs`, names in their order;
    `preprocess`: pictures of any size go in, resize and normalisation are inside; `decode`: answers come out beside
    logits; `precision`, fp32 or int8; `resize`, what the student was evaluated on of a picture of another shape
    (crop: its centre; pad, squash: all of it), or null; `recipe_sha256` of the resolved recipe, or null;
    `distill_mtl`, the version.
    """
    tasks = {task: kind.describe() for task, kind in module.kinds.items()}
    alone = next(iter(tasks.values())) if len(tasks) == 1 else {}
    return {
        "inputs": module.inputs.to_dict(),
        **{key: alone[key] for key in ("kind", "classes") if key in alone},
        "tasks": tasks,
        "outputs": list(module(module.example())),
        "preprocess": module.pixels != "normalised",
        "decode": module.decode,
        "precision": precision,
        "resize": resize,
        "recipe_sha256": recipe_sha256,
        "distill_mtl": __version__,
    }
