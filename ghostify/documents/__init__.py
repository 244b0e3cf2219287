"""Documents: what a result prints, as plain data, and the one renderer of it."""

from ghostify.documents.amounts import amount, counted, sizes, times
from ghostify.documents.document import Column, Document, Table, plain_columns
from ghostify.documents.printable import Printable, Writable

__all__ = [
    "Column",
    "Document",
    "Printable",
    "Table",
    "Writable",
    "amount",
    "counted",
    "plain_columns",
    "sizes",
    "times",
]
