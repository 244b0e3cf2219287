"""Base classes of results: whatever builds a document prints in terminals, notebooks and files."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any

from ghostify.documents import render
from ghostify.documents.document import Document
from ghostify.documents.html_page import render_page
from ghostify.documents.page import Page, page_of
from ghostify.documents.render import TerminalDocument, to_markdown, to_text


class Printable(ABC):
    """A result that prints as its document."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # IPython takes the first of both that a class itself has, and data classes have a repr.
        cls._repr_pretty_ = Printable._repr_pretty_  # type: ignore[method-assign]

    @abstractmethod
    def document(self) -> Document:
        """The result's title, tables and notes."""

    def page(self) -> Page:
        """The result as a page to look at: figures, bars, tables, notes."""
        return page_of(self.document())

    def to_html(self) -> str:
        """That page as one file of HTML, which needs nothing else and asks no network."""
        return render_page(self.page())

    def to_markdown(self) -> str:
        """The result as Markdown."""
        return to_markdown(self.document())

    def __str__(self) -> str:
        return to_text(self.document())

    def __rich__(self) -> TerminalDocument:
        """The result in a terminal: ``rich.print(result)``."""
        return TerminalDocument(self.document())

    def _repr_html_(self) -> str:
        """The result in a notebook."""
        return render.to_html(self.document())

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """The result in IPython, and in a notebook's plain text."""
        printer.text(str(self).rstrip())


class Writable(Printable):
    """A result that can be written to files: as its document, and as JSON."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain data."""

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2)
