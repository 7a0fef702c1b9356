"""Where the student lost, and what to try: the last section, so that it follows from all before it."""

from distill_mtl.report import words
from distill_mtl.report.blocks import Block, Code, Section, Text
from distill_mtl.report.findings import findings_of, lost_tasks, not_measured
from distill_mtl.report.run_record import RunRecord
from distill_mtl.report.sections import section

_ON_CONSOLE = 3


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
