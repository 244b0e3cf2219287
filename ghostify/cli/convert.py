"""``ghostify convert``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostify.cli import _options as given
from ghostify.cli._next_steps import name_next_steps
from ghostify.cli._processes import join_others, one_speaks
from ghostify.cli._settings import takes_settings
from ghostify.cli._terminal import (
    Steps,
    Stopped,
    check_report_targets,
    complain,
    print_plain,
    prints_to_stderr,
    warn_in_a_line,
    write_report,
)

if TYPE_CHECKING:
    from torch import nn


@takes_settings("c-ghost")
def convert(
    model: given.Model,
    calibration: given.Calibration = None,
    calibration_samples: given.CalibrationSamples = None,
    reconstruct: given.Reconstruct = False,
    reconstruct_minutes: given.Minutes = None,
    target_macs: given.TargetMacs = None,
    target_params: given.TargetParams = None,
    calibration_seed: given.Seed = None,
    target_latency: given.TargetLatency = None,
    runtime: given.Runtime = None,
    threads: given.Threads = None,
    batch: given.Batch = None,
    device: given.Device = None,
    latency_table: given.LatencyTable = None,
    input_size: given.InputSize = None,
    weights: given.Weights = None,
    model_args: given.ModelArgs = None,
    trust: given.Trust = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Save the network here.")
    ] = None,
    program: Annotated[
        bool, typer.Option("--program", help="Save a program too, which needs no MODEL to load.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, without doing it.")
    ] = False,
    self_check: Annotated[
        bool, typer.Option("--self-check", help="Prove the new network, one line for each check.")
    ] = False,
    json_file: given.JsonFile = None,
    markdown_file: given.MarkdownFile = None,
    html_file: given.HtmlFile = None,
    quiet: given.Quiet = False,
    chosen: Any = None,
) -> None:
    """Convert a network, print what it saves, and save it.

    \b
    ghostify convert resnet50 --s 2 -o out
    ghostify convert resnet50 --s 'layer1.*=2' --s '*=4' --keep stem
    ghostify convert regnet_x_3_2gf --mode g-ghost --preset regnet --ratio 0.5
    ghostify convert resnet56-cifar --weights trained.safetensors -o out
    ghostify convert mypackage.nets:build --model-args '{"width": 32}' --input-size 1x64x64
    ghostify convert mypackage.nets:build --program -o out
    ghostify convert nets.py:audio --calibration data.py:loader -o out
    ghostify convert timm/resnet18 --dry-run --json -
    ghostify convert resnet50 --weights DEFAULT --calibration images/ --reconstruct -o out
    ghostify convert resnet50 --weights DEFAULT --calibration images/ --target-macs 0.5 -o out
    ghostify convert resnet50 --target-latency 0.6 --runtime onnxruntime -o out
    ghostify convert resnet50 --mode auto --runtime onnxruntime -o out
    torchrun --nproc-per-node 2 -m ghostify convert resnet50 --calibration images/ -o out
    """  # noqa: D301 (click reads the character)
    warn_in_a_line()
    from ghostify import api
    from ghostify.files import check_writable

    budgets = {"target_macs": target_macs, "target_params": target_params}
    warm = given.gather_warm_start(
        calibration,
        calibration_samples,
        reconstruct,
        reconstruct_minutes,
        calibration_seed,
        {} if target_latency is not None else budgets,
    )
    clock = given.gather_clock(
        runtime, target_latency, threads=threads, batch=batch, device=device,
        latency_table=latency_table,
    )  # fmt: skip
    size = given.parse_input_size(input_size)
    if latency_table is not None:
        check_writable(latency_table)
    check_report_targets(json_file, markdown_file, html_file)
    _check_output(output, program)
    hush = quiet or "-" in (json_file, markdown_file, html_file)
    with one_speaks() as first, prints_to_stderr(), Steps(hush or not first) as step:
        if warm:
            join_others()
            warm["calibration"] = given.open_data("--calibration", warm["calibration"])
        step(f"building {model}")
        network = given.open_model(model, model_args, weights, trust)
        step("converting")
        told: dict[str, Any] = {"progress": step} if warm or clock else {}
        told |= {**warm, **clock, **{n: v for n, v in budgets.items() if v is not None}}
        if dry_run:
            report, converted = api.preview(network, chosen, input_size=size, **told), None
        else:
            converted = api.convert(network, chosen, input_size=size, **told)
            report = api.report(converted)
        step("saving")
        if output is not None and converted is not None and first:
            api.save(converted, output)
            if program:  # last: what was fitted is saved, whatever becomes of the program
                step("saving its program")
                api.save(converted, output, program=True)
    assert report is not None
    if not first:
        return
    write_report(report, json_file, markdown_file, html_file)
    if not hush:
        print_plain(report)
    if output is not None and converted is not None and not quiet:
        complain(f"saved to {output}")
    _end_if_interrupted(converted)
    if converted is not None and not quiet:
        is_trained = weights is not None or given.names_saved(model)
        for sentence in name_next_steps(
            report, output, weights=weights, is_trained=is_trained, is_fitted=bool(warm)
        ):
            complain(sentence)
    if self_check and converted is not None and not _self_check(converted, network, size, quiet):
        raise typer.Exit(1)


def _check_output(output: Path | None, program: bool) -> None:
    """Raise where the network can't be saved as it is asked for."""
    from ghostify import saving
    from ghostify.errors import SettingsError

    if output is not None:
        saving.check_target(output)
    elif program:
        raise SettingsError("--program given without -o DIR to save it in: add it.")


def _end_if_interrupted(converted: nn.Module | None) -> None:
    """End with exit code 130 where a warm start was stopped, what it left undone being said."""
    from ghostify.saving.history import history_of

    start = None if converted is None else history_of(converted).start
    if start is not None and start.interrupted is not None:
        complain(start.interrupted)
        raise Stopped


def _self_check(
    converted: nn.Module, original: nn.Module, size: tuple[int, ...] | None, quiet: bool
) -> bool:
    """Run the checks, a line each; whether none failed."""
    from ghostify.progress import tell_each
    from ghostify.verification import CHECKS, verify

    passed = True
    checks = verify(converted, input_size=size, original=original)
    with prints_to_stderr(), Steps(quiet) as step:
        names = tell_each(step, list(CHECKS), "checking {}".format)
        for _, check in zip(names, checks, strict=False):
            passed &= check.status != "failed"
            complain(f"self-check: {check}")
    return passed
