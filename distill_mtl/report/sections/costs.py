"""The cost of the student and of its teachers."""

from collections.abc import Iterator, Mapping, Sequence

from distill_mtl.evaluation.network_costs import Cost, Costs, HeadCost, NodeCost
from distill_mtl.evaluation.result import Evaluation
from distill_mtl.report import words
from distill_mtl.report.blocks import Block, Cell, Chart, Charts, Folded, Section, Table, Text
from distill_mtl.report.charts import STUDENT, TEACHER, Bar, BarGroup, Drawing, bars
from distill_mtl.report.run_record import RunRecord
from distill_mtl.report.sections import section
from distill_mtl.report.tree_chart import Part, tree

_COLUMNS = ("network", "parameters", "FLOPs", "latency", "rows/s", "batch", "memory", "weights")
_SHORT_COLUMNS = ("cost", "parameters", "MFLOPs", "MB", "latency", "rows/s", "memory")
_MANY_HEADS, _SHOWN_HEADS = 8, 3


@section(40)
def costs(run: RunRecord) -> Section | None:
    """Bars of student and teachers, the figures, and the heads' share."""
    if run.results is None:
        return None
    cost = run.results.cost
    blocks: list[Block] = []
    summary: list[Block] = [_short_table(run.results)]
    if cost.teachers is not None:
        networks = [("student", cost.student, STUDENT), ("teachers", cost.teachers, TEACHER)]
        blocks.append(Charts([Chart(cost_bars("cost", networks))], wide=True))
    blocks.append(_table(cost))
    blocks.append(Text(_conditions(cost), quiet=True))
    if cost.heads:
        blocks.append(Folded("What each head takes of the student", [_heads(cost)]))
        summary.append(_short_heads(cost))
    if cost.nodes:
        if _parts_once(cost.nodes):
            blocks.append(Charts([_tree_chart(run.results)], wide=True))
        blocks.append(_tree(run.results))
        summary.append(_tree(run.results))
    title = "Cost: student against teachers" if cost.teachers is not None else "Cost"
    return Section("cost", title, blocks, summary, _notes(cost))


def cost_bars(name: str, networks: Sequence[tuple[str, Cost, str]], *, measured: bool = True) -> Drawing:
    """Chart of (name, cost, colour) by quantity; of two networks the ratio stands beside each heading.

    Args:
        name: of the chart.
        networks: at least one.
        measured: show also what another hour would measure otherwise; else only what is counted.
    """
    groups, costs = [], [cost for _, cost, _ in networks]
    for what, values in [*_counted(costs), *(_measured(costs, _at(costs)) if measured else [])]:
        numbers = [number for number, _ in values]
        if any(number is None for number in numbers):
            continue
        aside = words.ratio(numbers[0], numbers[1]) if len(numbers) == 2 else ""
        drawn = [
            Bar(number or 0.0, f"{who} {text}", color)
            for (number, text), (who, _, color) in zip(values, networks, strict=True)
        ]
        groups.append(BarGroup(what, aside, drawn))
    said = "; ".join(f"{group.what}: {' against '.join(bar.words for bar in group.bars)}" for group in groups)
    return bars(name, f"Cost of {' and '.join(who for who, _, _ in networks)}. {said}", groups)


def ratios(cost: Costs) -> dict[str, Cell]:
    """Student ÷ its own teachers by quantity, under it both; without teachers the student's figure."""
    networks = [cost.student, *([cost.teachers] if cost.teachers is not None else [])]
    found = {}
    for what, values in [*_counted(networks), *_measured(networks)]:
        numbers, texts = zip(*values, strict=True)
        if None in numbers:
            found[what] = Cell(words.NONE, "quiet")
        elif len(numbers) == 1:
            found[what] = Cell(texts[0], "quiet", aside="no teachers")
        else:
            found[what] = Cell(words.ratio(*numbers), "strong", aside=" ÷ ".join(texts))
    return found


# ---- the page
Quantities = list[tuple[str, list[tuple[float | None, str]]]]
"""The quantity, and a number and its text for every network."""


def _counted(costs: Sequence[Cost]) -> Quantities:
    """Figures that do not depend on the machine."""
    return [
        ("parameters", [(cost.parameters, words.short(cost.parameters)) for cost in costs]),
        ("FLOPs for one image", [(cost.flops, words.short(cost.flops)) for cost in costs]),
        ("bytes of weights", [(cost.bytes, words.short(cost.bytes, "B")) for cost in costs]),
    ]


