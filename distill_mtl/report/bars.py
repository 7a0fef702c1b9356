"""Bars of what networks take, a group for each quantity, each group on its own scale."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from distill_mtl.report.colors import INK, QUIET
from distill_mtl.report.drawing import TEXT, draw

_BAR, _GAP, _HEAD = 15.0, 12.0, 16.0


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


def bars(name: str, title: str, groups: Sequence[BarGroup]) -> str:
    """SVG of the groups from top to bottom; the longest bar of each is as wide as the chart allows."""
    height = sum(_HEAD + _BAR * len(group.bars) + _GAP for group in groups)

    def paint(axes: Axes) -> None:
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

    return draw(name, title, height, paint)
