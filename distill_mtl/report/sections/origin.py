"""The origin of a run: recipe, teachers, versions, and the command that repeats it."""

import hashlib
from typing import Any

from distill_mtl.report import words
from distill_mtl.report.blocks import Block, Cell, Code, Folded, Section, Table, Text
from distill_mtl.report.run_record import RunRecord
from distill_mtl.report.sections import section
from distill_mtl.run_files import RunFiles

_DIGEST = 12


@section(110)
def recipe(run: RunRecord) -> Section | None:
    """The resolved recipe, folded; in Markdown its file and digest."""
    if run.files is None:
        return None
    lines, name = run.recipe_text.count("\n"), run.files.recipe.name
    digest = hashlib.sha256(run.files.recipe.read_bytes()).hexdigest()
    return Section(
        "recipe",
        "Recipe",
        [
            Text("Everything resolved: running this file repeats the run.", quiet=True),
            Folded(
                f"{name}, {lines} lines",
                [Code(run.recipe_text, "yaml")],
                in_short=f"{name}, {lines} lines, sha256 {digest}",
            ),
        ],
    )


@section(120)
def teachers(run: RunRecord) -> Section | None:
    """The loaded teachers."""
    if not run.teachers:
        return None
    rows = [_teacher(task, entry) for task, entry in run.teachers.items()]
    columns = ["task", "file", "sha256", "classes", "input", "check", "precision"]
    return Section(
        "manifest",
        "Teachers",
        [
            Table("Teachers", columns, rows, frozenset({"task", "file", "sha256", "precision"})),
            Text(
                "Check: the score on validation rows before the first step. All of it: teachers.json.",
                quiet=True,
            ),
        ],
    )


@section(130)
def reproduce(run: RunRecord) -> Section | None:
    """Versions, machine, and the command."""
    if run.files is None:
        return None
    blocks: list[Block] = [Code(_command(run, run.files), "sh")]
    facts = _facts(run)
    if facts:
        rows = [[Cell(name), Cell(value)] for name, value in facts.items()]
        blocks.append(Table("Versions", ["what", "version"], rows, frozenset({"what", "version"})))
    return Section("repeat", "Reproduce", blocks)


def _command(run: RunRecord, files: RunFiles) -> str:
    processes = run.environment.get("processes", 1)
    launch = "accelerate launch" + (f" --multi_gpu --num_processes {processes}" if processes > 1 else "")
    return f"{launch} distill.py {files.recipe} --out {files.path}-again"


def _facts(run: RunRecord) -> dict[str, str]:
    environment = run.environment
    facts = dict(environment.get("versions", {}))
    facts |= {key: str(environment[key]) for key in ("processes", "began") if key in environment}
    if run.results is not None:
        facts["measured on"] = str(run.results.cost.machine)
    return facts


def _teacher(task: str, entry: dict[str, Any]) -> list[Cell]:
    if "self" in entry:
        remembered = Cell(f"the student itself ({entry['self']})")
        return [Cell(task), remembered, *[Cell(words.NONE, "quiet")] * 5]
    size = (entry.get("input") or {}).get("size") or []
    score = entry.get("score")
    return [
        Cell(task),
        Cell("/".join(str(entry.get("file")).split("/")[-2:])),
        Cell(str(entry.get("sha256"))[:_DIGEST], "quiet"),
        Cell(f"{len(entry.get('classes') or []):,}"),
        Cell(" × ".join(map(str, size)) or words.NONE),
        Cell(words.NONE if score is None else f"{score:.2f}"),
        Cell(str(entry.get("precision", words.NONE))),
    ]
