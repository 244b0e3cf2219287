"""A block refitted: its convolutions, one after the other, towards what the original's block makes.

A thin block keeps some channels of every layer; each of its convolutions is fitted towards the
original's values of the channels that it has, on what the converted network gives it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ghostify.graph.execution import Executor
from ghostify.nn.carving import Cut
from ghostify.nn.filters import is_plain_conv
from ghostify.nn.g_ghost import ChannelsLast
from ghostify.warmstart.fit.held_out import PRIOR
from ghostify.warmstart.fit.neighbours import ADDITIONS, norm_after
from ghostify.warmstart.fit.sampling import WIDEST, PairedInputs, Places, Window, pick, rows_for
from ghostify.warmstart.fit.statistics import RegressionMoments

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, PRIOR)
LEAST_SCALE = 1e-3
"""Part of a norm's largest scale below which a channel counts as switched off."""

Values = dict[str, Tensor]


@dataclass(frozen=True)
class BlockPair:
    """A block of the original, and the one that stands for it.

    Attributes:
        teacher: The original's block.
        teacher_graph: Its graph.
        student: The converted network's block.
        student_graph: Its graph; nodes that both have are called the same.
        cuts: What each layer of the student keeps of the teacher's; all, where it says nothing.
        shortcuts: Projections that the student has beside: name -> the channels that leave.
    """

    teacher: nn.Module
    teacher_graph: fx.Graph
    student: nn.Module
    student_graph: fx.Graph
    cuts: Mapping[str, Cut]
    shortcuts: Mapping[str, Tensor]


@dataclass(frozen=True)
class ConvTerm:
    """A convolution, with the norm after it: one term of a sum, or alone.

    Attributes:
        conv: The convolution.
        norm: The batch norm that alone reads it.
        source: Name of the node that it reads.
        end: Name of the node that gives its (normed) value.
        outputs: Which of the original's channels it gives.
    """

    conv: _ConvNd
    norm: _BatchNorm | None
    source: str
    end: str
    outputs: Tensor

    @property
    def inputs(self) -> int:
        """Weights of a filter."""
        return self.conv.weight[0].numel()

    @property
    def has_offset(self) -> bool:
        """Whether each output can have an offset: the norm's mean, or a bias."""
        return self.norm is not None or self.conv.bias is not None

    def scale(self) -> Tensor:
        """What the norm multiplies by; switched-off channels are switched on, ``(outputs,)``."""
        ones = self.conv.weight.new_ones(self.conv.out_channels, dtype=torch.float64)
        if self.norm is None or self.norm.running_var is None:
            return ones
        spread = (self.norm.running_var.double() + self.norm.eps).sqrt()
        if self.norm.weight is None:
            return ones / spread
        found = self.norm.weight.double() / spread
        usable = found.abs() > LEAST_SCALE * found.abs().max()
        if not usable.any():
            return ones
        return torch.where(usable, found, found[usable].abs().median())

    def constant(self) -> Tensor:
        """What is added to the scaled convolution, ``(outputs,)``."""
        value = torch.zeros(self.conv.out_channels, dtype=torch.float64)
        if self.conv.bias is not None:
            value = value + self.conv.bias.double() * self.scale()
        if self.norm is not None and self.norm.running_mean is not None:
            value = value - self.norm.running_mean.double() * self.scale()
            value = value if self.norm.bias is None else value + self.norm.bias.double()
        return value

    def write(self, weight: Tensor) -> None:
        """Take the weights, ``(outputs, inputs)``, that are wanted after the norm."""
        scale = self.scale()
        norm = self.norm
        if norm is not None and norm.weight is not None and norm.running_var is not None:
            norm.weight.copy_(scale * (norm.running_var.double() + norm.eps).sqrt())
        self.conv.weight.copy_((weight / scale[:, None]).reshape(self.conv.weight.shape))

    def shift(self, offset: Tensor) -> None:
        """Add to what comes out, ``(outputs,)``."""
        if self.norm is not None and self.norm.running_mean is not None:
            self.norm.running_mean -= (offset / self.scale()).to(self.norm.running_mean)
        elif self.conv.bias is not None:
            self.conv.bias += offset.to(self.conv.bias)


@dataclass(frozen=True)
class ConvSum:
    """What is fitted at once: the terms of a sum, or one convolution.

    Attributes:
        terms: The convolutions.
        node: Name of the node whose value is wanted.
        others: Names of nodes that are added and not fitted.
    """

    terms: tuple[ConvTerm, ...]
    node: str
    others: tuple[str, ...] = ()


@torch.no_grad()
def refit(pair: BlockPair, inputs: PairedInputs) -> int:
    """Refit a block's convolutions; returns how many were."""
    count = 0
    for item in find_sums(pair):
        count += len(item.terms) if _fit(pair, inputs, item) else 0
    return count


