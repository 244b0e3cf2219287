"""The paper's tables, and what ghostify gets for each of their rows."""

from ghostify.paper.reproduce import Outcome, Reproduction, reproduce
from ghostify.paper.rows import Figure, PaperRow, PaperTable
from ghostify.paper.tables import TABLES

__all__ = [
    "TABLES",
    "Figure",
    "Outcome",
    "PaperRow",
    "PaperTable",
    "Reproduction",
    "reproduce",
]
