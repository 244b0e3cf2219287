"""The page of measured times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ghostify.documents.page import (
    Bar,
    Headline,
    Headlines,
    Lane,
    Lanes,
    Number,
    Page,
    Profile,
    Section,
    Tabular,
    Tone,
    page_of,
)

if TYPE_CHECKING:
    from ghostify.deploy.times import Benchmark, NetworkTime, PartTime

MOST = 6
"""Large figures at most."""


def benchmark_page(found: Benchmark) -> Page:
    """The page of a benchmark."""
    plain = page_of(found.document())
    tables = [replace(s, title=s.title or "Figures") for s in plain.sections
              if isinstance(s, Tabular)]  # fmt: skip
    rest = [section for section in plain.sections if not isinstance(section, Tabular)]
    lead = f"{found.clock} of a run; input {found.inputs}, {found.dtype}."
    sections = [*_headlines(found), *_lanes(found), *_profiles(found), *tables, *rest]
    return Page(" beside ".join(_networks(found)), "Measured time", lead, sections)


def _networks(found: Benchmark) -> list[str]:
    return list(dict.fromkeys(row.network for row in found.rows))


def _headlines(found: Benchmark) -> Iterator[Section]:
    """How much faster each network is than the first one."""
    first = _networks(found)[:1]
    rows = [row for row in found.rows if row.network not in first and row.ratio > 0]
    if rows:
        yield Headlines([_headline(row) for row in rows[:MOST]])


def _headline(row: NetworkTime) -> Headline:
    label = f"{row.network}: {_case(row)}"
    if row.ratio > 1:
        value, interval = row.ratio, f"{row.low:.2f} to {row.high:.2f}"
    else:
        value, interval = 1 / row.ratio, f"{1 / row.high:.2f} to {1 / row.low:.2f}"
    note = Number(interval, None, "95 % interval")
    unit: str = "slower" if row.ratio > 1 else "faster"
    tone: Tone = "worse" if row.low > 1 else "ghost"
    return Headline(label, Number(f"{value:.2f}x", value), unit, [note], row.ratio, tone)


def _case(row: Any) -> str:
    threads = "1 thread" if row.threads == 1 else f"{row.threads} threads"
    return f"{row.runtime}, batch {row.batch}, {threads}"


def _interval(row: Any) -> str:
    return f"{row.ratio:.2f} ({row.low:.2f} to {row.high:.2f})"


def _lanes(found: Benchmark) -> Iterator[Section]:
    first = _networks(found)[:1]
    for case, rows in groupby(found.rows, _case):
        lanes = [
            Lane(
                f"{row.network} ({row.form})" if row.form else row.network,
                Number(f"{row.milliseconds:.3g} ms", row.milliseconds),
                "" if row.network in first else _interval(row),
                "left" if row.network in first else "worse" if row.low > 1 else "ghost",
            )
            for row in rows
        ]
        yield Lanes(case, lanes)


def _profiles(found: Benchmark) -> Iterator[Section]:
    """Time of each converted layer or stage, in the network's order."""

    def group(row: PartTime) -> str:
        return f"{row.network}: {_case(row)}"

    for title, rows in groupby(found.parts, group):
        ordered = sorted(rows, key=lambda row: row.place)
        tones: list[Tone] = ["worse" if row.is_slower else "ghost" for row in ordered]
        meanings: dict[Tone, str] = {"ghost": "converted", "worse": "converted, and slower"}
        bars = [
            Bar(row.part, row.before, row.after, tone, _hover(row))
            for row, tone in zip(ordered, tones, strict=True)
        ]
        yield Profile(
            f"Layers and stages alone, {title}",
            bars,
            {tone: meaning for tone, meaning in meanings.items() if tone in tones},
            "Milliseconds of a run. Point at a bar for its figures.",
            shown="{:.3g} ms".format,
        )


def _hover(row: PartTime) -> list[str]:
    return [
        row.part,
        f"{row.before:.3g} ms before, {row.after:.3g} ms now",
        f"ratio {_interval(row)}",
    ]
