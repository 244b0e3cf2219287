"""``ghostify bench``."""

from __future__ import annotations

from typing import Annotated

import typer

from ghostify.cli import _options as given
from ghostify.cli._terminal import (
    Steps,
    check_report_targets,
    print_plain,
    prints_to_stderr,
    warn_in_a_line,
    write_report,
)
from ghostify.errors import SettingsError

Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...",
        help="Networks by name, or saved folders; the first is what the others are compared with. "
        "A saved conversion alone is compared with its original.",
    ),
]
Runtimes = Annotated[
    list[str] | None,
    typer.Option(
        "--runtime",
        metavar="R",
        help="eager, compile, cudagraph, onnxruntime, openvino, aoti, executorch or litert; "
        "repeatable.",
    ),
]
Numbers = list[int] | None


def bench(
    models: Models,
    runtime: Runtimes = None,
    batch: Annotated[Numbers, typer.Option(metavar="N", help="Images (1); repeatable.")] = None,
    threads: Annotated[Numbers, typer.Option(metavar="N", help="Threads (1); repeatable.")] = None,
    input_size: given.InputSize = None,
    device: Annotated[str, typer.Option(help="Where PyTorch runs: cpu, cuda, mps.")] = "cpu",
    dtype: Annotated[
        str | None, typer.Option(metavar="T", help="float32, bfloat16, float16 (eager, compile).")
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Each converted layer and stage too, slowest first.")
    ] = False,
    seconds: Annotated[
        float, typer.Option(min=0, help="Most seconds for each runtime, batch and threads.")
    ] = 30.0,
    model_args: given.ModelArgs = None,
    trust: given.Trust = False,
    json_file: given.JsonFile = None,
    markdown_file: given.MarkdownFile = None,
    html_file: given.HtmlFile = None,
    quiet: given.Quiet = False,
) -> None:
    """Measure networks' time beside each other, each in its inference form.

    \b
    ghostify bench out
    ghostify bench resnet50 out --runtime onnxruntime --runtime openvino --batch 1 --batch 16
    """  # noqa: D301 (click reads the character)
    warn_in_a_line()
    from ghostify import deploy
    from ghostify.documents.render import TerminalDocument

    size = given.parse_input_size(input_size)
    check_report_targets(json_file, markdown_file, html_file)
    runtimes, batches, numbers = runtime or ["eager"], batch or [1], threads or [1]
    if model_args is not None and len(models) > 1:
        raise SettingsError("--model-args given for several networks: give one.")
    with prints_to_stderr(), Steps(quiet, json_file, markdown_file, html_file) as step:
        step(f"opening {', '.join(models)}")
        networks = [given.open_model(model, model_args, None, trust, size) for model in models]
        found = deploy.benchmark(
            *networks, runtime=runtimes, batch=batches, threads=numbers, input_size=size,
            device=device, dtype=dtype, layers=layers, seconds=seconds, progress=step,
        )  # fmt: skip
    write_report(found, json_file, markdown_file, html_file)
    if not quiet and "-" not in (json_file, markdown_file, html_file):
        print_plain(TerminalDocument(found.document()))
