"""Proving that a network works: shapes, gradients, copies, files, compilers. One check each."""

from __future__ import annotations

import copy
import importlib.util
import io as bytesio
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ghostify import api
from ghostify.cost.counting import look
from ghostify.errors import ModelError
from ghostify.graph.failure import describe_error
from ghostify.graph.inputs import ExampleInputs, Inputs, candidate_inputs
from ghostify.graph.meta_copy import copy_network, meta_copy
from ghostify.nn import GhostLayer
from ghostify.numerics.surroundings import own_surroundings
from ghostify.saving import counted_inputs_of
from ghostify.saving.history import history_of, remember

TOLERANCE = 1e-3
"""How far a compiled or exported network's outputs may be from the eager ones, of their largest."""


class _Skip(Exception):
    """A check that can't be made here, and why."""


@dataclass(frozen=True)
class Check:
    """The outcome of one check."""

    name: str
    status: Literal["ok", "failed", "skipped"]
    detail: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        detail = f": {self.detail}" if self.detail else ""
        return f"{self.name:<14} {self.status}{detail}"


@dataclass(frozen=True)
class Subject:
    """The network under test and what to feed it.

    Attributes:
        model: A copy of it, in eval mode.
        inputs: Real inputs.
        expected: Nested shapes of the original's output, where they are known.
        original: The network before conversion, where the caller gave it.
        reads_data: Whether its forward reads its data, so that shapes may depend on it.
    """

    model: nn.Module
    inputs: Inputs
    expected: Any
    original: nn.Module | None = None
    reads_data: bool = False

    def output(self, model: Callable[..., Any] | None = None) -> list[Tensor]:
        """The output's tensors, of the subject or of a twin of it, without gradients."""
        with torch.no_grad():
            # Not `model or`: a compiled network has a truth value of its own.
            chosen = self.model if model is None else model
            return _tensors(chosen(*self.inputs.args, **self.inputs.kwargs))


@own_surroundings()
def verify(
    model: nn.Module,
    example_inputs: ExampleInputs | None = None,
    input_size: Sequence[int] | None = None,
    *,
    original: nn.Module | None = None,
) -> Iterator[Check]:
    """Check a converted network in every way it will be used; ``model`` is not changed.

    Yields each outcome as it comes.

    Args:
        model: A converted network (or any other).
        example_inputs: What its forward takes; real tensors are used as they are.
        input_size: ``(C, H, W)`` of one image, in place of ``example_inputs``.
        original: The network before conversion: output shapes are compared with its own, and a
            check that it fails too is skipped, since that says nothing of the conversion.

    Raises:
        ModelError: The network can't be run on the inputs.
    """
    subject = _subject(model, example_inputs, input_size, original)
    for name, function in CHECKS.items():
        start = time.perf_counter()
        status, detail = _outcome(function, subject)
        if status == "failed" and subject.original is not None:
            twin = replace(subject, model=_twin(subject.original), original=None)
            if _outcome(function, twin)[0] == "failed":
                status, detail = "skipped", f"the original fails too ({detail})"
        yield Check(name, status, detail, time.perf_counter() - start)


