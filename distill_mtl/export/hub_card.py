"""The README.md of a student on the Hugging Face hub: the run's model card, with what the hub asks for on top."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from distill_mtl.errors import ExportError, brief
from distill_mtl.evaluation import Evaluation
from distill_mtl.export.format import Order
from distill_mtl.networks.weights import CARD
from distill_mtl.report.model_card import model_card

PLACE = "path/to/this/folder"
"""What the run's card says for the folder in its example."""
UNKNOWN = "unknown"
"""The hub's own word for a licence that nobody has named."""


def hub_card(order: Order) -> str:
    """The card with its YAML front matter: library_name, licence, tags.

    The run's own card where the whole student is exported; else a new one, with the scores of the tasks that are.

    Raises:
        ExportError: the run's card has a front matter that is no YAML.
    """
    card = ModelCard(_text(order))
    card.data["library_name"] = "distill_mtl"
    card.data["license"] = order.license or card.data.get("license") or UNKNOWN
    text = str(card)
    return text.replace(PLACE, f"hf_hub:{order.repo}") if order.repo is not None else text


def _text(order: Order) -> str:
    """The card as the run wrote it, or a new one."""
    whole = set(order.trained.load().student.kinds) == set(order.tasks)
    path = order.trained.folder / CARD
    if whole and path.is_file():
        text = path.read_text(encoding="utf-8")
        try:
            ModelCard(text, ignore_metadata_errors=False)
        # Whatever a YAML reader stumbles over.
        except Exception as error:
            raise ExportError(
                f"{path}: its front matter cannot be read: {brief(error)}. Correct it."
            ) from error
        return text
    trunk = order.student.trunk
    text = model_card(
        name=order.trained.name,
        architecture=trunk.name,
        size=trunk.inputs.size,
        kinds=order.student.kinds,
        teachers=_teachers(order),
        recipe_digest=order.trained.recipe_sha256,
    )
    scores = _scores(order)
    return text + (f"\n## Student against teachers\n\n{scores}\n" if scores else "")


def _teachers(order: Order) -> dict[str, str]:
    """What taught each task, as the run's teachers.json says."""
    found = _json(order.trained.home / "teachers.json")
    return {
        task: f"{Path(found[task]['file']).parent.name} {found[task]['sha256'][:12]}"
        for task in order.tasks
        if task in found
    }


def _scores(order: Order) -> str:
    """A table of the run's results.json, of the tasks that are exported; empty where there is none."""
    path = order.trained.home / "results.json"
    results = Evaluation.read(path).tasks if path.is_file() else {}
    rows = [
        f"| {task} | {result.metric} | {result.rows:,} | {_number(result.teacher)} | "
        f"{_number(result.student)} | {_number(result.delta)} |"
        for task, result in results.items()
        if task in order.tasks
    ]
    head = "| task | metric | rows | teacher | student | delta |\n| --- | --- | ---: | ---: | ---: | ---: |"
    return "\n".join([head, *rows]) if rows else ""


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _json(path: Path) -> Mapping[str, Any]:
    """The object in a file of a run; empty where there is no such file."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found
