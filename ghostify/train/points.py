"""The places at which a converted network and its original can be compared.

Those of C-Ghost are the ends of the segments that hold converted layers (or, in a network of any
task, the converted layers that are in none); those of G-Ghost the ends of the rebuilt stages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from ghostify.errors import GhostifyError
from ghostify.graph.segments import Segment, split
from ghostify.graph.trace import trace
from ghostify.nn.g_ghost import GGhostStage
from ghostify.nn.ghost import GhostLayer
from ghostify.nn.modes import eval_mode
from ghostify.passes.surgery import rewrite
from ghostify.plans import Plan
from ghostify.saving.history import history_of
from ghostify.train.features import Compute, Observed, Side

Shapes = list[torch.Size]

SHORT = 4
"""Converted layers of a segment at most for its end to speak for all of them: a block's."""


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
    """The places where a converted classifier and its original should agree, but for the outputs.

    Args:
        student: A converted network.
        teacher: Any network; only of the student's original there are points.
    """
    plans = history_of(student).plans
    if not plans or not _is_original(student, teacher, plans):
        return ()
    with eval_mode(teacher):
        segments = split(teacher, lambda name: _is_ghost(student, name))[:-1]
    return (*_stage_ends(student, teacher, plans), *_segment_ends(segments, student, ""))


def find_points_of_any(student: nn.Module, teacher: nn.Module) -> tuple[Point, ...]:
    """The places where a converted network of any task and its original should agree.

    Beside those of `find_points`, in each part of the network that traces: each converted layer
    that no short segment ends after. Of such a network no output is compared, and where paths run
    side by side (a U-Net's) nearly all of it is one segment.

    Args:
        student: A converted network.
        teacher: Any network; only of the student's original there are points.
    """
    plans = history_of(student).plans
    if not plans or not _is_original(student, teacher, plans):
        return ()
    points = list(_stage_ends(student, teacher, plans))
    covered: set[str] = set()
    with eval_mode(teacher):
        for region in trace(teacher).regions:
            prefix = f"{region.name}." if region.name else ""
            part = teacher.get_submodule(region.name)
            segments = split(part, lambda name, p=prefix: _is_ghost(student, p + name))  # type: ignore[misc]
            for segment in segments[:-1]:
                ghosts = [prefix + n for n in segment.layers if _is_ghost(student, prefix + n)]
                ends = list(_segment_ends([segment], student, prefix))
                if ends and len(ghosts) <= SHORT:
                    points += ends
                    covered.update(ghosts)
    rest = (n for n, _ in student.named_modules() if _is_ghost(student, n) and n not in covered)
    # Inside a rebuilt stage nothing is what it was in the original.
    points += (Point(n, n, n, "output") for n in rest if _module(teacher, n) is not None)
    return tuple(points)


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


def _segment_ends(segments: Sequence[Segment], student: nn.Module, prefix: str) -> Iterator[Point]:
    for segment in segments:
        ghosts = [name for name in segment.layers if _is_ghost(student, prefix + name)]
        if ghosts:
            place = _place_of(segment, student, prefix)
            if place is not None:
                yield Point(prefix + ghosts[-1], place[0], place[0], place[1])


def _is_ghost(network: nn.Module, name: str) -> bool:
    return isinstance(_module(network, name), GhostLayer)


def _place_of(segment: Segment, student: nn.Module, prefix: str) -> tuple[str, Side] | None:
    """The module that gives a segment's end, or one that is given it, where it is called once."""
    end = segment.nodes[-1]
    calls = [str(node.target) for node in end.graph.nodes if node.op == "call_module"]

    def serves(node: fx.Node) -> bool:
        name = str(node.target)
        return (
            node.op == "call_module"
            and calls.count(name) == 1
            and _module(student, prefix + name) is not None
        )

    if serves(end):
        return prefix + str(end.target), "output"
    takers = (node for node in end.users if serves(node) and node.args[:1] == (end,))
    return next(((prefix + str(node.target), "input") for node in takers), None)


def _module(network: nn.Module, name: str) -> nn.Module | None:
    try:
        return network.get_submodule(name)
    except AttributeError:
        return None


def agreeing(
    points: Sequence[Point], student: nn.Module, teacher: nn.Module, images: torch.Tensor
) -> tuple[Point, ...]:
    """The points at which both networks give tensors of one shape on some images."""
    with eval_mode(student, teacher), torch.no_grad():
        seen = _seen(points, student, teacher, lambda network, x: network(x), images)
    return tuple(point for point, made, wanted in seen if made and made == wanted)


def agreeing_on_images(
    points: Sequence[Point], student: nn.Module, teacher: nn.Module, compute: Compute, inputs: Any
) -> tuple[Point, ...]:
    """The points at which both networks give tensors of one shape, for each image one part.

    In two-stage detectors, what comes after the proposals has a part for each of them, and both
    networks propose different ones: such points are left out. The number of images is taken to be
    that of the parts of most points.

    Args:
        points: Where to look.
        student: In the mode in which it is to be watched.
        teacher: Likewise.
        compute: What is computed with each.
        inputs: What it takes beside the network.
    """
    with torch.no_grad():
        return of_equal_parts(_seen(points, student, teacher, compute, inputs))


def of_equal_parts(seen: Sequence[tuple[Point, Shapes, Shapes]]) -> tuple[Point, ...]:
    """The points with the same shapes in both networks, for as many parts as most points have.

    Args:
        seen: For each point the shapes at all calls in the student and in the teacher.
    """
    alike = [(point, made) for point, made, wanted in seen if made and made == wanted]
    counts = Counter(shape[:1] for _, made in alike for shape in made)
    usual = [count for count, _ in counts.most_common(1)]
    return tuple(point for point, made in alike if all([s[:1]] == usual for s in made))


def _seen(
    points: Sequence[Point], student: nn.Module, teacher: nn.Module, compute: Compute, inputs: Any
) -> list[tuple[Point, Shapes, Shapes]]:
    """At each point, the shapes at all calls in both networks."""
    seen: list[list[Shapes]] = []
    places = ([(p.student, p.side) for p in points], [(p.teacher, p.side) for p in points])
    for network, sides in zip((student, teacher), places, strict=True):
        watched = Observed(network, sides, compute)
        try:
            calls = watched.watch(inputs)[1]
            seen.append([[tensor.shape for tensor in each] for each in calls])
        finally:
            watched.release()
    return list(zip(points, *seen, strict=True))
