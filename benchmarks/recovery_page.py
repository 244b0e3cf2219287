"""The tables of `recovery.py`'s rows, between the markers of a Markdown page.

    python benchmarks/recovery_page.py docs/warmstart.md

One table for each network and number of MACs to reach, or time (``recovery.py --time``); a line is
the mean over the seeds that were run, a column of stage d for each number of steps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import mean
from typing import Any

from tables import Table, write_between

GHOSTS = ("c-ghost", "g-ghost")
EARLY = {"converted": "(a) converted", "fitted": "(b) fitted", "reconstructed": "(c) no labels"}
TIMED = ("chosen", "fitted", "reconstructed", "distilled")

Row = dict[str, Any]


class Line:
    """The rows of one setting: several seeds, several numbers of steps."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows, self.first = rows, rows[0]

    @property
    def name(self) -> str:
        """What it is called in the table."""
        row = self.first
        if row["method"] == "original":
            return "the original itself"
        if row["method"] == "auto":
            by = "the clock" if row["by"] == "clock" else "MACs"
            return f"layers and stages by {by}, {row['start']}"
        if row["method"] not in GHOSTS:
            return f"Torch-Pruning, {row['method']}"
        return f"{row['method']} {self._setting()}, {row['start']}"

    def _setting(self) -> str:
        if self.first["method"] == "c-ghost":
            return "s by layer" if self.first["chosen"] else f"s={self.first['s']}"
        ratios = [row["ratio"] for row in self.rows]
        if not self.first["chosen"]:
            return str(ratios[0])
        if any(ratio != ratios[0] for ratio in ratios):
            return "by stage"
        return "by stage, " + "/".join(map(str, ratios[0].values()))

    @property
    def seeds(self) -> int:
        """How many seeds were run."""
        return len({row["seed"] for row in self.rows})

    def score(self, column: str | int) -> float | None:
        """Top-1 after an early stage, or after so many steps of the last."""
        if isinstance(column, str):
            return mean(row[column] for row in self.rows)
        found = [row["distilled"] for row in self.rows if row["steps"] == column]
        return mean(found) if found else None

    def seconds(self, stage: str) -> float:
        """Wall time of a stage; of the last, that of the fewest steps."""
        least = min(row["steps"] for row in self.rows)
        return mean(r.get(f"{stage} seconds", 0.0) for r in self.rows if r["steps"] == least)

    def cells(self, columns: list[str | int], best: dict[str | int, float]) -> Iterable[str]:
        """The line's cells."""
        row = self.first
        yield self.name
        yield f"{row['macs after'] / 1e6:.1f} M ({row['macs before'] / row['macs after']:.2f}x)"
        yield f"{row['params after'] / 1e3:.0f} k"
        if row.get("time"):
            yield f"{mean(r['time ratio'] for r in self.rows):.2f}"
        for column in columns:
            score = self.score(column)
            text = "" if score is None else f"{score:.2f}"
            yield f"**{text}**" if score == best[column] else text
        yield " / ".join(f"{self.seconds(stage):.0f}" for stage in TIMED)
        yield str(self.seeds)


def table(rows: list[Row]) -> Table:
    """A table for one goal, best lines first."""
    lines = [Line(group) for group in grouped(rows, setting_of)]
    columns: list[str | int] = [*EARLY, *sorted({row["steps"] for row in rows})]
    rivals = [line for line in lines if line.first["method"] != "original"]
    best = {c: max(s for line in rivals if (s := line.score(c)) is not None) for c in columns}
    lines.sort(key=lambda line: -mean(row["distilled"] for row in line.rows))
    titles = ["", "MACs (fewer)", "params", *(["time"] if rows[0].get("time") else [])]
    titles += [EARLY[c] if isinstance(c, str) else f"(d) {c:,} steps" for c in columns]
    titles += ["s: choice / b / c / d", "seeds"]
    cells = tuple(tuple(line.cells(columns, best)) for line in lines)
    return Table(title(rows[0]), tuple(titles), cells)


def grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> Iterable[list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups.values()


def setting_of(row: Row) -> tuple[Any, ...]:
    ratio = None if row["chosen"] else row["ratio"]
    return row["method"], row["start"], row["chosen"], ratio, row.get("by")


def goal_of(row: Row) -> tuple[Any, ...]:
    """The network, and what says how many MACs to come to."""
    if row.get("time"):
        return network_of(row), row["time"], row["runtime"]
    kind = kind_of(row)
    return network_of(row), kind, row["s"] if kind == "c-ghost" else 0


def kind_of(row: Row) -> str:
    return row["method"] if row["method"] in GHOSTS else row["as"]


def network_of(row: Row) -> str:
    return row["network"] + "".join(f" {k}={v}" for k, v in (row["model args"] or {}).items())


def title(row: Row) -> str:
    if row.get("time"):
        return (
            f"{network_of(row)}, {row['original']:.2f} %: at most {row['time']} of the time in "
            f"{row['runtime']}"
        )
    what = f"C-Ghost s={row['s']}" if kind_of(row) == "c-ghost" else "G-Ghost 0.5"
    return f"{network_of(row)}, {row['original']:.2f} %: the MACs of {what}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--rows", type=Path, default=Path("benchmarks/recovery.jsonl"))
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()]
    for name, some in (
        ("recovery", [row for row in rows if not row.get("time")]),
        ("recovery-at-time", [row for row in rows if row.get("time")]),
    ):
        tables = [table(group).to_markdown() for group in grouped(some, goal_of)]
        write_between(options.page, name, tables)


if __name__ == "__main__":
    main()
