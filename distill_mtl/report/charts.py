"""The charts of a report: bars, dumbbells, forest plots and lines, drawn as SVG when a page asks for it.

Each function here returns a `Drawing` that matplotlib paints in the page's font and colours; a new kind of chart is one
more of them. Colours are names in the page's style sheet, so that they follow its light or dark scheme: student and
teacher are Okabe and Ito's blue and vermilion, series Tol's muted set without what is too light for a line. Both sets
were made for those who tell few colours apart; lines differ in their dashes too.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from distill_mtl.report.run_record import Curve
from distill_mtl.untrusted_text import visible

if TYPE_CHECKING:  # matplotlib takes most of a second, which the console has no use for
    from matplotlib.axes import Axes

Dashes = str | tuple[float, tuple[float, ...]]
"""As matplotlib takes them."""

STUDENT, TEACHER = "#0072b2", "#d55e00"
INK, QUIET, RULE = "#1b1f23", "#667078", "#d9dee2"
LOSS = "#f3dfd8"
SERIES = ("#332288", "#2f8f83", "#cc6677", "#8a8a2b", "#882255", "#117733", "#5b7db1")
DASHES: tuple[Dashes, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)))

VARIABLES = {
    STUDENT: "student",
    TEACHER: "teacher",
    INK: "ink",
    QUIET: "quiet",
    RULE: "rule",
    LOSS: "loss",
    **{color: f"series-{number}" for number, color in enumerate(SERIES)},
}
"""Colour -> its variable in templates/style.css."""

WIDTH = 350.0
"""Of every chart, in points: about what a telephone shows, so that no text shrinks there."""
TEXT = 10.5
_BAR, _GAP, _HEAD = 15.0, 12.0, 16.0
_DUMBBELL, _DUMBBELL_FRAME = 20.0, 64.0
_FOREST_LINE, _FOREST_FRAME = 26.0, 46.0
_LINES, _LEGEND = 236.0, 15.0
_LETTER, _HANDLE = 0.6 * TEXT, 4 * TEXT
"""Widths in a legend: of a letter, about, and of what stands beside a name."""
_LONGEST_NAME = int((WIDTH - _HANDLE) / _LETTER)
_DECADES = 20.0
"""Ratio of the largest value to the smallest from which an axis is logarithmic."""
_FEW = 6
"""Curves with a colour of their own."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a task may have a dollar sign in its name
    "font.family": "DejaVu Sans",  # its widths are reckoned with: it is wide, and the page's font is not wider
    "font.size": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": RULE,
    "axes.labelcolor": QUIET,
    "axes.labelsize": TEXT,
    "axes.unicode_minus": True,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "xtick.labelsize": TEXT,
    "ytick.labelsize": TEXT,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": TEXT,
    "legend.handlelength": 1.8,
    "legend.columnspacing": 1.2,
    "legend.borderpad": 0,
    "legend.borderaxespad": 0,
}
_FONT = re.compile(r"'DejaVu Sans'[^;]*")
"""How matplotlib's list of families begins, in whichever way its version writes it."""
_COLOR = re.compile("|".join(VARIABLES))


@dataclass(frozen=True)
class Drawing:
    """One chart, `WIDTH` points wide.

    Attributes:
        name: goes into every id, so that ids of several charts in a page differ.
        title: what the chart shows, for those who do not see it.
        height: in points.
        paint: draws on the axes.
    """

    name: str
    title: str
    height: float
    paint: "Callable[[Axes], None]"

    @cached_property
    def svg(self) -> str:
        """Markup that can stand in a page beside others."""
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.text import Text

        # The context changes matplotlib's settings, which are global, for the length of this block alone.
        with matplotlib.rc_context({**_STYLE, "svg.hashsalt": self.name}):
            size = (WIDTH / 72, self.height / 72)
            figure = Figure(figsize=size, dpi=72, layout="constrained")
            self.paint(figure.add_subplot())
            for text in figure.findobj(Text):
                text.set_text(visible(text.get_text()))
            content = io.StringIO()
            figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        return _for_page(content.getvalue(), self.name, self.title)


@dataclass(frozen=True)
class Bar:
    """One bar; `words` stand at its end, `who` is told by its colour and in `words`."""

    value: float
    words: str
    color: str


