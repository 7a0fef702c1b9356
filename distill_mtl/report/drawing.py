"""A matplotlib figure as SVG that can stand in a page beside others, in the page's font and colours."""

import io
import re
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from distill_mtl.report.colors import INK, QUIET, RULE, VARIABLES

WIDTH = 350.0
"""Of every chart, in points: about what a telephone shows, so that no text shrinks there."""
TEXT = 10.5
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


def draw(name: str, title: str, height: float, paint: Callable[[Axes], None]) -> str:
    """SVG markup of one chart, `WIDTH` points wide.

    Args:
        name: goes into every id, so that ids of several charts in a page differ.
        title: what the chart shows, for those who do not see it.
        height: in points.
        paint: draws on the axes.
    """
    # The context changes matplotlib's settings, which are global, for the length of this block alone.
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, layout="constrained")
        paint(figure.add_subplot())
        content = io.StringIO()
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(content.getvalue(), name, title)


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
    heading.text = title
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
