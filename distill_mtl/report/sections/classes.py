"""Classes, those that lost most first."""

from distill_mtl.evaluation.result import ClassDelta, TaskResult
from distill_mtl.report import words
from distill_mtl.report.blocks import Block, Cell, Chart, Charts, Folded, Section, Table
from distill_mtl.report.charts import dumbbells
from distill_mtl.report.run_record import RunRecord
from distill_mtl.report.sections import section

_WORST = 10


@section(30)
def classes(run: RunRecord) -> Section | None:
    """A chart of each task's worst classes, and a table of all of them."""
    if run.results is None:
        return None
    charts: list[Chart] = []
    folded: list[Block] = []
    for number, (task, result) in enumerate(run.results.tasks.items()):
        compared = [each for each in result.classes or () if each.delta is not None]
        if compared:
            compared.sort(key=lambda each: each.delta or 0.0)
            charts.append(_chart(f"classes-{number}", task, result, compared))
            folded.append(_table(task, result, compared))
        if any(each.known_by for each in result.classes or ()):
            folded.append(_known_by(task, result))
    if not charts:
        return None
    return Section("classes", "Classes, worst first", [Charts(charts), *folded])


def _chart(name: str, task: str, result: TaskResult, ordered: list[ClassDelta]) -> Chart:
    worst = ordered[0]
    if worst.delta is not None and worst.delta < 0:
        said = f"Worst: {worst.name} {words.difference(worst.delta, result)}"
    else:
        said = f"No class lost {result.metric}"
    few = f"; the worst {_WORST} of {len(ordered)} classes" if len(ordered) > _WORST else ""
    shown = [(each.name, each.teacher, each.student) for each in ordered[:_WORST] if each.teacher is not None]
    unit = "points" if result.in_points else result.metric
    return Chart(
        dumbbells(name, f"Classes of {task}, worst first. {said}", shown, unit), task, f"{said}{few}."
    )


def _known_by(task: str, result: TaskResult) -> Table:
    """Who knew each class, and how the student does on the rows of all data sets."""
    rows = [
        [Cell(each.name), Cell(", ".join(each.known_by)), Cell(words.score(each.student, result))]
        for each in result.classes or ()
    ]
    title = f"Classes of {task} and the teachers that know them"
    return Table(title, ["class", "known by", "student"], rows, frozenset({"class", "known by"}))


def _table(task: str, result: TaskResult, ordered: list[ClassDelta]) -> Folded:
    rows = [
        [
            Cell(each.name),
            Cell(words.score(each.teacher, result)),
            Cell(words.score(each.student, result)),
            Cell(words.difference(each.delta, result)),
        ]
        for each in ordered
    ]
    columns = ["class", "teacher", "student", "delta"]
    table = Table(f"Classes of {task}", columns, rows, frozenset({"class"}))
    return Folded(f"All {len(rows)} classes of {task}", [table])
