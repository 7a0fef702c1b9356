"""A report as one HTML file that needs nothing beside it: no script, no font, no network."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from distill_mtl.report.blocks import Report
from distill_mtl.untrusted_text import visible


def page(report: Report) -> str:
    """The HTML. Everything that comes from a run is escaped; only charts, which are ours, stand as markup."""
    environment = _environment()
    style = environment.get_template("style.css").render()
    return environment.get_template("page.html").render(report=report, style=Markup(style))


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("distill_mtl.report"),
        autoescape=True,
        finalize=lambda value: (
            value if isinstance(value, Markup) or not isinstance(value, str) else visible(value)
        ),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
