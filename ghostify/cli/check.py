"""``ghostify check``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostify.cli import _options as given
from ghostify.cli._settings import takes_settings
from ghostify.cli._terminal import complain, prints_to_stderr, warn_in_a_line
from ghostify.errors import SettingsError

if TYPE_CHECKING:
    from torch import nn

    from ghostify.reports.bounds import Verdict
    from ghostify.reports.conversion import Report
    from ghostify.settings import Settings

SCHEMA = "ghostify.check/1"

Bound = Annotated[float | None, typer.Option(metavar="X", help="Fail below this before/after.")]
Limit = Annotated[float | None, typer.Option(metavar="N", help="Fail above this many.")]


@takes_settings("c-ghost")
def check(
    model: given.Model,
    min_params_ratio: Bound = None,
    min_macs_ratio: Bound = None,
    min_acts_ratio: Bound = None,
    max_params: Limit = None,
    max_macs: Limit = None,
    max_latency_ratio: Annotated[
        float | None, typer.Option(metavar="X", help="Fail above this after/before in --runtime.")
    ] = None,
    runtime: given.Runtime = None,
    threads: given.Threads = None,
    batch: given.Batch = None,
    device: given.Device = None,
    input_size: given.InputSize = None,
    model_args: given.ModelArgs = None,
    trust: given.Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
    chosen: Any = None,
) -> None:
    """Exit 1 where a conversion misses a bound.

    Exits 0 where all bounds are met; else 1, with a line on stdout for each that is missed. What
    could not be counted whole meets no bound. Time is measured in alternation with the original; a
    miss that noise could explain is none, and is said on stderr.

    \b
    ghostify check out --min-macs-ratio 1.8
    ghostify check resnet34 --mode g-ghost --min-macs-ratio 1.5
    ghostify check resnet50 --s 2 --min-params-ratio 1.8 --max-macs 2.2e9
    ghostify check out --max-latency-ratio 0.7 --runtime onnxruntime
    """  # noqa: D301 (click reads the character)
    warn_in_a_line()
    from ghostify.reports.bounds import Bounds, check

    bounds = Bounds(
        min_params_ratio, min_macs_ratio, min_acts_ratio, max_params, max_macs, max_latency_ratio
    )
    clock = given.gather_clock(runtime, threads=threads, batch=batch, device=device)
    if clock and max_latency_ratio is None:
        raise SettingsError("--runtime is where a time is measured: give --max-latency-ratio too.")
    if max_latency_ratio is not None and not clock:
        raise SettingsError("--max-latency-ratio needs --runtime R: where to measure the time.")
    size = given.parse_input_size(input_size)
    with prints_to_stderr():
        network = given.open_model(model, model_args, None, trust, size)
        report = _report(model, network, chosen, size)
        latency = _latency(network, chosen, size, clock) if clock else None
    verdicts = check(report, bounds, latency)
    for verdict in verdicts:
        if verdict.in_doubt:
            complain(f"not missed: {verdict}, but noise could explain the difference")
    _print(report, verdicts, as_json)
    if not all(verdict.met for verdict in verdicts):
        raise typer.Exit(1)


def _latency(
    network: nn.Module, chosen: Settings | None, size: tuple[int, ...] | None, clock: dict[str, Any]
) -> tuple[float, float, float]:
    """The ratio of times to the original's, and its interval."""
    from ghostify import api, deploy
    from ghostify.saving.history import history_of

    pair = [network]
    if not history_of(network).plans:
        pair.append(api.convert(network, chosen, input_size=size))
    row = deploy.benchmark(*pair, input_size=size, precision=0.01, **clock).rows[-1]
    return row.ratio, row.low, row.high


def _report(
    model: str, network: nn.Module, chosen: Settings | None, size: tuple[int, ...] | None
) -> Report:
    from ghostify import api
    from ghostify.saving.history import history_of

    if not history_of(network).plans:
        return api.preview(network, chosen, input_size=size)
    if chosen is not None:
        raise SettingsError(f"{model} is converted already: leave out the settings.")
    return api.report(network)


def _print(report: Report, verdicts: tuple[Verdict, ...], as_json: bool) -> None:
    if as_json:
        keys = ("bound", "limit", "measured", "met", "reason")
        rows = [
            {key: getattr(verdict, key) for key in keys}
            | ({} if verdict.interval is None else {"interval": list(verdict.interval)})
            for verdict in verdicts
        ]
        document = {
            "schema": SCHEMA,
            "model": report.model,
            "how": report.how,
            "ok": all(v.met for v in verdicts),
            "bounds": rows,
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    for verdict in verdicts:
        if not verdict.met:
            sys.stdout.write(f"missed: {verdict}\n")
