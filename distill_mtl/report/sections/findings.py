"""What the teachers were worth, where the student lost, and what to try: the end, which follows from all before it."""

import shlex

from distill_mtl.evaluation.result import TaskResult
from distill_mtl.report import words
from distill_mtl.report.blocks import Block, Cell, Code, Section, Table, Text
from distill_mtl.report.findings import findings_of, lost_tasks, not_measured
from distill_mtl.report.run_record import RunRecord
from distill_mtl.report.sections import section
from distill_mtl.report.teacher_worth import Worth, worth_of

_ON_CONSOLE = 3
_ALONE = "student − labels alone"


@section(135)
def teachers_worth(run: RunRecord) -> Section | None:
    """A line for each task with a teacher, without the columns that nothing was measured for."""
    if run.results is None or run.files is None or not (found := worth_of(run)):
        return None
    lines = {task: _worth_cells(worth, run.results.tasks[task]) for task, worth in found.items()}
    columns = [
        column
        for column in next(iter(lines.values()))
        if any(line[column] != words.NONE for line in lines.values())
    ]
    rows = [[Cell(task), *(Cell(line[column]) for column in columns)] for task, line in lines.items()]
    blocks: list[Block] = [
        Table("Teachers' worth", ["task", *columns], rows, frozenset({"task", "asked about"})),
        Text(
            "Part of its loss: the teacher's terms in what the task added in the second half of the run. Agreement: "
            "how often student and teacher decide alike.",
            quiet=True,
        ),
    ]
    if _ALONE in columns:
        said = "Labels alone: the same student trained without teachers; the interval is an upper bound."
        blocks.append(Text(said, quiet=True))
    else:
        said = (
            "Only the same student trained on labels alone shows a teacher's worth. To train and measure it:"
        )
        command = shlex.join(["distill-mtl", "evaluate", str(run.files.path), "--baseline", "labels_only"])
        blocks += [Text(said, quiet=True), Code(command, "sh")]
    return Section("worth", "What each teacher was worth", blocks)


def _worth_cells(worth: Worth, result: TaskResult) -> dict[str, str]:
    alone = worth.labels_alone
    return {
        "asked about": worth.asked or words.NONE,
        "part of its loss": words.percent(worth.loss, 0),
        "agreement": words.percent(worth.own),
        "elsewhere": words.percent(worth.elsewhere),
        "student − teacher": words.uncertain(worth.lead.points, worth.lead.error, result),
        _ALONE: words.NONE if alone is None else words.uncertain(alone.points, alone.error, result),
    }


@section(140)
def findings(run: RunRecord) -> Section | None:
    """Each finding with its numbers, then what to try, as recipe lines."""
    if run.results is None or run.files is None:
        return None
    found, blocks = findings_of(run), list[Block]()
    for number, each in enumerate(found, 1):
        blocks += [
            Text(f"{number}. {each.found}"),
            Text(f"Try: {each.remedy}", quiet=True),
            Code(each.recipe, "yaml"),
        ]
    if not found:
        lost = words.listed(list(lost_tasks(run)))
        blocks.append(
            Text(
                f"{lost} lost, and nothing that was measured says why. A larger student or a longer run may help."
                if lost
                else "Nothing to say: no task lost against its teacher beyond chance."
            )
        )
    if lacking := not_measured(run):
        blocks.append(Text(f"Not measured in this run: {', '.join(lacking)}.", quiet=True))
    notes = [f"{each.found}" for each in found[:_ON_CONSOLE]]
    if notes:
        notes.insert(0, "Where it lost (what to try stands at the end of the report):")
    return Section("findings", "Where it lost, and what to try", blocks, notes=notes)
