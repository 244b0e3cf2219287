"""Feature maps of student and teacher at the points where both can be compared.

The points of C-Ghost are the ends of the segments that hold converted layers; those of G-Ghost the
ends of the rebuilt stages. They are read by hooks: the networks run as they always do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from ghostify.data.image_files import DataError
from ghostify.errors import GhostifyError, ModelError, first_line
from ghostify.graph.segments import Segment, split
from ghostify.nn.g_ghost import GGhostStage
from ghostify.nn.ghost import GhostLayer
from ghostify.nn.modes import eval_mode
from ghostify.numerics.finite import non_finite
from ghostify.passes.surgery import rewrite
from ghostify.plans import Plan
from ghostify.saving.history import history_of

Side = Literal["input", "output"]


@dataclass(frozen=True)
class Point:
    """A place that both networks have.

    Attributes:
        name: What it is called: of the layer before it, or of the stage.
        student: Name of a module of the student.
        teacher: Name of a module of the teacher.
        side: Whether it is what these modules are given, or what they give.
    """

    name: str
    student: str
    teacher: str
    side: Side


def find_points(student: nn.Module, teacher: nn.Module) -> tuple[Point, ...]:
    """The places where a converted network and its original should agree.

    Args:
        student: A converted network.
        teacher: Any network; only of the student's original there are points.
    """
    plans = history_of(student).plans
    if not plans or not _is_original(student, teacher, plans):
        return ()
    return (*_stage_ends(student, teacher, plans), *_segment_ends(student, teacher))


def _is_original(student: nn.Module, teacher: nn.Module, plans: Sequence[Plan]) -> bool:
    """Whether the student's conversions, done to the teacher, give the student's structure."""
    try:
        again = teacher
        for plan in plans:
            again = rewrite(again, plan)
    except GhostifyError:
        return False
    return _shapes(again) == _shapes(student)


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in network.named_parameters()}


def _stage_ends(student: nn.Module, teacher: nn.Module, plans: Sequence[Plan]) -> Iterator[Point]:
    for stage in (stage for plan in plans for stage in plan.stages):
        end = stage.blocks[-1][-1]
        are_modules = stage.functions is None  # else there is no module that gives its output
        if are_modules and isinstance(_module(student, stage.place), GGhostStage):
            yield Point(stage.name, stage.place, end, "output")


def _segment_ends(student: nn.Module, teacher: nn.Module) -> Iterator[Point]:
    def is_ghost(name: str) -> bool:
        return isinstance(_module(student, name), GhostLayer)

    with eval_mode(teacher):
        segments = split(teacher, is_ghost)
    for segment in segments[:-1]:  # the last one's end is the output
        ghosts = [name for name in segment.layers if is_ghost(name)]
        if ghosts:
            place = _place_of(segment, student)
            if place is not None:
                yield Point(ghosts[-1], place[0], place[0], place[1])


def _place_of(segment: Segment, student: nn.Module) -> tuple[str, Side] | None:
    """The module that gives a segment's end, or one that is given it, where it is called once."""
    end = segment.nodes[-1]
    calls = [str(node.target) for node in end.graph.nodes if node.op == "call_module"]

    def serves(node: fx.Node) -> bool:
        name = str(node.target)
        return (
            node.op == "call_module"
            and calls.count(name) == 1
            and _module(student, name) is not None
        )

    if serves(end):
        return str(end.target), "output"
    takers = (node for node in end.users if serves(node) and node.args[:1] == (end,))
    return next(((str(node.target), "input") for node in takers), None)


def _module(network: nn.Module, name: str) -> nn.Module | None:
    try:
        return network.get_submodule(name)
    except AttributeError:
        return None


class Observed(nn.Module):
    """A network that also gives what it computes at some places.

    Args:
        network: Any network.
        places: Names of its modules, and whether what they are given or what they give is wanted.

    Shape:
        - Input: what the network takes.
        - Output: ``(logits, features)``: the output's first tensor, and a tensor for each place.
    """

    def __init__(self, network: nn.Module, places: Sequence[tuple[str, Side]] = ()) -> None:
        super().__init__()
        self.network = network
        self._seen: list[Tensor | None] = [None] * len(places)
        self._handles = []
        for number, (name, side) in enumerate(places):
            module = network.get_submodule(name)
            if side == "output":
                handle = module.register_forward_hook(
                    lambda _, args, out, n=number: self._note(n, out)
                )
            else:
                handle = module.register_forward_pre_hook(
                    lambda _, args, n=number: self._note(n, args[0])
                )
            self._handles.append(handle)

    def _note(self, number: int, value: Any) -> None:
        self._seen[number] = value if isinstance(value, Tensor) else None

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The network's output, and what was seen on the way."""
        logits = logits_of(self.network(images))
        seen = tuple(x for x in self._seen if x is not None)
        self._seen = [None] * len(self._seen)
        return logits, seen

    def release(self) -> nn.Module:
        """The network, as it was."""
        for handle in self._handles:
            handle.remove()
        return self.network


def logits_of(output: Any) -> Tensor:
    """The class scores in a network's output: itself, its first tensor, or its ``logits``.

    Raises:
        ModelError: There are none.
    """
    found = output
    if isinstance(found, dict):
        found = found.get("logits", found.get("out"))
    elif isinstance(found, tuple | list) and found:
        found = found[0]
    elif not isinstance(found, Tensor):
        found = getattr(found, "logits", None)
    if not isinstance(found, Tensor) or found.ndim != 2:
        what = tuple(found.shape) if isinstance(found, Tensor) else type(output).__name__
        raise ModelError(
            f"The network gives {what}, and no class scores (N, classes): "
            "give a network that classifies images."
        )
    return found


def scores_of(
    network: nn.Module,
    x: Tensor,
    name: str = "network",
    way_out: str = "images as its forward takes them, or input_size",
    error: type[GhostifyError] = DataError,
) -> Tensor:
    """A network's class scores ``(N, classes)`` for images.

    Args:
        network: In eval mode.
        x: The images, ``(N, C, H, W)``.
        name: What errors call the network.
        way_out: What to give where it can't take the images.
        error: What is raised.

    Raises:
        GhostifyError: It can't take the images, or its scores are not finite.
    """
    try:
        scores = logits_of(network(x)).float()
    except RuntimeError as reason:
        size = "x".join(map(str, x.shape[1:]))
        raise error(
            f"The {name} can't take images of {size} ({first_line(reason).rstrip('.')}): give "
            f"{way_out}."
        ) from reason
    if non_finite([("scores", scores)]):
        bad = non_finite(network.state_dict().items())
        why = f"its {bad[0]!r} holds values that are not finite" if bad else "they overflow"
        raise error(f"The {name}'s class scores are not finite ({why}): give a trained network.")
    return scores


@torch.no_grad()
def agreeing(
    points: Sequence[Point], student: nn.Module, teacher: nn.Module, images: Tensor
) -> tuple[Point, ...]:
    """The points at which both networks give tensors of one shape on some images."""
    seen: list[list[Tensor | None]] = []
    places = ([(p.student, p.side) for p in points], [(p.teacher, p.side) for p in points])
    with eval_mode(student, teacher):
        for network, sides in zip((student, teacher), places, strict=True):
            watched = Observed(network, sides)
            try:
                network(images)
                seen.append(list(watched._seen))
            finally:
                watched.release()
    return tuple(
        point
        for point, made, wanted in zip(points, *seen, strict=True)
        if made is not None and wanted is not None and made.shape == wanted.shape
    )
