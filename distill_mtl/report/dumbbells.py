"""Teacher and student of each class, joined by a line: how far apart they are, and who leads."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from distill_mtl.report.colors import INK, QUIET, STUDENT, TEACHER
from distill_mtl.report.drawing import draw

_LINE, _FRAME = 20.0, 64.0


def dumbbells(name: str, title: str, rows: Sequence[tuple[str, float, float]], unit: str) -> str:
    """SVG of (name, teacher, student), from top to bottom."""

    def paint(axes: Axes) -> None:
        for height, (_, teacher, student) in enumerate(rows):
            axes.plot([teacher, student], [height] * 2, color=QUIET, lw=1.2)
            axes.plot(teacher, height, "o", color=TEACHER, ms=6, label="" if height else "teacher")
            axes.plot(student, height, "o", color=STUDENT, ms=6, label="" if height else "student")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [row[0] for row in rows], color=INK)
        axes.grid(axis="x")
        axes.set_xlabel(unit, loc="left")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.01), ncols=2, handlelength=0.8)

    return draw(name, title, _FRAME + _LINE * len(rows), paint)
