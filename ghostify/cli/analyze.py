"""``ghostify analyze``."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghostify.cli import _options as given
from ghostify.cli._terminal import (
    Steps,
    check_report_targets,
    complain,
    print_plain,
    warn_in_a_line,
    write_report,
)
from ghostify.errors import SettingsError
from ghostify.files import check_folder, write_text

if TYPE_CHECKING:
    from torch import nn

    from ghostify.analysis import Analysis
    from ghostify.documents.page import Picture
    from ghostify.settings import Settings


def analyze(
    model: given.Model,
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="More images.")
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE...", help="Images, or folders of images, to look at."),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(metavar="P", help="Modules to look at: names, glob patterns (convolutions)."),
    ] = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIRST,LAST", help="First and last block of a stage (all that are found)."
        ),
    ] = None,
    weights: given.Weights = None,
    model_args: given.ModelArgs = None,
    input_size: given.InputSize = None,
    trust: given.Trust = False,
    min_r2: Annotated[
        float, typer.Option(metavar="X", help="Explained variance that a recommended s keeps.")
    ] = 0.5,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Write figures, JSON, settings here."),
    ] = None,
    json_file: given.JsonFile = None,
    markdown_file: given.MarkdownFile = None,
    html_file: given.HtmlFile = None,
    quiet: given.Quiet = False,
) -> None:
    """Show how redundant a network's feature maps are, and what s that recommends.

    \b
    ghostify analyze resnet56-cifar --weights trained.safetensors --image images/*.jpg -o out
    ghostify analyze resnet50 --weights DEFAULT --image cat.jpg --layer layer1.0 -o out
    ghostify analyze resnet34 --weights DEFAULT --image images --compare layer2.0,layer2.3
    ghostify analyze out --image images -o pictures
    ghostify convert resnet56-cifar --weights trained.safetensors --settings out/settings.yaml
    """  # noqa: D301 (click reads the character)
    warn_in_a_line()
    from ghostify.analysis import analyze

    files = [*(image or []), *(more or [])]
    if not files:
        raise SettingsError("No image is given: give some, --image FILE.")
    size = given.parse_input_size(input_size)
    check_report_targets(json_file, markdown_file, html_file)
    if output is not None:
        check_folder(output)
    pairs = [_parse_pair(text) for text in compare or []]
    blocks: Any = pairs if pairs or layer else "stages"
    with Steps(quiet, json_file, markdown_file, html_file) as step:
        step(f"opening {model}")
        network = given.open_model(model, model_args, weights, trust)
        step(f"looking at {len(files)} files")
        found = analyze(
            network, files, layers=layer or (), compare=blocks, input_size=size, min_r2=min_r2
        )
        step("drawing")
        written = [] if output is None else _write(found, network, files, output, layer, size)
        pictures = [] if html_file is None else _pictures(found, network, files, layer, size)
    write_report(
        found, json_file, markdown_file, html_file, to_html=lambda: found.to_html(pictures)
    )
    if not quiet and "-" not in (json_file, markdown_file, html_file):
        print_plain(found)
    if written and not quiet:
        complain(f"wrote {len(written)} files to {output}: {', '.join(p.name for p in written)}")


def _parse_pair(text: str) -> tuple[str, str]:
    first, comma, last = text.partition(",")
    if not (comma and first and last):
        raise SettingsError(f"--compare={text} names no two blocks: give FIRST,LAST.")
    return first, last


def _pictures(
    found: Analysis,
    network: nn.Module,
    files: list[Path],
    layers: list[str] | None,
    size: tuple[int, ...] | None,
) -> Sequence[Picture]:
    """The pictures of a page; none where matplotlib is missing, which is said."""
    from ghostify.analysis import draw_for_page

    if importlib.util.find_spec("matplotlib") is None:
        complain("the page has no pictures: they need matplotlib, pip install 'ghostify[plots]'")
        return ()
    named = [layer.name for layer in found.layers] if layers else ()
    return draw_for_page(found, network, files, layers=named, input_size=size)


def _write(
    found: Analysis,
    network: nn.Module,
    files: list[Path],
    directory: Path,
    layers: list[str] | None,
    size: tuple[int, ...] | None,
) -> list[Path]:
    """Pictures, the analysis as JSON and Markdown, what is recommended as settings."""
    from ghostify.analysis import draw

    named = [layer.name for layer in found.layers] if layers else ()
    written = draw(found, network, files, directory, layers=named, input_size=size)
    texts = {"analysis.json": found.to_json(), "analysis.md": found.to_markdown()}
    recommended: dict[str, Callable[[], Settings]] = {
        "settings.yaml": found.settings,
        "stage-settings.yaml": found.stage_settings,
    }
    for name, settings in recommended.items():
        try:
            texts[name] = settings().to_yaml()
        except SettingsError as error:
            if name == "settings.yaml" or found.blocks:
                complain(f"no {name}: {error}")
    for name, text in texts.items():
        write_text(directory / name, text.rstrip() + "\n")
        written.append(directory / name)
    return written
