"""Forest plot: what every task won or lost, with its interval, beside what it may lose (Lewis & Clarke 2001)."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.transforms import blended_transform_factory

from distill_mtl.report.colors import INK, LOSS, QUIET, RULE, STUDENT
from distill_mtl.report.drawing import draw

_LINE, _FRAME = 26.0, 46.0


@dataclass(frozen=True)
class Lead:
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


def forest(name: str, title: str, leads: Sequence[Lead], unit: str) -> str:
    """SVG of some deltas on one axis; what lies beyond the margin is tinted.

    Args:
        name, title: as `draw` takes them.
        leads: from top to bottom, at least one.
        unit: of the axis.
    """
    heights, place = [], 0.0
    for number, lead in enumerate(leads):
        place += 0.45 if lead.opens and number else 0.0
        heights.append(place)
        place += 1.0

    def paint(axes: Axes) -> None:
        reach = [lead.delta for lead in leads] + [-lead.margin for lead in leads] + [0.0]
        reach += [end for lead in leads if lead.ends is not None for end in lead.ends]
        low, high = min(reach), max(reach)
        pad = 0.06 * ((high - low) or 1.0)
        axes.set_xlim(low - pad, high + pad)
        axes.set_ylim(place - 0.5, -0.6)
        at_the_end = blended_transform_factory(axes.transAxes, axes.transData)
        for height, lead in zip(heights, leads, strict=True):
            axes.fill_betweenx([height - 0.5, height + 0.5], low - pad, -lead.margin, color=LOSS, linewidth=0)
            axes.plot([-lead.margin] * 2, [height - 0.5, height + 0.5], color=QUIET, lw=1.1, ls=(0, (3, 2)))
            if lead.ends is not None:
                axes.plot(lead.ends, [height] * 2, color=lead.color, lw=2)
            axes.plot(lead.delta, height, "o", color=lead.color, ms=6.5)
            axes.text(1.02, height, lead.words, transform=at_the_end, va="center", ha="left", color=INK)
        axes.axvline(0, color=QUIET, lw=1)
        axes.grid(axis="x")
        axes.set_yticks(heights, [lead.name for lead in leads], color=INK)
        axes.set_xlabel(f"student − teacher, {unit}", loc="left")
        axes.spines.bottom.set_color(RULE)

    return draw(name, title, _FRAME + _LINE * place, paint)