def find_sums(pair: BlockPair) -> list[ConvSum]:
    """What can be fitted in a block, in the order in which it is computed."""
    terms = {term.end: term for term in _terms(pair)}
    sums: dict[str, ConvSum] = {}
    for node in pair.student_graph.nodes:
        parts = [arg for arg in node.args if isinstance(arg, fx.Node)]
        if node.target in ADDITIONS and len(node.args) == len(parts) == 2:
            own = [p.name for p in parts if p.name in terms and len(p.users) == 1]
            own = _that_fit_together([terms[name] for name in own])
            if own:
                others = tuple(p.name for p in parts if p.name not in own)
                sums[node.name] = ConvSum(tuple(terms.pop(n) for n in own), node.name, others)
    alone = {term.end: ConvSum((term,), term.end) for term in terms.values()}
    order = [node.name for node in pair.student_graph.nodes]
    return sorted([*sums.values(), *alone.values()], key=lambda item: order.index(item.node))


def _that_fit_together(terms: list[ConvTerm]) -> list[str]:
    """Several terms are fitted at once where they share no groups; else the last one."""
    together = terms if all(term.conv.groups == 1 for term in terms) else terms[-1:]
    return [term.end for term in together]


def _terms(pair: BlockPair) -> Iterator[ConvTerm]:
    calls = [str(n.target) for n in pair.student_graph.nodes if n.op == "call_module"]
    for node in pair.student_graph.nodes:
        name = str(node.target)
        if node.op != "call_module" or calls.count(name) > 1 or len(node.all_input_nodes) != 1:
            continue
        module, source = pair.student.get_submodule(name), node.all_input_nodes[0].name
        if isinstance(module, ChannelsLast):
            continue
        if name in pair.shortcuts and isinstance(module, nn.Sequential):
            conv, norm = module[0], module[1]
            assert isinstance(conv, _ConvNd) and isinstance(norm, _BatchNorm)
            yield ConvTerm(conv, norm, source, node.name, pair.shortcuts[name])
        elif is_plain_conv(module) and module.weight[0].numel() <= WIDEST:
            norm_node = norm_after(node, pair.student)
            follows = (
                None if norm_node is None else pair.student.get_submodule(str(norm_node.target))
            )
            assert follows is None or isinstance(follows, _BatchNorm)
            cut = pair.cuts.get(name)
            outputs = torch.arange(module.out_channels) if cut is None else cut.outputs
            yield ConvTerm(module, follows, source, (norm_node or node).name, outputs)


def _fit(pair: BlockPair, inputs: PairedInputs, item: ConvSum) -> bool:
    groups = item.terms[0].conv.groups
    sizes = [term.inputs for term in item.terms]
    outputs = item.terms[0].conv.out_channels // groups
    fitted, held_out = (
        RegressionMoments.of(groups, sum(sizes), outputs, _rows(pair, inputs, item, is_held_out))
        for is_held_out in (False, True)
    )
    if not fitted.count:
        return False
    prior = torch.cat(
        [t.scale()[:, None] * t.conv.weight.double().flatten(1) for t in item.terms], 1
    )
    holder = next((term for term in item.terms if term.has_offset), None)
    prior = prior.unflatten(0, (groups, -1)).cpu()
    layer, has_offset = item.terms[0].conv, holder is not None
    found = inputs.ridges.solve(layer, fitted, held_out, RIDGES, prior, has_offset)
    weights = found.weight.flatten(0, 1).split(sizes, dim=1)
    for term, weight in zip(item.terms, weights, strict=True):
        term.write(weight)
    if holder is not None:
        constant = torch.stack([term.constant() for term in item.terms]).sum(0)
        holder.shift(found.intercept.flatten() - constant)
    return True


def _rows(
    pair: BlockPair, inputs: PairedInputs, item: ConvSum, held_out: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Regressors and targets of a sum; none where what else is added has another shape."""
    first, groups = item.terms[0], item.terms[0].conv.groups
    width = sum(term.inputs for term in item.terms)
    cost = groups * width * (width + first.conv.out_channels // groups)
    sampler = inputs.sampler(rows_for(cost, 4 * width))
    needed = {*item.others, *(term.source for term in item.terms)}
    for before, after in inputs.batches(held_out):
        taught = values_of(pair.teacher_graph, pair.teacher, before, {item.node})
        values = values_of(pair.student_graph, pair.student, after, needed)
        target = taught[item.node][:, first.outputs]
        if any(values[other].shape != target.shape for other in item.others):
            return
        for other in item.others:
            target = target - values[other]
        places = sampler.sample(target.shape)
        seen = [
            Window.of(term.conv).regressors(values[term.source], places, groups)
            for term in item.terms
        ]
        yield torch.cat(seen, dim=2), _at(target, places, groups)


def values_of(graph: fx.Graph, block: nn.Module, x: Tensor, names: set[str]) -> Values:
    """The values of some nodes of a block's graph, as they are before anything changes them."""
    wanted = {node for node in graph.nodes if node.name in names}
    values = Executor(graph, block, x.clone()).values(graph.nodes, wanted, {})
    return {node.name: value for node, value in values.items()}


def _at(maps: Tensor, places: Places, groups: int) -> Tensor:
    """Values at some places, ``(groups, N * P, C / groups)``; each channel lies together."""
    rows = pick(maps, *places).flatten(0, 1).T
    return rows.unflatten(0, (groups, -1)).transpose(1, 2).float()
