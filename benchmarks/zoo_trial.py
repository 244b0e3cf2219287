"""One network of the zoo in one mode: is it converted, does it work, what does that save and cost.

Each trial is a function from a `Subject` to a record that goes into a JSON line as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from measure import MB, cpu_seconds, peak_bytes
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

import ghostify
from ghostify.cost.counting import run_first
from ghostify.errors import ModelError
from ghostify.graph.failure import describe_error
from ghostify.graph.inputs import candidate_inputs
from ghostify.graph.meta_copy import meta_copy
from ghostify.saving.history import history_of

LAYERS = (_ConvNd, nn.Linear)
SMALL = (64, 96, 128)
"""Image sizes to try before the network's own."""
LARGE = 299
"""Where its own will not do either: Inception's auxiliary classifier wants it in training."""
BATCH = 2


@dataclass(frozen=True)
class Subject:
    """A network to try.

    Attributes:
        name: Its name, as `ghostify.build` takes it.
        model: The network, random weights.
        images: A small batch that it takes.
        shapes: Shapes of its outputs in training mode.
    """

    name: str
    model: nn.Module
    images: Tensor
    shapes: list[tuple[int, ...]]


def conv_share(model: nn.Module) -> float:
    """The share of Conv2d among the layers with weights (convolutions and Linear)."""
    layers = [m for m in model.modules() if isinstance(m, LAYERS)]
    return sum(isinstance(m, nn.Conv2d) for m in layers) / max(1, len(layers))