def _measured(costs: Sequence[Cost], at: str = "") -> Quantities:
    return [
        ("latency of one image", [(cost.latency_ms, f"{cost.latency_ms:.2f} ms") for cost in costs]),
        (
            f"rows per second{at}, more is better",
            [(cost.rows_per_second, words.short(cost.rows_per_second)) for cost in costs],
        ),
        (f"peak memory{at}", [(cost.peak_memory, words.short(cost.peak_memory, "B")) for cost in costs]),
    ]


def _at(costs: Sequence[Cost]) -> str:
    return f" at batch {costs[0].batch:,}" if costs else ""


def _table(cost: Costs) -> Table:
    rows = [_row("student", cost.student)]
    if cost.teachers is not None:
        rows.append(_row("all teachers" if len(cost.each) != 1 else "teacher", cost.teachers))
    if len(cost.each) > 1:
        rows += [_row(f"teacher of {task}", one) for task, one in cost.each.items()]
    # Memory is measured where the machine can tell, throughput where it was asked for.
    kept = [
        place
        for place in range(len(_COLUMNS))
        if any(row[place].words != words.NONE for row in rows) or not place
    ]
    return Table(
        "Cost",
        [_COLUMNS[place] for place in kept],
        [[row[place] for place in kept] for row in rows],
        frozenset({"network"}),
    )


def _row(name: str, cost: Cost) -> list[Cell]:
    speed = words.NONE if cost.rows_per_second is None else words.short(cost.rows_per_second)
    return [
        Cell(name),
        Cell(words.short(cost.parameters)),
        Cell(words.short(cost.flops)),
        Cell(f"{cost.latency_ms:.2f} ms"),
        Cell(speed),
        Cell(f"{cost.batch:,}"),
        Cell(words.NONE if cost.peak_memory is None else words.short(cost.peak_memory, "B")),
        Cell(words.short(cost.bytes, "B")),
    ]


def _conditions(cost: Costs) -> str:
    machine = f" Measured on {cost.machine}." if cost.machine else ""
    one = "Teachers run one after another on the same machine. " if cost.teachers is not None else ""
    return f"{one}Times are medians of warm runs; a multiplication and an addition are two FLOPs.{machine}"


def _heads(cost: Costs) -> Table:
    ordered = sorted(cost.heads.items(), key=lambda item: -item[1].parameters)
    rows = [_head(Cell(task), head) for task, head in ordered]
    rows.append(_head(Cell("all heads", "strong"), _together(cost)))
    return Table("Heads", ["head", "parameters", "share", "FLOPs", "share"], rows, frozenset({"head"}))


def _head(name: Cell, head: HeadCost) -> list[Cell]:
    return [
        name,
        Cell(words.short(head.parameters)),
        Cell(words.percent(head.parameters_share)),
        Cell(words.short(head.flops)),
        Cell(words.percent(head.flops_share)),
    ]


def _together(cost: Costs) -> HeadCost:
    """All heads of the student."""
    heads = cost.heads.values()
    return HeadCost.of(
        sum(head.parameters for head in heads), sum(head.flops for head in heads), cost.student
    )


def _parts_once(nodes: Mapping[str, NodeCost]) -> bool:
    """Whether tasks only part, so that each part stands at one place of each task's way."""
    for node in nodes.values():
        others = [task for other in nodes.values() if other.parent == node.parent for task in other.tasks]
        if len(others) > len(set(others)):
            return False
        if node.parent is not None and not set(node.tasks) <= set(nodes[node.parent].tasks):
            return False
    return True


def _tree_chart(results: Evaluation) -> Chart:
    """The parts as boxes, with what each costs, and the change of each task."""
    nodes = results.cost.nodes
    timed = all(node.latency_ms is not None for node in nodes.values())
    parts = {
        name: Part(
            node.parent,
            node.tasks,
            node.begins,
            [
                words.short(node.parameters),
                words.short(node.flops),
                *([_milliseconds(node)] if timed else []),
            ],
        )
        for name, node in nodes.items()
    }
    ends = {
        task: words.difference(one.delta, one) for task, one in results.tasks.items() if one.delta is not None
    }
    said = "; ".join(
        f"{name} of {words.listed(node.tasks)} from {node.begins}" for name, node in nodes.items()
    )
    figures = "parameters, FLOPs" + (" and time" if timed else "") + " of one image"
    behind = "; behind each task student − teacher" if ends else ""
    caption = f"What tasks share, from the image to the heads. In each part: {figures}{behind}."
    return Chart(tree("tree", f"Parts of the trunk: {said}", parts, ends), "Parts of the trunk", caption)


