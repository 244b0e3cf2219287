"""The line that ends ``ghostify convert``: what to do with the network now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ghostify.reports import Report

NEAR_CHANCE = (
    "trained weights were given, and no images to fit the conversion to: its outputs are near "
    "chance until it is fitted (--calibration IMAGES) or tuned"
)


def name_next_steps(
    report: Report, output: Path | None, *, weights: str | None, is_trained: bool, is_fitted: bool
) -> Iterator[str]:
    """What is to be said at the end of a conversion, in sentences.

    Args:
        report: What it saved.
        output: The folder that it was saved to; None where it was not.
        weights: The weights that were given.
        is_trained: Whether the original has trained weights, as far as is known.
        is_fitted: Whether the new parts were fitted to images.
    """
    if not (report.replaced or report.rebuilt):
        yield "nothing was converted: see the reasons above, or ghostify analyze"
        return
    if is_trained and not is_fitted:
        yield NEAR_CHANCE
    if output is None:
        yield "next: -o FOLDER saves the network, to be tuned, measured and exported"
        return
    folder = quote(str(output))
    teacher = "" if weights is None else f" --teacher-weights {quote(weights)}"
    steps = [
        "convert again with --calibration IMAGES (fit)" if is_trained and not is_fitted else "",
        f"ghostify finetune {folder} --data IMAGES{teacher} -o {quote(f'{output}-tuned')} (tune)",
        f"ghostify bench {folder} (time)",
        f"ghostify export {folder} -o net.onnx (ship)",
    ]
    yield f"next: {', '.join(filter(None, steps))}"
