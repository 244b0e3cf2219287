"""Pages as HTML: one file that holds all it needs and asks no network for anything."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ghostify._version import __version__
from ghostify.documents.page import Page

if TYPE_CHECKING:
    import jinja2


def render_page(page: Page) -> str:
    """A page as one self-contained file of HTML; all that it shows is escaped.

    Example:
        >>> "&lt;b&gt;" in render_page(Page("a <b>"))
        True
    """
    template = _templates().get_template("page.html")
    return template.render(page=page, version=__version__)


@cache
def _templates() -> jinja2.Environment:
    import jinja2  # late: most commands write no page

    return jinja2.Environment(
        loader=jinja2.PackageLoader("ghostify.documents"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
