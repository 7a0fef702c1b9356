"""Lines over the steps of training."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from distill_mtl.report.colors import QUIET, RULE, Dashes, series
from distill_mtl.report.drawing import draw
from distill_mtl.report.metrics import Curve

_HEIGHT = 236.0
_LEGEND = 15.0
_DECADES = 20.0
_FEW = 6


@dataclass(frozen=True)
class Line:
    """A curve with its name, colour and dashes."""

    name: str
    curve: Curve
    color: str
    dashes: Dashes = "-"
    width: float = 1.5


def told_apart(curves: dict[str, Curve]) -> list[Line]:
    """The curves with a colour each; of many the first few, the others grey behind them and without a name."""
    shown = _FEW if len(curves) > _FEW + 1 else len(curves)
    lines = [Line(name, curve, *series(number)) for number, (name, curve) in enumerate(curves.items())]
    others = [replace(line, name="", color=RULE, dashes="-", width=1.0) for line in lines[shown:]]
    return others + lines[:shown]


def lines(
    name: str,
    title: str,
    drawn: Sequence[Line],
    *,
    limits: tuple[float, float] | None = None,
    level: float | None = None,
    columns: int = 3,
) -> str:
    """SVG of curves on one axis, logarithmic where their values are positive and far apart.

    Args:
        name, title: as `draw` takes them.
        drawn: the curves, the last ones on top; one without a name is not in the legend.
        limits: of the vertical axis; None: what the values need.
        level: a value to mark with a line.
        columns: of the legend.
    """
    named = [line for line in drawn if line.name]
    rows = -(-len(named) // columns) if len(named) > 1 else 0

    def paint(axes: Axes) -> None:
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
                label=line.name or "_",
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
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("step", loc="left")
        if rows:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1.03), ncols=min(columns, len(named)))

    return draw(name, title, _HEIGHT + _LEGEND * rows, paint)