@dataclass(frozen=True)
class BarGroup:
    """One quantity: its heading, what stands right of it, and its bars."""

    what: str
    aside: str
    bars: Sequence[Bar]


def bars(name: str, title: str, groups: Sequence[BarGroup]) -> Drawing:
    """Chart of the groups from top to bottom; the longest bar of each is as wide as the chart allows."""
    height = sum(_HEAD + _BAR * len(group.bars) + _GAP for group in groups)

    def paint(axes: "Axes") -> None:
        axes.set_xlim(0, 1.34)
        axes.set_ylim(height, 0)
        axes.axis("off")
        top = 0.0
        for group in groups:
            axes.text(0, top + _HEAD / 2, group.what, va="center", color=QUIET)
            axes.text(1.34, top + _HEAD / 2, group.aside, va="center", ha="right", color=INK, weight="bold")
            top += _HEAD
            longest = max(bar.value for bar in group.bars) or 1.0
            for bar in group.bars:
                middle = top + _BAR / 2
                axes.barh(middle, bar.value / longest, height=_BAR - 4, color=bar.color)
                axes.text(
                    bar.value / longest + 0.015, middle, bar.words, va="center", color=INK, size=TEXT - 0.5
                )
                top += _BAR
            top += _GAP

    return Drawing(name, title, height, paint)


def dumbbells(name: str, title: str, rows: Sequence[tuple[str, float, float]], unit: str) -> Drawing:
    """Chart of (name, teacher, student), from top to bottom."""

    def paint(axes: "Axes") -> None:
        for height, (_, teacher, student) in enumerate(rows):
            axes.plot([teacher, student], [height] * 2, color=QUIET, lw=1.2)
            axes.plot(teacher, height, "o", color=TEACHER, ms=6, label="" if height else "teacher")
            axes.plot(student, height, "o", color=STUDENT, ms=6, label="" if height else "student")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [row[0] for row in rows], color=INK)
        axes.grid(axis="x")
        axes.set_xlabel(unit, loc="left")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=2, handlelength=0.8)

    return Drawing(name, title, _DUMBBELL_FRAME + _DUMBBELL * len(rows), paint)


@dataclass(frozen=True)
class ForestLine:
    """One line of the plot.

    Attributes:
        name: of the task, or of a run within it.
        delta: positive where the student is better.
        ends: its interval.
        margin: how much may be lost.
        words: delta as text.
        color: of the mark.
        opens: whether a group begins with it, so that it stands apart from the line above.
    """

    name: str
    delta: float
    ends: tuple[float, float] | None
    margin: float
    words: str
    color: str = STUDENT
    opens: bool = False


def forest(name: str, title: str, rows: Sequence[ForestLine], unit: str) -> Drawing:
    """Chart of some deltas on one axis; what lies beyond the margin is tinted.

    Args:
        name, title: as a `Drawing` has them.
        rows: from top to bottom, at least one.
        unit: of the axis.
    """
    heights, place = [], 0.0
    for number, row in enumerate(rows):
        place += 0.45 if row.opens and number else 0.0
        heights.append(place)
        place += 1.0

    def paint(axes: "Axes") -> None:
        from matplotlib.transforms import blended_transform_factory

        reach = [row.delta for row in rows] + [-row.margin for row in rows] + [0.0]
        reach += [end for row in rows if row.ends is not None for end in row.ends]
        low, high = min(reach), max(reach)
        pad = 0.06 * ((high - low) or 1.0)
        axes.set_xlim(low - pad, high + pad)
        axes.set_ylim(place - 0.5, -0.6)
        at_the_end = blended_transform_factory(axes.transAxes, axes.transData)
        for height, row in zip(heights, rows, strict=True):
            axes.fill_betweenx([height - 0.5, height + 0.5], low - pad, -row.margin, color=LOSS, linewidth=0)
            axes.plot([-row.margin] * 2, [height - 0.5, height + 0.5], color=QUIET, lw=1.1, ls=(0, (3, 2)))
            if row.ends is not None:
                axes.plot(row.ends, [height] * 2, color=row.color, lw=2)
            axes.plot(row.delta, height, "o", color=row.color, ms=6.5)
            axes.text(1.02, height, row.words, transform=at_the_end, va="center", ha="left", color=INK)
        axes.axvline(0, color=QUIET, lw=1)
        axes.grid(axis="x")
        axes.set_yticks(heights, [row.name for row in rows], color=INK)
        axes.set_xlabel(f"student − teacher, {unit}", loc="left")
        axes.spines.bottom.set_color(RULE)

    return Drawing(name, title, _FOREST_FRAME + _FOREST_LINE * place, paint)


