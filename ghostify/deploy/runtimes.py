"""What a network is run in: PyTorch itself, its compiler, and the runtimes of files."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ghostify.deploy.formats import FORMATS, Format, torch_threads, write
from ghostify.deploy.fusing import fuse
from ghostify.deploy.program import Program

Work = Callable[[], Any]


@dataclass(frozen=True)
class Prepared:
    """One way to run a network in a runtime.

    Attributes:
        form: What it is, in a word: the memory format, where there are several.
        run: Runs it once, to its end.
    """

    form: str
    run: Work


@dataclass(frozen=True)
class Runtime:
    """Something that runs networks.

    Attributes:
        name: Its name.
        prepare: The ways to run a program in it, for a number of threads; the fastest counts.
        format: The file format that it runs, if it runs files.
    """

    name: str
    prepare: Callable[[Program, int], list[Prepared]]
    format: Format | None = None

    def require(self) -> None:
        """Raise `SettingsError` where it is not installed."""
        if self.format is not None:
            self.format.require()


def _eager(program: Program, threads: int) -> list[Prepared]:
    fused = fuse(program.network)
    return [
        Prepared(form, _in_torch(*_laid_out(fused, program, memory_format), threads))
        for form, memory_format in _MEMORY_FORMATS.items()
    ]


def _compiled(program: Program, threads: int) -> list[Prepared]:
    fused = fuse(program.network)
    found = []
    for form, memory_format in _MEMORY_FORMATS.items():
        network, args = _laid_out(fused, program, memory_format)
        found.append(Prepared(form, _in_torch(torch.compile(network), args, threads)))
    return found


_MEMORY_FORMATS = {
    "channels_last": torch.channels_last,
    "contiguous": torch.contiguous_format,
}


def _laid_out(
    network: nn.Module, program: Program, memory_format: torch.memory_format
) -> tuple[nn.Module, tuple[Any, ...]]:
    """A copy of a network and its arguments with images in a memory format."""

    def lay(leaf: Any) -> Any:
        is_image = isinstance(leaf, Tensor) and leaf.dim() == 4
        return leaf.contiguous(memory_format=memory_format) if is_image else leaf

    laid = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in laid.parameters():
            parameter.data = lay(parameter.data)
    return laid, pytree.tree_map(lay, program.args)


def _in_torch(network: Callable[..., Any], args: tuple[Any, ...], threads: int) -> Work:
    is_on_gpu = any(isinstance(a, Tensor) and a.is_cuda for a in pytree.tree_leaves(args))

    def run() -> None:
        with torch.inference_mode(), torch_threads(threads):
            network(*args)
            if is_on_gpu:
                torch.cuda.synchronize()

    return run


def _of_file(kind: Format) -> Callable[[Program, int], list[Prepared]]:
    def prepare(program: Program, threads: int) -> list[Prepared]:
        fused = fuse(program.network, fold_ghost_norms=kind.folds_ghost_norms)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"network{kind.suffix}"
            write(kind, replace(program, network=fused), path)
            session = kind.open(path, threads)
        tensors = program.tensors
        return [Prepared("", lambda: session(tensors))]

    return prepare


RUNTIMES: dict[str, Runtime] = {
    "eager": Runtime("eager", _eager),
    "compile": Runtime("compile", _compiled),
    "onnxruntime": Runtime("onnxruntime", _of_file(FORMATS["onnx"]), FORMATS["onnx"]),
    **{
        name: Runtime(name, _of_file(FORMATS[name]), FORMATS[name])
        for name in ("openvino", "aoti", "executorch", "litert")
    },
}
"""The runtimes by their names; a new one is one more entry."""
