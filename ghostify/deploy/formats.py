"""File formats of the runtimes: how a network is written, and how the file is run."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ghostify.deploy.keeping_apart import IN_FILES, IN_TORCH
from ghostify.deploy.program import Program, Session, tensors_of
from ghostify.errors import ModelError, SettingsError, first_cause, nearest

EntryT = TypeVar("EntryT")


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        name: Its name.
        suffix: What its files end in.
        extra: The extra of ghostify that brings what it needs; empty for none.
        packages: What must be installed.
        write: Writes a program to a path.
        open: Makes a session of a file, for a number of threads (None: the runtime's choice).
        folds_ghost_norms: Whether the runtime is faster with the norms inside the ghost modules.
        addition: What adding to a map costs in it (see `fuse`); None to concatenate always.
        beside: Suffixes of further files that are written beside the first.
        write_several: Writes several programs of one input tensor each, in less time
            than one by one; None where there is no such way.
    """

    name: str
    suffix: str
    extra: str
    packages: tuple[str, ...]
    write: Callable[[Program, Path], None]
    open: Callable[[Path, int | None], Session]
    folds_ghost_norms: bool = False
    addition: float | None = None
    beside: tuple[str, ...] = ()
    write_several: Callable[[Sequence[Program], Sequence[Path]], None] | None = None

    def require(self) -> None:
        """Raise `SettingsError` where something that it needs is not installed."""
        require_packages(self.name, self.packages, self.extra)


def require_packages(what: str, packages: Sequence[str], extra: str) -> None:
    """Raise `SettingsError` where packages are not installed; the extra brings them."""
    missing = [name for name in packages if not _is_installed(name)]
    if missing:
        raise SettingsError(
            f"{what} needs {', '.join(missing)}, not installed here: "
            f"pip install 'ghostify[{extra}]'."
        )


def named(what: str, name: str, entries: Mapping[str, EntryT]) -> EntryT:
    """The entry of that name in a registry.

    Raises:
        SettingsError: There is none.
    """
    if name not in entries:
        known = ", ".join(entries)
        raise SettingsError(f"{what}={name!r} is none{nearest(name, entries)}: give {known}.")
    return entries[name]


def format_of(path: Path) -> Format:
    """The format that a file's name ends in.

    Raises:
        SettingsError: The name's end tells none.
    """
    for kind in FORMATS.values():
        if path.name.endswith(kind.suffix):
            return kind
    endings = ", ".join(kind.suffix for kind in FORMATS.values())
    raise SettingsError(f"{path} tells no format: name one, or end the name in {endings}.")


@contextmanager
def quietly() -> Iterator[None]:
    """Without what exporters print and warn of on their way."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a part of a package that is missing
        return False


def write(kind: Format, program: Program, path: Path) -> None:
    """Write a program to a file.

    Raises:
        ModelError: The format can't hold the network.
    """
    try:
        with quietly(), torch.no_grad():
            kind.write(program, path)
    except Exception as error:
        raise _cannot_hold(kind, error) from error


def write_several(kind: Format, programs: Sequence[Program], paths: Sequence[Path]) -> None:
    """Write programs of one input tensor each to a file each.

    Raises:
        ModelError: The format can't hold one of them.
    """
    assert kind.write_several is not None
    try:
        with quietly(), torch.no_grad():
            kind.write_several(programs, paths)
    except Exception as error:
        raise _cannot_hold(kind, error) from error


def _cannot_hold(kind: Format, error: Exception) -> ModelError:
    return ModelError(
        f"{kind.name} can't hold the network ({first_cause(error)}): choose another format."
    )


def _shapes(program: Program) -> Any:
    """Which dimensions may differ: the first of each tensor, if any."""
    if not program.any_batch:
        return None
    # Without a limit PyTorch 2.6 asks whether it is infinite, and refuses.
    batch = torch.export.Dim("batch", min=1, max=2**24)
    return pytree.tree_map(
        lambda leaf: {0: batch} if isinstance(leaf, Tensor) and leaf.dim() else None, program.args
    )


def exported(program: Program) -> torch.export.ExportedProgram:
    """The program of `torch.export`."""
    shapes = _shapes(program)
    return torch.export.export(program.network, program.args, dynamic_shapes=shapes, strict=False)


def write_onnx(program: Program, path: Path) -> None:
    """A program as an ONNX file."""
    # Exported here: left to itself, PyTorch's exporter of 2.6 makes any batch the one it was given.
    written = torch.onnx.export(
        exported(program), (), dynamo=True, optimize=True, verbose=False, external_data=False
    )
    assert written is not None
    written.model.metadata_props.update(program.facts)
    written.save(path)


class _Beside(nn.Module):
    """Networks beside each other, each with an input of its own."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, *xs: Tensor) -> list[Any]:
        return [network(x) for network, x in zip(self.networks, xs, strict=True)]


def _write_onnx_several(programs: Sequence[Program], paths: Sequence[Path]) -> None:
    """One export for all, taken apart: each export takes PyTorch about a second to begin."""
    import onnx

    tensors = tuple(tensor for program in programs for tensor in program.tensors)
    counts = [len(program.run()) for program in programs]
    both = paths[0].with_suffix(".all.onnx")
    write_onnx(Program(_Beside([p.network for p in programs]).eval(), tensors), both)
    model = onnx.load(both)
    both.unlink()
    taken = onnx.utils.Extractor(model)
    exits = iter(output.name for output in model.graph.output)
    for entry, count, path in zip(model.graph.input, counts, paths, strict=True):
        onnx.save(taken.extract_model([entry.name], [*islice(exits, count)]), path)