@dataclass(frozen=True)
class Line:
    """A curve with its name, colour and dashes."""

    name: str
    curve: Curve
    color: str
    dashes: Dashes = "-"
    width: float = 1.5


def lines(
    name: str,
    title: str,
    drawn: Sequence[Line],
    *,
    limits: tuple[float, float] | None = None,
    level: float | None = None,
    columns: int = 3,
    rates: bool = False,
) -> Drawing:
    """Chart of curves on one axis, logarithmic where their values are positive and far apart.

    Args:
        name, title: as a `Drawing` has them.
        drawn: the curves, the last ones on top; one without a name is not in the legend.
        limits: of the vertical axis; None: what the values need.
        level: a value to mark with a line.
        columns: of the legend at most; long names get fewer.
        rates: the curves are over learning rates, not steps.
    """
    named = [line for line in drawn if line.name]
    longest = min(_LONGEST_NAME, max((len(line.name) for line in named), default=0))
    columns = max(1, min(columns, len(named), int(WIDTH / (longest * _LETTER + _HANDLE))))
    rows = -(-len(named) // columns) if len(named) > 1 else 0

    def paint(axes: "Axes") -> None:
        from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

        if level is not None:
            axes.axhline(level, color=QUIET, lw=1)
        for line in drawn:
            curve = line.curve.thinned()
            axes.plot(
                curve.steps,
                curve.values,
                color=line.color,
                ls=line.dashes,
                lw=line.width,
                marker="." if len(curve.steps) < 3 else "",
                label=_short(line.name) or "_",
            )
        values = [value for line in drawn for value in (line.curve.values.min(), line.curve.values.max())]
        if limits is not None:
            axes.set_ylim(*limits)
        elif min(values) > 0 and max(values) / min(values) > _DECADES:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(axis="y")
        axes.margins(x=0.01)
        if rates:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("learning rate" if rates else "step", loc="left")
        if rows:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.03), ncols=columns)

    return Drawing(name, title, _LINES + _LEGEND * rows, paint)


def _short(name: str) -> str:
    """A name that fits into the chart's width."""
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def told_apart(curves: dict[str, Curve]) -> list[Line]:
    """The curves with a colour each; of many the first few, the others grey behind them and without a name."""
    shown = _FEW if len(curves) > _FEW + 1 else len(curves)
    lines = [Line(name, curve, *series(number)) for number, (name, curve) in enumerate(curves.items())]
    others = [replace(line, name="", color=RULE, dashes="-", width=1.0) for line in lines[shown:]]
    return others + lines[:shown]


def series(number: int) -> tuple[str, Dashes]:
    """Colour and dashes of line `number`; they come again after 28."""
    return SERIES[number % len(SERIES)], DASHES[number // len(SERIES) % len(DASHES)]


def _for_page(svg: str, name: str, title: str) -> str:
    root = ElementTree.fromstring(svg)
    for part in root.iter():
        part.tag = part.tag.rpartition("}")[2]
        part.attrib = {key: _mended(key, value, name) for key, value in part.attrib.items()}
        part.attrib = {key.rpartition("}")[2]: value for key, value in part.attrib.items()}
    for useless in root.findall("metadata"):
        root.remove(useless)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title"}
    heading = ElementTree.Element("title", {"id": f"{name}-title"})
    heading.text = visible(title)
    root.insert(0, heading)
    return ElementTree.tostring(root, encoding="unicode")


def _mended(key: str, value: str, name: str) -> str:
    """Ids and what points to them get the chart's name; fonts and colours become the page's."""
    if key == "id":
        return f"{name}-{value}"
    if value.startswith("#") and key.endswith("href"):
        return f"#{name}-{value[1:]}"
    value = value.replace("url(#", f"url(#{name}-")
    value = _FONT.sub("var(--sans)", value)
    return _COLOR.sub(lambda found: f"var(--{VARIABLES[found[0]]})", value)
