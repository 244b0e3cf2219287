"""The page of a tuning: its result, the learning curves, and what the conversion saved."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ghostify.documents import counted
from ghostify.documents.page import (
    Curve,
    Headline,
    Headlines,
    Line,
    Notes,
    Number,
    Page,
    Section,
    Tone,
)
from ghostify.reports.report_page import report_sections
from ghostify.saving.history import history_of, name_of
from ghostify.train.losses import NAMES

if TYPE_CHECKING:
    from ghostify.train.result import Finetuned

TONES: Sequence[Tone] = ("ghost", "stage", "worse", "plain", "left")


def finetuned_page(result: Finetuned) -> Page:
    """The page of a tuning."""
    report = history_of(result.model).report
    saved = (
        report_sections(report, "What the conversion saved")
        if report is not None and report.mode
        else []
    )
    kind = "Stopped tuning" if result.interrupted else "Tuned network"
    sections = [_headlines(result), *_curves(result), Notes(result.describe(), "What was done")]
    return Page(name_of(result.model), kind, result.describe()[0] + ".", [*sections, *saved])


def _headlines(result: Finetuned) -> Section:
    items = []
    if result.validation is not None:
        items = [
            Headline(_words(name), Number(_shown(name, value), value))
            for name, value in result.validation.columns.items()
            if value is not None and name != "val_loss"
        ]
    if result.last is not None:
        items.append(Headline("loss", Number(f"{result.last.loss:.3g}", result.last.loss)))
    steps = Number(f"{result.steps:,}", result.steps)
    notes = [Number(f"{result.images:,}", result.images, "images")]
    items.append(Headline("steps", steps, f"of {result.total_steps:,}", notes))
    return Headlines(items)


def _curves(result: Finetuned) -> Iterator[Section]:
    """The losses, each figure of the validations, and the learning rate."""
    losses = ("loss", *NAMES, *(name for name in result.losses if name.startswith("own")))
    lines = [
        Line("all together" if name == "loss" else _words(name), points, tone)
        for name, tone in zip(losses, TONES, strict=False)
        if len(points := _points(result, name)) > 1
    ]
    if lines:
        text = f"Means over {counted(result.settings.log_steps, 'step')} each."
        yield Curve("Loss", lines, text)
    validated = dict.fromkeys(name for row in result.log for name in row if name[:4] == "val_")
    for name in validated:
        points = _points(result, name)
        if len(points) > 1:
            yield Curve(f"Validation: {_words(name)}", [Line(_words(name), points)])


def _points(result: Finetuned, name: str) -> list[tuple[float, float]]:
    return [(row["step"], row[name]) for row in result.log if name in row and "step" in row]


WORDS = {
    "val_top1": "top-1 accuracy",
    "val_top5": "top-5 accuracy",
    "val_loss": "loss",
    "ce": "labels",
    "kd": "the teacher's logits",
    "features": "the teacher's features",
}


def _words(name: str) -> str:
    return WORDS.get(name, name.removeprefix("val_"))


def _shown(name: str, value: float) -> str:
    return f"{value:.2f} %" if name in {"val_top1", "val_top5"} else f"{value:.4g}"