def _tree(results: Evaluation) -> Table:
    """The trunk's parts, each below the one that it reads, with the change of a task that has a part of its own."""
    nodes, depth = results.cost.nodes, dict[str | None, int]({None: -1})
    rows = []
    for name in _from_root(nodes):
        node = nodes[name]
        depth[name] = depth[node.parent] + 1
        # No break within a name's indent: a table strips blanks at its edge.
        indent = "\u00a0\u00a0" * depth[name] + ("└ " if depth[name] else "")
        compared = {task: results.tasks[task] for task in node.tasks if task in results.tasks}
        deltas = [
            f"{task} {words.difference(one.delta, one)}"
            for task, one in compared.items()
            if one.delta is not None
        ]
        rows.append(
            [
                Cell(indent + name),
                Cell(node.begins),
                *_head(Cell(name), node)[1:],
                Cell(_milliseconds(node)),
                # Of a part that others read, the tasks stand beside those.
                Cell("" if _children(nodes, name) else ", ".join(deltas)),
            ]
        )
    columns = [
        "part of the trunk",
        "from",
        "parameters",
        "share",
        "FLOPs",
        "share",
        "latency",
        "student − teacher",
    ]
    kept = [
        place
        for place, column in enumerate(columns)
        if column != "latency" or any(row[place].words != words.NONE for row in rows)
    ]
    return Table(
        "Parts of the trunk",
        [columns[place] for place in kept],
        [[row[place] for place in kept] for row in rows],
        frozenset({"part of the trunk", "from", "student − teacher"}),
    )


def _milliseconds(node: NodeCost) -> str:
    return words.NONE if node.latency_ms is None else f"{node.latency_ms:.2f} ms"


def _from_root(nodes: Mapping[str, NodeCost], parent: str | None = None) -> Iterator[str]:
    """Names of the parts, each followed by those that read it."""
    for name in _children(nodes, parent):
        yield name
        yield from _from_root(nodes, name)


def _children(nodes: Mapping[str, NodeCost], parent: str | None) -> list[str]:
    return [name for name, node in nodes.items() if node.parent == parent]


# ---- the summary
def _short_table(results: Evaluation) -> Table:
    student, teachers = results.cost.student, results.cost.teachers
    rows = [_short_row("student", student)]
    if teachers is not None:
        count = results.teacher_count
        rows.append(_short_row("teacher" if count == 1 else f"{count} teachers", teachers))
        pairs: tuple[tuple[float | None, float | None], ...] = (
            (student.parameters, teachers.parameters),
            (student.flops, teachers.flops),
            (student.bytes, teachers.bytes),
            (student.latency_ms, teachers.latency_ms),
            (student.rows_per_second, teachers.rows_per_second),
            (student.peak_memory, teachers.peak_memory),
        )
        texts = ("ratio", *(words.ratio(mine, theirs) for mine, theirs in pairs))
        rows.append([Cell(text, "strong") for text in texts])
    return Table("Cost", _SHORT_COLUMNS, rows, left=frozenset({"cost"}))


def _short_row(name: str, cost: Cost) -> list[Cell]:
    def figure(value: float | None, unit: str = "") -> Cell:
        return Cell(words.NOT_KNOWN if value is None else words.three_digits(value) + unit)

    return [
        Cell(name),
        Cell(words.NOT_KNOWN if cost.parameters is None else f"{cost.parameters:,}"),
        figure(None if cost.flops is None else cost.flops / 1e6),
        figure(None if cost.bytes is None else cost.bytes / 1e6),
        Cell(f"{cost.latency_ms:.2f} ms"),
        figure(cost.rows_per_second),
        figure(None if cost.peak_memory is None else cost.peak_memory / 1e6, " MB"),
    ]


def _short_heads(cost: Costs) -> Table:
    """Every head, or of many the largest few; and all of them together."""
    shown = list(cost.heads.items())
    if len(shown) > _MANY_HEADS:
        shown = sorted(shown, key=lambda item: -item[1].parameters)[:_SHOWN_HEADS]
    if len(cost.heads) > 1:
        shown.append((f"all {len(cost.heads)}", _together(cost)))
    rows = [
        [
            Cell(name),
            Cell(f"{head.parameters:,}"),
            Cell(words.percent(head.parameters_share)),
            Cell(words.three_digits(head.flops / 1e6) if cost.student.flops else words.NOT_KNOWN),
            Cell(words.percent(head.flops_share)),
        ]
        for name, head in shown
    ]
    columns = ["head", "parameters", "share", "MFLOPs", "share"]
    return Table("Heads", columns, rows, left=frozenset({"head"}))


def _notes(cost: Costs) -> list[str]:
    if cost.student.rows_per_second is None:
        return []
    return [f"Latency of one image, rows/s and memory of batches of {cost.student.batch}; on {cost.machine}."]
