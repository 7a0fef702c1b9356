"""The README.md of a student's folder: what the network does, how good it is, how to load it."""

import json
from collections.abc import Mapping

import yaml

from distill_mtl.evaluation.result import Evaluation, TaskResult
from distill_mtl.report import words
from distill_mtl.report.blocks import Cell, Table
from distill_mtl.report.markdown import code, code_block, markdown_summary, markdown_table, plain
from distill_mtl.tasks.base import TaskKind

_SHOWN_CLASSES = 20
_DETAILS = (
    "ECE is the expected calibration error in points: how far confidence is from being right. McNemar's test asks "
    "whether two accuracies differ at all; (groups): in its form for rows that come in groups."
)


def model_card(
    *,
    name: str,
    architecture: str,
    size: tuple[int, int],
    kinds: Mapping[str, TaskKind],
    teachers: Mapping[str, str] | None = None,
    evaluation: Evaluation | None = None,
    recipe_digest: str | None = None,
    needs: Mapping[str, str] | None = None,
) -> str:
    """A model card in Markdown with the front matter that model hubs read.

    Args:
        name: of the run.
        architecture: the trunk's name in timm.
        size: height and width that the network works at.
        kinds: its tasks.
        teachers: by task, what taught it (a folder, a digest).
        evaluation: the comparison whose table the card shows.
        recipe_digest: sha256 of the resolved recipe.
        needs: the user's code that its trunk needs, as `Body.code` says it.
    """
    front = yaml.safe_dump(
        {"library_name": "distill_mtl", "tags": ["multi-task", "distillation", *_kind_names(kinds)]},
        sort_keys=False,
    )
    sections = [
        f"---\n{front}---",
        f"# {plain(name)}",
        f"One network for {_count(len(kinds), 'task')}: a {code(architecture)} trunk with a light head per task, "
        f"{'distilled from trained networks' if teachers else 'trained on labels'} with distill_mtl.",
        f"## Use\n\n{_usage(kinds, size, needs or {})}",
        f"## Tasks\n\n{_tasks(kinds, teachers or {})}",
    ]
    if evaluation is not None:
        sections.append(f"## Student against teachers\n\n{_results(evaluation)}")
    sections.append(f"## Origin\n\n{_origin(recipe_digest)}")
    return "\n\n".join(sections) + "\n"


def _usage(kinds: Mapping[str, TaskKind], size: tuple[int, int], needs: Mapping[str, str]) -> str:
    task = next(iter(kinds))
    height, width = size
    folder = '"path/to/this/folder"' + (
        ", trust=True" if needs or any(":" in each.name for each in kinds.values()) else ""
    )
    own = (
        f"\n\nIts trunk is built by code that is not in this folder: {code(needs['module'])}, in a file "
        f"{code(needs['file'])} with sha256 {code(needs['sha256'])}. It must be importable."
        if needs
        else ""
    )
    return code_block(
        "import torch\n"
        "from distill_mtl import load_student\n\n"
        f"student = load_student({folder})\n"
        f"images = torch.rand(1, 3, {height}, {width})  # RGB in [0, 1]\n"
        "answers = student(images)\n"
        f"answers[{json.dumps(task, ensure_ascii=False)}].keys()  # logits, and what is decoded from them",
        "python",
    ) + (
        f"\n\nImages of any size are resized to {height} x {width} and normalised inside; give them as read, "
        f"without normalisation.{own}"
    )


def _tasks(kinds: Mapping[str, TaskKind], teachers: Mapping[str, str]) -> str:
    rows = []
    for task, kind in kinds.items():
        taught = Cell(teachers[task], "code") if task in teachers else Cell("labels only")
        rows.append([Cell(task), Cell(kind.name), Cell(_classes(kind)), taught])
    columns = ["task", "kind", "classes", "taught by"]
    return markdown_table(Table("Tasks", columns, rows, frozenset(columns)))


def _classes(kind: TaskKind) -> str:
    names = ", ".join(kind.classes[:_SHOWN_CLASSES])
    hidden = len(kind.classes) - _SHOWN_CLASSES
    return f"{len(kind.classes)}: {names}" + (f", and {hidden} more in config.json" if hidden > 0 else "")


def _results(evaluation: Evaluation) -> str:
    measured = (
        f"Measured on each task's own labelled {evaluation.split} rows, scores in points of 100, degrees, or "
        "(`mae`, `rmse`) the unit of the labels. `delta` is positive where the student is better; its interval is "
        "a paired bootstrap over groups of rows; "
        "`agree` is how often student and teacher decide alike. ✓ is non-inferior (the interval stays within the "
        "margin), ✗ inferior, ? undecided. A multiplication and an addition count as "
        "two FLOPs; `share` is a head's part of the student's."
    )
    parts = [measured, markdown_summary(evaluation).rstrip()]
    if any(_has_details(result) for result in evaluation.tasks.values()):
        parts += [_DETAILS, markdown_table(details_table(evaluation))]
    return "\n\n".join(parts)


def details_table(evaluation: Evaluation) -> Table:
    """Beside the scores: confidence, and which rows one network alone gets right; of the tasks that have either."""
    columns = ["task", "ECE teacher", "ECE student", "only teacher right", "only student right", "McNemar p"]
    rows = [
        [Cell(task), *map(Cell, _details(result))]
        for task, result in evaluation.tasks.items()
        if _has_details(result)
    ]
    return Table("Confidence and McNemar's test", columns, rows, frozenset({"task"}))


def _has_details(result: TaskResult) -> bool:
    return result.ece is not None or result.mcnemar is not None


def _details(result: TaskResult) -> list[str]:
    ece, test = result.ece, result.mcnemar
    return [
        words.NONE if ece is None or ece.teacher is None else f"{ece.teacher:.2f}",
        words.NONE if ece is None else f"{ece.student:.2f}",
        words.NONE if test is None else f"{test.teacher_only:,}",
        words.NONE if test is None else f"{test.student_only:,}",
        words.NONE if test is None else f"{test.p:.2g}" + (" (groups)" if test.test == "clustered" else ""),
    ]


def _origin(recipe_digest: str | None) -> str:
    recipe = f"Resolved recipe: sha256 {code(recipe_digest)}.\n\n" if recipe_digest is not None else ""
    return recipe + (
        "Licence: a student learns from its teachers and their data; check what their licences ask before "
        "you pass it on."
    )


def _kind_names(kinds: Mapping[str, TaskKind]) -> list[str]:
    return sorted({f"image-{kind.name}" for kind in kinds.values()})


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
