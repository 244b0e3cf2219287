"""A network as a file for a runtime, proven to give the network's outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ghostify._version import __version__
from ghostify.cost.counting import count
from ghostify.data.preparation import preparation_of
from ghostify.deploy.formats import FORMATS, Format, format_of, named, write
from ghostify.deploy.fusing import fuse
from ghostify.deploy.int8 import quantizer_of, write_int8
from ghostify.deploy.norms import norms_to_convolutions
from ghostify.deploy.program import Program, example_arguments, tensors_of, with_batch
from ghostify.deploy.proof import OutputProof, prove
from ghostify.deploy.samples import Samples, example_from, samples_for
from ghostify.documents import Document, Printable, Table, Writable, plain_columns
from ghostify.errors import ModelError, SettingsError, first_line
from ghostify.files import check_writable, writing
from ghostify.graph.inputs import ExampleInputs
from ghostify.graph.meta_copy import copy_network
from ghostify.numerics.surroundings import own_surroundings
from ghostify.progress import Milestone, Progress, silent
from ghostify.saving import network_of
from ghostify.saving.history import name_of
from ghostify.settings.calibration import Calibration

TOLERANCE = 1e-3
"""Largest difference from the network's outputs, as a part of the largest of those."""

INT8_TOLERANCE = 0.3
"""Of int8 the root mean square of the differences, as a part of the outputs': 10 dB."""

PROOF_IMAGES = 100
"""Calibration images, at the most, that a file is compared on."""

SCHEMA = "ghostify.export/1"


@dataclass(frozen=True)
class Exported(Writable):
    """A file for a runtime, and how near its outputs are to the network's.

    Attributes:
        path: The file.
        format: Name of its format.
        bytes: Its size, with what belongs to it.
        proof: How near each output is, at each number of images at a time.
        int8: Whether it was quantised.
        on_images: Whether it was compared on calibration images, not on random numbers.
    """

    path: Path
    format: str
    bytes: int
    proof: tuple[OutputProof, ...]
    int8: bool = False
    on_images: bool = False

    @property
    def batches(self) -> tuple[int, ...]:
        """Numbers of images at which it was run and compared."""
        return tuple(dict.fromkeys(found.batch for found in self.proof))

    @property
    def difference(self) -> float:
        """Largest difference from the network's outputs, as a part of the largest of them."""
        return max((found.difference for found in self.proof), default=0.0)

    @property
    def noise(self) -> float:
        """Root mean square of the differences, as a part of that of the outputs; the largest."""
        return max((found.noise for found in self.proof), default=0.0)

    def document(self) -> Document:
        """What it prints."""
        runs = " and ".join(map(str, self.batches))
        kind = f"{self.format} in int8" if self.int8 else self.format
        head = f"{self.path}: {kind}, {self.bytes / 1e6:.1f} MB; with {runs} images "
        if not self.int8:
            near = f"its outputs differ from the network's by {self.difference:.1e} of the largest."
            return Document(summary=head + near)
        near = f"its outputs differ from the network's by {100 * self.noise:.1f} % (RMS)"
        scored = [found for found in self.proof if found.same_top1 is not None]
        if scored:
            same, images = (sum(n) for n in zip(*map(_votes, scored), strict=True))
            near += f", and the class is the same for {same} of {images} calibration images"
        return Document(summary=f"{head}{near}.")

    def details(self) -> Details:
        """What it prints, with a row for each output and number of images at a time."""
        where = "calibration images" if self.on_images else "random inputs"
        columns = plain_columns("output", "batch", "images", "largest", "RMS", "same class")
        rows = [_row(found) for found in self.proof]
        return Details(
            replace(self.document(), title=f"Compared on {where}", tables=[Table(columns, rows)])
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "schema": SCHEMA, "path": str(self.path), "format": self.format, "int8": self.int8,
            "bytes": self.bytes, "batches": list(self.batches), "difference": self.difference,
            "noise": self.noise, "compared_on": "images" if self.on_images else "random inputs",
            "proof": [found.to_dict() for found in self.proof],
        }  # fmt: skip


@dataclass(frozen=True)
class Details(Printable):
    """An export's proof in full."""

    whole: Document

    def document(self) -> Document:
        """All of it."""
        return self.whole


def _votes(found: OutputProof) -> tuple[int, int]:
    return found.same_top1 or 0, found.images


def _row(found: OutputProof) -> tuple[str, ...]:
    same = "" if found.same_top1 is None else f"{found.same_top1} of {found.images}"
    return (
        str(found.output), str(found.batch), str(found.images), f"{found.difference:.1e}",
        f"{found.noise:.1e}", same,
    )  # fmt: skip


