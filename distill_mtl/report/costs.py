"""Section of what the student saves."""

from collections.abc import Sequence

from distill_mtl.evaluation.result import Cost, Costs, Evaluation
from distill_mtl.report import words
from distill_mtl.report.blocks import Block, Cell, Chart, Charts, Folded, Section, Table, Text
from distill_mtl.report.charts import STUDENT, TEACHER, Bar, BarGroup, bars

_MANY_HEADS = 12


def cost_section(results: Evaluation) -> Section:
    """Bars of student and teachers, the figures, and the heads' share."""
    cost = results.cost
    blocks: list[Block] = []
    if cost.teachers is not None:
        networks = [("student", cost.student, STUDENT), ("teachers", cost.teachers, TEACHER)]
        blocks.append(Charts([Chart(cost_bars("cost", networks))], wide=True))
    blocks.append(_table(cost))
    blocks.append(Text(_conditions(cost), quiet=True))
    if cost.heads:
        blocks.append(_heads(cost))
    return Section("cost", "What it saves" if cost.teachers is not None else "What it costs", blocks)


def cost_bars(name: str, networks: Sequence[tuple[str, Cost, str]], *, measured: bool = True) -> str:
    """SVG of (name, cost, colour) by quantity; of two networks the ratio stands beside each heading.

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


Quantities = list[tuple[str, list[tuple[float | None, str]]]]
"""What it is, and a number and its text for every network."""


def _counted(costs: Sequence[Cost]) -> Quantities:
    """The same on every machine and at every hour."""
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
    batch = next((cost.batch for cost in costs if cost.batch is not None), None)
    return "" if batch is None else f" at batch {batch:,}"


_COLUMNS = ("network", "parameters", "FLOPs", "latency", "rows/s", "batch", "memory", "weights")


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
        Cost,
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
        Cell(words.NONE if cost.batch is None else f"{cost.batch:,}"),
        Cell(words.NONE if cost.peak_memory is None else words.short(cost.peak_memory, "B")),
        Cell(words.short(cost.bytes, "B")),
    ]


def _conditions(cost: Costs) -> str:
    machine = f" Measured on {cost.machine}." if cost.machine else ""
    one = "Teachers run one after another on the same machine. " if cost.teachers is not None else ""
    return f"{one}Times are medians of warm runs; a multiplication and an addition are two FLOPs.{machine}"


def _heads(cost: Costs) -> Block:
    ordered = sorted(cost.heads.items(), key=lambda item: -item[1].parameters)
    rows = [
        [
            Cell(task),
            Cell(words.short(head.parameters)),
            Cell(words.percent(head.parameters_share)),
            Cell(words.short(head.flops)),
            Cell(words.percent(head.flops_share)),
        ]
        for task, head in ordered
    ]
    parameters = sum(head.parameters for head in cost.heads.values())
    flops = sum(head.flops for head in cost.heads.values())
    rows.append(
        [
            Cell("all heads", "strong"),
            Cell(words.short(parameters)),
            Cell(words.percent(_share(parameters, cost.student.parameters))),
            Cell(words.short(flops)),
            Cell(words.percent(_share(flops, cost.student.flops))),
        ]
    )
    table = Table("Heads", ["head", "parameters", "share", "FLOPs", "share"], rows, frozenset({"head"}))
    return Folded("What each head takes of the student", [table])


def _share(part: int, whole: int | None) -> float | None:
    return part / whole if whole else None
