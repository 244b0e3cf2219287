"""Tables of measurements: in the terminal, and in a Markdown file between two markers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ghostify import documents
from ghostify.errors import GhostifyError
from ghostify.files import write_text


@dataclass(frozen=True)
class Table(documents.Printable):
    """Measurements.

    Attributes:
        title: What was measured.
        header: Titles of the columns.
        rows: The cells; the first of each row is its name.
        note: How it was measured, and what to read out of it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def document(self) -> documents.Document:
        """The title, the table, the note."""
        table = documents.Table(documents.plain_columns(*self.header), self.rows)
        return documents.Document(self.title, [table], summary=self.note)

    def to_markdown(self) -> str:
        """The document as a section of a page, a level deeper."""
        return f"#{super().to_markdown()}"


def write_between(file: Path, name: str, parts: Iterable[str]) -> None:
    """Replace what stands between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->`` in a file.

    Raises:
        GhostifyError: The file lacks the markers.
    """
    begin, end = (f"<!-- {name}:{side} -->" for side in ("begin", "end"))
    text = file.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1:
        raise GhostifyError(f"{file} lacks the lines {begin} and {end}: put them where to write.")
    head, _, rest = text.partition(begin)
    tail = rest.partition(end)[2]
    body = "\n".join(part.rstrip() + "\n" for part in parts)
    write_text(file, f"{head}{begin}\n\n{body}\n{end}{tail}")
