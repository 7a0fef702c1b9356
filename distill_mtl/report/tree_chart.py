"""The chart of a student's parts: a lane for each task, a box for each part across the lanes of its tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distill_mtl.report.charts import INK, QUIET, RULE, TEXT, WIDTH, Drawing
from distill_mtl.report.words import brief

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LETTER = 6.4
"""Width of a letter, in points."""
_LINE, _PAD, _GAP, _HEAD = 13.0, 5.0, 3.0, 18.0
_LONGEST = 14  # letters of a task's name


@dataclass(frozen=True)
class Part:
    """One part of a trunk.

    Attributes:
        parent: name of the part that it reads; None: it reads the image.
        tasks: that run through it.
        begins: its first stage.
        lines: what stands in its box.
    """

    parent: str | None
    tasks: Sequence[str]
    begins: str
    lines: Sequence[str]


def tree(name: str, title: str, parts: Mapping[str, Part], ends: Mapping[str, str]) -> Drawing:
    """Chart of a trunk in parts, from the image on the left to the heads on the right.

    Where boxes are too narrow for their words, these are left out.

    Args:
        name, title: as a `Drawing` has them.
        parts: by name, parents first and earlier stages first.
        ends: task -> what stands behind its lane.
    """
    columns = list(dict.fromkeys(part.begins for part in parts.values()))
    lanes = _lanes(parts)
    labels = {task: brief(task, _LONGEST) for task in lanes}
    left = _LETTER * max(map(len, labels.values())) + 6
    right = _LETTER * max((len(text) for text in ends.values()), default=0) + 6
    wide = (WIDTH - left - right) / len(columns)
    most = max(len(part.lines) for part in parts.values())
    high = _LINE * most + 2 * _PAD
    height = _HEAD + high * len(lanes)

    def paint(axes: "Axes") -> None:
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(height, 0)
        axes.axis("off")
        for number, stage in enumerate(columns):
            if _LETTER * len(stage) > wide:
                stage = brief(stage, max(2, int(wide / _LETTER)))
            axes.text(left + wide * number, _HEAD / 2, stage, va="center", color=QUIET)
        for number, task in enumerate(lanes):
            middle = _HEAD + high * (number + 0.5)
            axes.text(0, middle, labels[task], va="center", color=INK)
            axes.text(WIDTH, middle, ends.get(task, ""), va="center", ha="right", color=INK)
        for key, part in parts.items():
            begin = columns.index(part.begins)
            after = (columns.index(child.begins) for child in parts.values() if child.parent == key)
            end = min(after, default=len(columns))
            first = min(lanes.index(task) for task in part.tasks)
            across = left + wide * begin, wide * (end - begin) - _GAP
            down = _HEAD + high * first, high * len(part.tasks) - _GAP
            _box(axes, across, down, part)

    return Drawing(name, title, height, paint)


def _box(axes: "Axes", across: tuple[float, float], down: tuple[float, float], part: Part) -> None:
    """A part's box, filled where tasks share it; (place, size) in both directions."""
    from matplotlib.patches import FancyBboxPatch

    shared = len(part.tasks) > 1
    box = FancyBboxPatch(
        (across[0], down[0]),
        across[1],
        down[1],
        boxstyle="round,pad=0,rounding_size=4",
        facecolor=RULE if shared else "none",
        edgecolor=RULE,
        linewidth=1.2,
    )
    axes.add_patch(box)
    if _LETTER * max(map(len, part.lines), default=0) > across[1] - 2 * _PAD:
        return
    top = down[0] + (down[1] - _LINE * len(part.lines)) / 2
    for number, line in enumerate(part.lines):
        middle = top + _LINE * (number + 0.5)
        axes.text(across[0] + _PAD, middle, line, va="center", color=INK, size=TEXT - 0.5)


def _lanes(parts: Mapping[str, Part], parent: str | None = None) -> list[str]:
    """All tasks, those of each part beside each other."""
    found: list[str] = []
    for name, part in parts.items():
        if part.parent == parent:
            inner = _lanes(parts, name)
            found += inner or part.tasks
    return found