def _write_openvino_several(programs: Sequence[Program], paths: Sequence[Path]) -> None:
    import openvino

    _write_onnx_several(programs, [path.with_suffix(".onnx") for path in paths])
    for program, path in zip(programs, paths, strict=True):
        onnx = path.with_suffix(".onnx")
        save_openvino(openvino.convert_model(onnx), program, path)
        onnx.unlink()


def _open_onnx(path: Path, threads: int | None) -> Session:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        feeds = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=False)}
        return [torch.from_numpy(array) for array in session.run(None, feeds)]

    return run


def _write_openvino(program: Program, path: Path) -> None:
    import openvino

    onnx = path.with_suffix(".onnx")
    write_onnx(program, onnx)
    save_openvino(openvino.convert_model(onnx), program, path)
    onnx.unlink()


def save_openvino(model: Any, program: Program, path: Path) -> None:
    """Save OpenVINO's model of a program, with the facts."""
    import openvino

    for key, value in program.facts.items():
        model.set_rt_info(value, ["ghostify", key])
    openvino.save_model(model, path, compress_to_fp16=False)


def _open_openvino(path: Path, threads: int | None) -> Session:
    import openvino

    config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        config |= {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": "1"}
    # Reduced precision by default on some processors: the outputs would not be the network's.
    config["INFERENCE_PRECISION_HINT"] = "f32"
    request = openvino.Core().compile_model(path, "CPU", config).create_infer_request()

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        results = request.infer([tensor.numpy() for tensor in tensors], share_inputs=True)
        return [torch.from_numpy(array) for array in results.values()]

    return run


def _write_pt2(program: Program, path: Path) -> None:
    torch.export.save(exported(program), path, extra_files={"ghostify.json": _as_json(program)})


def _open_pt2(path: Path, threads: int | None) -> Session:
    return _session_of(torch.export.load(path).module(), threads)


def _write_aoti(program: Program, path: Path) -> None:
    from torch._inductor import aoti_compile_and_package

    aoti_compile_and_package(exported(program), package_path=str(path))


def _open_aoti(path: Path, threads: int | None) -> Session:
    from torch._inductor import aoti_load_package

    return _session_of(aoti_load_package(str(path)), threads)


def _session_of(run: Callable[..., Any], threads: int | None) -> Session:
    def session(tensors: Sequence[Tensor]) -> list[Tensor]:
        with torch.no_grad(), torch_threads(threads):
            return tensors_of(run(*tensors))

    return session


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Let PyTorch use so many threads."""
    before = torch.get_num_threads()
    if threads is not None and threads != before:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def _write_executorch(program: Program, path: Path) -> None:
    save_xnnpack(exported(program), path)


def save_xnnpack(program: torch.export.ExportedProgram, path: Path) -> None:
    """Lower a program to ExecuTorch's XNNPACK delegate and save it."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    with path.open("wb") as stream:
        lowered.to_executorch().write_to_file(stream)


def _open_executorch(path: Path, threads: int | None) -> Session:
    from executorch.runtime import Runtime

    # The method reads the program's memory, and nothing but this closure keeps that alive.
    data = path.read_bytes()
    program = Runtime.get().load_program(data)
    method = program.load_method("forward")

    def run(tensors: Sequence[Tensor], _alive: Any = (data, program)) -> list[Tensor]:
        return tensors_of(method.execute([t.contiguous() for t in tensors]))

    return run


def _write_litert(program: Program, path: Path) -> None:
    import litert_torch

    litert_torch.convert(program.network, program.args).export(str(path))


def _open_litert(path: Path, threads: int | None) -> Session:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        for entry, tensor in zip(inputs, tensors, strict=False):
            interpreter.set_tensor(entry["index"], tensor.numpy())
        interpreter.invoke()
        return [torch.from_numpy(interpreter.get_tensor(entry["index"])) for entry in outputs]

    return run


def _as_json(program: Program) -> str:
    import json

    return json.dumps(dict(program.facts))


_ONNX = ("onnx", "onnxscript", "onnxruntime")
FORMATS: dict[str, Format] = {
    kind.name: kind
    for kind in (
        Format(
            "onnx", ".onnx", "onnx", _ONNX, write_onnx, _open_onnx, addition=IN_FILES,
            write_several=_write_onnx_several,
        ),
        Format(
            "openvino", ".xml", "openvino", (*_ONNX[:2], "openvino"), _write_openvino,
            _open_openvino, addition=IN_FILES, beside=(".bin",),
            write_several=_write_openvino_several,
        ),
        Format("aoti", ".aoti.pt2", "", (), _write_aoti, _open_aoti, folds_ghost_norms=True),
        Format(
            "pt2", ".pt2", "", (), _write_pt2, _open_pt2, folds_ghost_norms=True, addition=IN_TORCH
        ),
        Format(
            "executorch", ".pte", "executorch", ("executorch",), _write_executorch,
            _open_executorch,
        ),
        Format(
            "litert", ".tflite", "litert", ("litert_torch", "ai_edge_litert"), _write_litert,
            _open_litert, folds_ghost_norms=True,
        ),
    )
}  # fmt: skip
"""The formats by their names; a new one is one more entry."""