@own_surroundings()
def export(
    model: nn.Module | str,
    path: str | Path,
    format: str | None = None,
    *,
    batch: int | Literal["dynamic"] = 1,
    int8: bool = False,
    calibration: Any = None,
    calibration_samples: int = 300,
    calibration_seed: int = 0,
    example_inputs: ExampleInputs | None = None,
    input_size: Sequence[int] | None = None,
    tolerance: float | None = None,
    progress: Progress = silent,
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
        int8: Whether weights and maps become int8 (post-training quantisation by the runtime's own
            library); ``"onnx"``, ``"openvino"`` and ``"executorch"`` can.
        calibration: Images that tell the maps' ranges, in any form that `convert` takes; the file
            is then compared on them, not on random inputs. int8 needs them.
        calibration_samples: How many of them to take.
        calibration_seed: Of their choice.
        example_inputs: What its forward takes, real tensors; worked out if not given.
        input_size: ``(C, H, W)`` of one image, in place of ``example_inputs``.
        tolerance: Largest difference of an output, as a part of the largest output (a thousandth
            if not given); of int8 the root mean square of the differences, as a part of the
            outputs' (0.3).
        progress: Told what is done now.

    Raises:
        SettingsError: There is no such format, it has no int8, or what it needs is not installed.
        DataError: The calibration images can't be read, or the network can't take them.
        ModelError: The network can't be run, the format can't hold it, or the outputs differ.
    """
    path = Path(path)
    kind = format_of(path) if format is None else named("format", format, FORMATS)
    kind.require()
    asked = _calibration_of(calibration, calibration_samples, calibration_seed)
    if int8 and asked is None:
        raise SettingsError("int8 needs images to calibrate it: give calibration.")
    folds = quantizer_of(kind).folds_ghost_norms if int8 else kind.folds_ghost_norms
    check_writable(path)
    original = network_of(model)
    network = copy_network(original).eval()
    args, batches = _runs_of(network, batch, asked, example_inputs, input_size)
    samples = None if asked is None else samples_for(network, asked, args, batches, progress)
    facts = _facts(original, args) | ({"precision": "int8"} if int8 else {})
    # In integers each summand would be rounded by itself.
    addition = None if int8 else kind.addition
    fused = fuse(network, fold_ghost_norms=folds, addition=addition)
    if int8:
        norms_to_convolutions(fused)
    program = Program(fused, args, batch == "dynamic", facts)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / f"network{kind.suffix}"
        progress(f"writing {kind.name}" + (" in int8" if int8 else ""))
        if int8 and samples is not None:
            write_int8(kind, program, samples, draft)
        else:
            write(kind, program, draft)
        proof = _prove(kind, draft, replace(program, network=network), batches, samples, progress)
        done = Exported(path, kind.name, 0, proof, int8, samples is not None)
        _judge(done, tolerance)
        return replace(done, bytes=_put(kind, draft, path))


def export_program(
    model: nn.Module, path: Path, example_inputs: ExampleInputs | None = None
) -> Path:
    """Write a network as a program of `torch.export`, for any number of images if it can be.

    Raises:
        ModelError: It can't be exported.
    """
    batches: tuple[Literal["dynamic", 1], ...] = ("dynamic", 1)
    for batch in batches:
        try:
            return export(model, path, "pt2", batch=batch, example_inputs=example_inputs).path
        except ModelError as error:
            refused = error
    raise ModelError(
        f"This network can't be saved as a program: leave out program=True (--program). {refused}"
    ) from refused


def _calibration_of(calibration: Any, samples: int, seed: int) -> Calibration | None:
    if calibration is None or isinstance(calibration, Calibration):
        found = calibration
    else:
        found = Calibration(calibration, samples=samples, seed=seed)
    if found is not None and found.is_data_free:
        raise SettingsError("calibration='data-free' has no images: give some.")
    return found


def _runs_of(
    network: nn.Module,
    batch: int | Literal["dynamic"],
    calibration: Calibration | None,
    example_inputs: ExampleInputs | None,
    input_size: Sequence[int] | None,
) -> tuple[tuple[Any, ...], tuple[int, ...]]:
    """Arguments to write the file with, and the numbers of images to run it with."""
    given = example_inputs
    if given is None and input_size is None:
        given = example_from(network, calibration)
    args = example_arguments(network, given, input_size)
    if batch == "dynamic":
        return with_batch(args, 2), (2, 3)
    args = with_batch(args, batch) if example_inputs is None or batch != 1 else args
    return args, (tensors_of(args)[0].size(0),)


def _prove(
    kind: Format,
    path: Path,
    program: Program,
    batches: Sequence[int],
    samples: Samples | None,
    progress: Progress,
) -> tuple[OutputProof, ...]:
    """Run a file beside the network, on the samples if there are any."""
    if samples is None:
        inputs: Iterable[tuple[Any, ...]] = [with_batch(program.args, b) for b in batches]
        most = len(batches)
    else:
        inputs = samples.runs(PROOF_IMAGES)
        most = min(len(samples.images), PROOF_IMAGES) * len(batches) // sum(batches)
    try:
        progress(f"opening {kind.name}")
        return prove(kind.open(path, None), program, _told(inputs, most, progress))
    except Exception as error:
        raise ModelError(
            f"{kind.name} can't run the network ({type(error).__name__}: {first_line(error)}): "
            "nothing was written; choose another format."
        ) from error


def _told(
    inputs: Iterable[tuple[Any, ...]], most: int, progress: Progress
) -> Iterator[tuple[Any, ...]]:
    for index, args in enumerate(inputs):
        progress(Milestone(f"comparing with the network, run {index + 1}", index / max(most, 1)))
        yield args


def _judge(done: Exported, tolerance: float | None) -> None:
    """Raise where the outputs are too far from the network's."""
    if done.int8:
        bound = INT8_TOLERANCE if tolerance is None else tolerance
        if not done.noise <= bound:
            raise ModelError(
                f"What {done.format} computes in int8 differs from the network by "
                f"{100 * done.noise:.0f} % (RMS; tolerance {100 * bound:.0f} %): nothing was "
                "written; give more or other calibration images, or leave int8 out."
            )
        return
    bound = TOLERANCE if tolerance is None else tolerance
    if not done.difference <= bound:
        raise ModelError(
            f"What {done.format} computes differs from the network by {done.difference:.1e} of its "
            f"largest output (tolerance {bound:.0e}): nothing was written; try another format."
        )


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
