"""Proof of a file: its outputs beside the network's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any

import torch
from torch import Tensor

from ghostify.deploy.program import Program, Session, tensors_of


@dataclass(frozen=True)
class OutputProof:
    """How near one output of a file is to the network's, at one number of images at a time.

    Attributes:
        output: Which output it is, from 0.
        batch: Images at a time.
        images: Images in all.
        difference: Largest difference, as a part of the largest number.
        noise: Root mean square of the differences, as a part of that of the network's outputs.
        same_top1: Images for which the same class is first; None where the output is no row of
            scores for each image.
    """

    output: int
    batch: int
    images: int
    difference: float
    noise: float
    same_top1: int | None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)


def prove(
    session: Session, program: Program, inputs: Iterable[tuple[Any, ...]]
) -> tuple[OutputProof, ...]:
    """Run a file and the network that it is of on the same inputs.

    Args:
        session: Runs the file.
        program: The network.
        inputs: Arguments of each run.
    """
    sums: dict[tuple[int, int], _Sums] = {}
    for args in inputs:
        outputs, expected = session(tensors_of(args)), replace(program, args=args).run()
        batch = _batch_of(args)
        for place in range(max(len(outputs), len(expected))):
            pair = [*outputs[place : place + 1], *expected[place : place + 1]]
            sums.setdefault((batch, place), _Sums()).add(pair, batch)
    return tuple(found.proof(place, batch) for (batch, place), found in sums.items())


class _Sums:
    """Sums over the runs of one output."""

    def __init__(self) -> None:
        self.images, self.same = 0, 0
        self.has_scores = True
        self.worst = self.squares = self.of_difference = 0.0

    def add(self, pair: Sequence[Tensor], batch: int) -> None:
        """Take in what the file and the network give for some images."""
        self.images += batch
        if len(pair) < 2 or pair[0].shape != pair[1].shape:
            self.worst = self.of_difference = inf
            return
        one, other = (tensor.detach().cpu().double() for tensor in pair)
        if not other.numel():
            self.has_scores = False
            return
        difference = (one - other).abs().nan_to_num(inf)
        self.worst = max(self.worst, float(difference.max() / other.abs().max().clamp_min(1e-6)))
        self.squares += float(other.square().sum())
        self.of_difference += float(difference.square().sum())
        self.has_scores &= other.dim() == 2 and len(other) == batch and other.size(1) > 1
        if self.has_scores:
            self.same += int(torch.eq(one.argmax(1), other.argmax(1)).sum())

    def proof(self, place: int, batch: int) -> OutputProof:
        """What the sums come to."""
        noise = (self.of_difference / max(self.squares, 1e-12)) ** 0.5
        same = self.same if self.has_scores and self.images and self.worst < inf else None
        return OutputProof(place, batch, self.images, self.worst, noise, same)


def _batch_of(args: tuple[Any, ...]) -> int:
    first = tensors_of(args)[0]
    return first.size(0) if first.dim() else 1
