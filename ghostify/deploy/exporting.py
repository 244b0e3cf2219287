"""A network as a file for a runtime, proven to give the network's outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from ghostify._version import __version__
from ghostify.cost.counting import count
from ghostify.data.preparation import preparation_of
from ghostify.deploy.formats import FORMATS, Format, format_of, named, write
from ghostify.deploy.fusing import fuse
from ghostify.deploy.program import Program, example_arguments, tensors_of, with_batch
from ghostify.documents import Document, Writable
from ghostify.errors import ModelError, first_line
from ghostify.files import check_writable, writing
from ghostify.graph.inputs import ExampleInputs
from ghostify.graph.meta_copy import copy_network
from ghostify.numerics.random_state import keep_random_state
from ghostify.saving import network_of
from ghostify.saving.history import name_of

TOLERANCE = 1e-3
"""Largest difference from the network's outputs, as a part of the largest of those."""

SCHEMA = "ghostify.export/1"


@dataclass(frozen=True)
class Exported(Writable):
    """A file for a runtime, and how near its outputs are to the network's.

    Attributes:
        path: The file.
        format: Name of its format.
        bytes: Its size, with what belongs to it.
        batches: Numbers of images at which it was run and compared.
        difference: Largest difference from the network's outputs, as a part of the largest of them.
    """

    path: Path
    format: str
    bytes: int
    batches: tuple[int, ...]
    difference: float

    def document(self) -> Document:
        """What it prints."""
        runs = " and ".join(map(str, self.batches))
        return Document(
            summary=f"{self.path}: {self.format}, {self.bytes / 1e6:.1f} MB; with {runs} images "
            f"its outputs differ from the network's by {self.difference:.1e} of the largest."
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        own = {"path": str(self.path), "format": self.format, "bytes": self.bytes}
        return {
            "schema": SCHEMA, **own, "batches": list(self.batches), "difference": self.difference,
        }  # fmt: skip


@keep_random_state()
def export(
    model: nn.Module | str,
    path: str | Path,
    format: str | None = None,
    *,
    batch: int | Literal["dynamic"] = 1,
    example_inputs: ExampleInputs | None = None,
    input_size: Sequence[int] | None = None,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Write a network's inference form (see `fuse`) to a file for a runtime.

    The file is opened in its runtime, run, and compared with the network; where they differ by more
    than ``tolerance``, or it can't be written, no file is left (nor changed).

    Args:
        model: Any network, converted or not, or the name of one (see `build`); it is not changed.
        path: The file.
        format: ``"onnx"``, ``"openvino"``, ``"pt2"``, ``"aoti"``, ``"executorch"`` or
            ``"litert"``; if not given, the file's name tells.
        batch: How many images it takes at a time; ``"dynamic"``: any number.
        example_inputs: What its forward takes, real tensors; worked out if not given.
        input_size: ``(C, H, W)`` of one image, in place of ``example_inputs``.
        tolerance: Largest difference of an output, as a part of the largest output.

    Raises:
        SettingsError: There is no such format, or what it needs is not installed.
        ModelError: The network can't be run, the format can't hold it, or the outputs differ.
    """
    path = Path(path)
    kind = format_of(path) if format is None else named("format", format, FORMATS)
    kind.require()
    check_writable(path)
    original = network_of(model)
    network = copy_network(original).eval()
    args = example_arguments(network, example_inputs, input_size)
    batches: tuple[int, ...] = (2, 3)
    if batch == "dynamic":
        args = with_batch(args, 2)
    else:
        args = with_batch(args, batch) if example_inputs is None or batch != 1 else args
        batches = (tensors_of(args)[0].size(0),)
    fused = fuse(network, fold_ghost_norms=kind.folds_ghost_norms)
    program = Program(fused, args, batch == "dynamic", _facts(original, args))
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / f"network{kind.suffix}"
        write(kind, program, draft)
        difference = _compare(kind, draft, replace(program, network=network), batches, tolerance)
        size = _put(kind, draft, path)
    return Exported(path, kind.name, size, batches, difference)


def _compare(
    kind: Format, path: Path, program: Program, batches: Sequence[int], tolerance: float
) -> float:
    """The largest difference between a file's outputs and the network's; a larger one is raised."""
    worst = 0.0
    try:
        session = kind.open(path, None)
        for batch in batches:
            asked = replace(program, args=with_batch(program.args, batch))
            worst = max(worst, _difference(session(asked.tensors), asked.run()))
    except Exception as error:
        raise ModelError(
            f"{kind.name} can't run the network ({type(error).__name__}: {first_line(error)}): "
            "nothing was written; choose another format."
        ) from error
    if not worst <= tolerance:
        raise ModelError(
            f"What {kind.name} computes differs from the network by {worst:.1e} of its largest "
            f"output (tolerance {tolerance:.0e}): nothing was written; try another format."
        )
    return worst


def _difference(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest difference of any number, as a part of the largest in its tensor."""
    if [tuple(o.shape) for o in outputs] != [tuple(e.shape) for e in expected]:
        return float("inf")
    worst = 0.0
    for one, other in zip(outputs, expected, strict=True):
        if other.numel():
            a, b = one.detach().cpu().double(), other.detach().cpu().double()
            found = (a - b).abs().max() / b.abs().max().clamp_min(1e-6)
            worst = max(worst, found.nan_to_num(float("inf")).item())
    return worst


def _put(kind: Format, draft: Path, path: Path) -> int:
    """Give the written files their names; their size in bytes."""
    size = 0
    # What lies beside it first: the file itself is there only when it can be opened.
    for suffix in (*kind.beside, kind.suffix):
        source = draft.with_suffix(suffix) if suffix != kind.suffix else draft
        target = path.with_suffix(suffix) if suffix != kind.suffix else path
        size += source.stat().st_size
        with writing(target) as place:
            place.write_bytes(source.read_bytes())
    return size


def _facts(network: nn.Module, args: tuple[Any, ...]) -> dict[str, str]:
    """What a file says about the network in it."""
    tensors = tensors_of(args)
    facts = {
        "ghostify": __version__,
        "model": name_of(network),
        "inputs": ", ".join("x".join(map(str, tensor.shape)) for tensor in tensors),
    }
    counted = count(network, args)
    if counted.stopped is None:
        facts["macs"] = str(counted.total.macs)
    if len(tensors) == 1 and tensors[0].dim() == 4 and tensors[0].size(1) in (1, 3):
        prepared = preparation_of(network, tuple(tensors[0].shape[1:]))
        facts["mean"] = " ".join(f"{value:g}" for value in prepared.mean)
        facts["std"] = " ".join(f"{value:g}" for value in prepared.std)
    return facts