def _outcome(
    function: Callable[[Subject], str], subject: Subject
) -> tuple[Literal["ok", "failed", "skipped"], str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return "ok", function(subject)
    except _Skip as reason:
        return "skipped", str(reason)
    except Exception as error:
        return "failed", describe_error(error)


def _subject(
    model: nn.Module,
    example_inputs: ExampleInputs | None,
    input_size: Sequence[int] | None,
    original: nn.Module | None,
) -> Subject:
    before = model if original is None else original
    if example_inputs is None and input_size is None:
        example_inputs = counted_inputs_of(model)
    candidates = candidate_inputs(model, example_inputs, input_size)
    run = look(before, meta_copy(before).eval(), candidates).farthest
    if not run.calls:
        raise ModelError(f"The network can't be run: {run.stopped}. Give example_inputs.")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    args, kwargs = run.inputs.filled(device)
    return Subject(
        _twin(model), replace(run.inputs, args=args, kwargs=kwargs), run.output, original,
        run.readings is not None,
    )  # fmt: skip


def _twin(model: nn.Module) -> nn.Module:
    """A copy in eval mode, its history included (which a GraphModule's copy would lack)."""
    twin = copy_network(model).eval()
    remember(twin, history_of(model))
    return twin


def _check_shapes(subject: Subject) -> str:
    shapes = [tuple(tensor.shape) for tensor in subject.output()]
    expected = [s for s in _leaves(subject.expected) if isinstance(s, tuple)]
    if not expected:
        raise _Skip("the original's output shapes are not known without data")
    if shapes != expected and subject.reads_data and _kinds(shapes) == _kinds(expected):
        raise _Skip(f"the shapes depend on the data: {shapes}, the original's {expected}")
    if shapes != expected:
        raise ValueError(f"the output is {shapes}, the original's is {expected}")
    return ", ".join("x".join(map(str, shape)) for shape in shapes)


def _kinds(shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Shapes without their first dimension, in which the number of what was found stands."""
    return [(len(shape), *shape[1:]) for shape in shapes]


def _check_forward(subject: Subject) -> str:
    _require_finite(subject.output(), "the output")
    return "finite"


def _check_backward(subject: Subject) -> str:
    model = copy_network(subject.model).requires_grad_(True)
    outputs = _tensors(model(*subject.inputs.args, **subject.inputs.kwargs))
    losses = [out.float().square().mean() for out in outputs if out.requires_grad]
    if not losses:
        raise _Skip("no output depends on a parameter")
    torch.stack(losses).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    _require_finite(gradients, "a gradient")
    return f"finite gradients for {len(gradients)} parameters"


def _check_modes(subject: Subject) -> str:
    model = copy_network(subject.model)
    model.train()
    ghosts = [m for m in model.modules() if isinstance(m, GhostLayer)]
    # Ghost modules alone: a network may keep its own parts (frozen batch norms) in eval mode.
    if not all(m.training for ghost in ghosts for m in ghost.modules()):
        raise ValueError("train() does not reach every ghost module")
    model.eval()
    _require_equal(subject.output(model), subject.output(), "back in eval mode the output")
    return f"train() and eval() reach {len(ghosts)} ghost modules"


def _check_copies(subject: Subject) -> str:
    _require_equal(subject.output(copy.deepcopy(subject.model)), subject.output(), "the copy")
    return "equal outputs, bit for bit"


def _check_folder(subject: Subject) -> str:
    source, original = history_of(subject.model).source, subject.original
    if source is not None:
        original = api.build(source.name, source.model_args)
    if original is None or (source is None and history_of(original).plans):
        raise _Skip("nothing builds the original: give it, or a network that ghostify.build made")
    with tempfile.TemporaryDirectory() as folder:
        api.save(subject.model, folder)
        loaded = api.load(folder, original)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    _require_equal(subject.output(loaded), subject.output(), "the loaded network's output")
    return f"equal outputs, bit for bit; {size / 1e6:.1f} MB"


def _check_compile(subject: Subject) -> str:
    torch._dynamo.reset()
    compiled = torch.compile(copy_network(subject.model), backend=_backend())
    _require_close(subject.output(compiled), subject.output(), "the compiled network's output")
    return f"equal outputs ({_backend()})"


def _check_export(subject: Subject) -> str:
    inputs = subject.inputs
    exported = torch.export.export(subject.model, tuple(inputs.args), dict(inputs.kwargs))
    _require_close(subject.output(exported.module()), subject.output(), "the exported output")
    return "equal outputs"


def _check_onnx(subject: Subject) -> str:
    for needed in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(needed) is None:
            raise _Skip(f"{needed} is not installed (pip install 'ghostify[onnx]')")
    if subject.inputs.kwargs:
        raise _Skip("keyword inputs are not exported to ONNX here")
    import onnxruntime

    stream = bytesio.BytesIO()
    program = torch.onnx.export(
        subject.model, tuple(subject.inputs.args), dynamo=True, verbose=False
    )
    assert program is not None
    program.save(stream)  # type: ignore[arg-type]  # takes a stream too
    session = onnxruntime.InferenceSession(stream.getvalue(), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    feeds = dict(zip(names, (t.cpu().numpy() for t in _tensors(subject.inputs.args)), strict=False))
    outputs = [torch.from_numpy(array) for array in session.run(None, feeds)]
    _require_close(outputs, [t.cpu() for t in subject.output()], "ONNX Runtime's output")
    return "equal outputs in ONNX Runtime"


CHECKS: dict[str, Callable[[Subject], str]] = {
    "output shapes": _check_shapes,
    "forward": _check_forward,
    "backward": _check_backward,
    "train/eval": _check_modes,
    "deepcopy": _check_copies,
    "save/load": _check_folder,
    "torch.compile": _check_compile,
    "torch.export": _check_export,
    "ONNX": _check_onnx,
}
"""The checks, in order: each says what it saw, or raises; a new one is one more entry."""


def _backend() -> str:
    """The default compiler where a C++ compiler is at hand, else the tracer alone."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception:
        return "aot_eager"
    return "inductor"


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in _leaves(output) if isinstance(leaf, Tensor)]


def _leaves(output: Any) -> list[Any]:
    return pytree.tree_leaves(output, is_leaf=_is_shape)


def _is_shape(item: Any) -> bool:
    return isinstance(item, tuple) and all(isinstance(size, int) for size in item)


def _require_finite(tensors: Sequence[Tensor], what: str) -> None:
    if not all(torch.isfinite(tensor).all() for tensor in tensors):
        raise ValueError(f"{what} is not finite")


def _require_equal(one: Sequence[Tensor], other: Sequence[Tensor], what: str) -> None:
    if len(one) != len(other) or not all(map(torch.equal, one, other)):
        raise ValueError(f"{what} is not equal, bit for bit")


def _require_close(one: Sequence[Tensor], other: Sequence[Tensor], what: str) -> None:
    if len(one) != len(other):
        raise ValueError(f"{what} has {len(one)} tensors, not {len(other)}")
    for a, b in zip(one, other, strict=True):
        scale = b.float().abs().max().clamp_min(1e-6)
        if a.shape != b.shape or (a.float() - b.float()).abs().max() > TOLERANCE * scale:
            raise ValueError(f"{what} is not that of the eager network")