def count_params(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def prepare(name: str, model: nn.Module) -> Subject:
    """Find images that the network takes, the smallest of a few; its own size at last.

    Raises:
        ModelError: It takes none.
    """
    own = own_size(model)
    small = ((own[0], px, px) for px in SMALL if px < own[1])
    error: Exception | None = None
    for size in (*small, own, (own[0], LARGE, LARGE)):
        images = torch.randn(BATCH, *size, generator=torch.Generator().manual_seed(0))
        try:
            outputs = hollow_forward(model.train(), images)[1]
        except Exception as failure:
            error = failure
            continue
        return Subject(name, model, images, [tuple(out.shape) for out in outputs])
    raise ModelError(f"it takes no image ({describe_error(error) if error else 'none tried'})")


def own_size(model: nn.Module) -> tuple[int, ...]:
    """Channels, height and width of the image that ghostify finds for a network."""
    run = run_first(meta_copy(model).eval(), candidate_inputs(model))
    return tuple(run.inputs.args[0].shape[1:])


def hollow_forward(model: nn.Module, images: Tensor) -> tuple[nn.Module, list[Tensor]]:
    """A copy of a network that is run once, and its outputs: without data where it can be."""
    with torch.no_grad():
        try:
            meta = meta_copy(model)
            return meta, tensors(meta(images.to("meta")))
        except Exception:
            real = copy.deepcopy(model)
            return real, tensors(real(images))


def tensors(output: Any) -> list[Tensor]:
    if hasattr(output, "to_tuple"):
        output = output.to_tuple()
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


# What a network does


def try_original(subject: Subject) -> dict[str, Any]:
    """The network as it is: what can't be asked of its conversions either."""
    run = longest_run(subject.model, subject.images)
    costs = ghostify.count(subject.model).total
    return {
        **behaviour(subject.model, subject),
        "params": costs.params,
        "macs": costs.macs,
        "run": run,
        "px": subject.images.shape[-1],
    }


def behaviour(model: nn.Module, subject: Subject) -> dict[str, Any]:
    """One step of training: equal output shapes, finite outputs and gradients, or why not."""
    model = copy.deepcopy(model).train()
    try:
        outputs = tensors(model(subject.images))
        shapes = [tuple(out.shape) for out in outputs]
        if shapes != subject.shapes:
            return _fails(f"its output is {shapes}, the original's {subject.shapes}")
        if not all(map(_is_finite, outputs)):
            return _fails("its output is not finite")
        torch.stack([out.float().square().mean() for out in outputs]).sum().backward()
    except Exception as error:
        return _fails(describe_error(error))
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not gradients or not all(map(_is_finite, gradients)):
        return _fails("its gradients are not finite")
    return {"works": True, "reason": ""}


def _fails(reason: str) -> dict[str, Any]:
    return {"works": False, "reason": reason}


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def longest_run(model: nn.Module, images: Tensor) -> int:
    """The longest run of same-shape blocks, found by hooks and independent of ghostify's search.

    Blocks are modules of one class beside each other in one module, with at least two layers each,
    that take one tensor (that which the one before gave) and give one feature map; of equal shapes.
    """
    subject = hollow_forward(model.eval(), images)[0]
    calls: list[tuple[str, nn.Module, Tensor, Tensor]] = []  # which keeps all tensors alive
    names = {m: n for n, m in subject.named_modules()}

    def note(module: nn.Module, args: Any, output: Any) -> None:
        given = [a for a in args if isinstance(a, Tensor)]
        if len(given) == 1 and isinstance(output, Tensor) and output.ndim == 4:
            calls.append((names[module], module, given[0], output))

    for module in names:
        if _count_layers(module) > 1:
            module.register_forward_hook(note)
    device = next(subject.parameters()).device
    with torch.no_grad():
        subject(images.to(device))
    model.train()
    length: dict[tuple[int, str, type, tuple[int, ...]], int] = {}
    for name, module, given, output in calls:
        holder, shape = name.rpartition(".")[0], tuple(output.shape)
        before = length.get((id(given), holder, type(module), shape), 0)
        key = (id(output), holder, type(module), shape)
        length[key] = max(length.get(key, 0), before + 1)
    return max(length.values(), default=0)


def _count_layers(module: nn.Module) -> int:
    return sum(isinstance(inner, LAYERS) for inner in module.modules())


# Conversions


def try_ghostify(subject: Subject, mode: str) -> dict[str, Any]:
    """Convert a network, and see what came of it."""
    made: list[nn.Module] = []

    def work(model: nn.Module) -> float:
        return cpu_seconds(lambda: made.append(ghostify.convert(model, mode=mode)))

    peak, seconds = peak_bytes(lambda: subject.model, work)
    report = ghostify.report(made[0])
    plan = history_of(made[0]).plans[-1]
    done = {"layers": len(plan.replaced), "stages": len(plan.stages)}
    changed = any(done.values())
    worked = behaviour(made[0], subject)
    left = plan.kept_stages if mode == "g-ghost" else plan.kept
    return {
        **worked,
        **done,
        "status": "converted"
        if changed and worked["works"]
        else "left"
        if not changed
        else "fails",
        "ratios": [report.ratios.params, report.ratios.macs],
        "seconds": seconds,
        "peak_mb": peak / MB,
        "left": [[kept.name, kept.reason] for kept in left][:40],
        "left_count": len(left),
        "untraced": list(plan.untraced[:3]),
    }


def try_torch_pruning(subject: Subject) -> dict[str, Any]:
    """Prune half of the channels with Torch-Pruning, the classifier's output layer left out.

    It traces on a small image, which takes less time; where that fails, on one of the own size.
    """
    own = torch.randn(1, *own_size(subject.model), generator=torch.Generator().manual_seed(0))
    record: dict[str, Any] = {}
    for image in (subject.images[:1], own):
        try:
            record = _prune(subject, image)
        except Exception as error:
            record = {"status": "error", **_fails(describe_error(error))}
        if record["status"] == "converted":
            break
    return record


def _prune(subject: Subject, image: Tensor) -> dict[str, Any]:
    import torch_pruning as tp

    before = ghostify.count(subject.model).total
    model = copy.deepcopy(subject.model).eval()
    classes = {shape[1] for shape in subject.shapes}
    layers = [m for m in model.modules() if isinstance(m, LAYERS)]
    ignored = [m for m in layers if outputs_of(m) in classes]

    def work(network: nn.Module) -> float:
        def prune() -> None:
            pruner = tp.pruner.MagnitudePruner(
                network,
                image,
                importance=tp.importance.MagnitudeImportance(p=2),
                pruning_ratio=0.5,
                ignored_layers=ignored,
            )
            pruner.step()

        return cpu_seconds(prune)

    peak, seconds = peak_bytes(lambda: model, work)
    worked = behaviour(model, subject)
    ratios = [before.params / count_params(model), _macs_ratio(before.macs, model, subject)]
    changed = ratios[0] > 1
    return {
        **worked,
        "status": "converted"
        if changed and worked["works"]
        else "left"
        if not changed
        else "fails",
        "ratios": ratios,
        "seconds": seconds,
        "peak_mb": peak / MB,
    }


def outputs_of(layer: nn.Module) -> int:
    return layer.out_channels if isinstance(layer, _ConvNd) else layer.out_features


def _macs_ratio(macs: int | None, model: nn.Module, subject: Subject) -> float | None:
    """Counted as ghostify counts its own, at the network's own image size."""
    try:
        after = ghostify.count(model, input_size=own_size(subject.model)).total.macs
    except Exception:
        return None
    return macs / after if macs and after else None


def build_regnet() -> nn.Module:
    return ghostify.build("regnet_x_3_2gf")


def convert_regnet(model: nn.Module, mode: str, preset: str | None) -> nn.Module:
    return ghostify.convert(model, mode=mode, **({"preset": preset} if preset else {}))


TRIALS: dict[str, Callable[[Subject], dict[str, Any]]] = {
    "original": try_original,
    "c-ghost": lambda subject: try_ghostify(subject, "c-ghost"),
    "g-ghost": lambda subject: try_ghostify(subject, "g-ghost"),
    "torch-pruning": try_torch_pruning,
}
"""The trials of each network, in order."""
