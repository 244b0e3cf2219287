"""Which maps are intrinsic, and which intrinsic map each ghost comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import rustworkx as rx
import torch
from numpy.typing import NDArray
from torch import Tensor

from ghostify.numerics.ranking import NOISE, ascending, exceeds, first_largest

EXACT = 1024
"""Up to so many maps the best choice for s = 2 is found: a matching, in less than a second."""

STEPS = 10_000_000
"""Steps of the largest cost that a matching tells apart."""

CLOSEST = 32
"""Of each map so many others that it is matched with; those of a greedy choice are added."""

SOURCES = 64
"""Of each map so many intrinsic maps, the cheapest, are thought of at first."""

ROWS = 64
"""Ghosts whose swaps are looked at together."""

Matrix = NDArray[np.float64]
Parents = NDArray[np.int64]
"""Of each map the one that it is made from; an intrinsic map its own."""


@dataclass(frozen=True)
class Pairing:
    """A choice of intrinsic maps, and of the ghosts of each.

    Attributes:
        intrinsic: Indices of the intrinsic maps, ``(m,)``.
        ghosts: Indices of the ghosts, ``(m, s - 1)``; -1 where an intrinsic map has one fewer.
        cost: Sum of the costs.
    """

    intrinsic: Tensor
    ghosts: Tensor
    cost: float

    def order(self) -> Tensor:
        """For each of the original's maps, its place in the ghost module's concat, ``(n,)``."""
        made = torch.cat([self.intrinsic, self.ghosts.flatten()])
        order = torch.empty(int((made >= 0).sum()), dtype=torch.long)
        order[made[made >= 0]] = torch.arange(len(made))[made >= 0]
        return order


def pair(costs: Tensor, m: int, copies: int, rounds: int | None = None) -> Pairing:
    """Choose m intrinsic maps, each with at most ``copies`` ghosts, of least total cost.

    A greedy choice that swaps and changes of roles improve until none of them helps. For one ghost
    each and up to 1,024 maps the best of all choices among the 32 cheapest partners of each map.

    Args:
        costs: ``(n, n)``: at ``[i, j]`` the cost of making map j from map i.
        m: Number of intrinsic maps; ``m * (copies + 1) >= n``.
        copies: Ghosts that an intrinsic map can have, s - 1.
        rounds: After so many the greedy choice is good enough; all that help if not given. After
            one it costs some percent more, in a quarter of the time.

    Example:
        >>> costs = torch.tensor([[0., 9., 1., 9.], [9., 0., 9., 9.],
        ...                       [9., 9., 0., 9.], [9., 2., 9., 0.]])
        >>> found = pair(costs, m=2, copies=1)
        >>> found.intrinsic.tolist(), found.ghosts.flatten().tolist(), found.cost
        ([0, 3], [2, 1], 3.0)
    """
    table = costs.double().cpu().numpy()
    n = len(table)
    parents = _greedy(table, m, copies)
    if copies == 1 and n == 2 * m and n <= EXACT and rounds is None:
        parents = _matching(table, parents)
    else:
        for _ in count() if rounds is None else range(rounds):
            if not _improve(table, parents, copies):
                break
    return _as_pairing(table, parents, m, copies)


def _as_pairing(table: Matrix, parents: Parents, m: int, copies: int) -> Pairing:
    places = np.arange(len(table))
    intrinsic, made = np.flatnonzero(parents == places), np.flatnonzero(parents != places)
    rows = np.searchsorted(intrinsic, parents[made])
    order = np.argsort(rows, kind="stable")
    made, rows = made[order], rows[order]
    ghosts = np.full((m, copies), -1)
    ghosts[rows, np.arange(len(rows)) - np.searchsorted(rows, rows)] = made
    cost = float(table[parents[made], made].sum())
    return Pairing(torch.from_numpy(intrinsic), torch.from_numpy(ghosts), cost)


def _matching(table: Matrix, known: Parents) -> Parents:
    """The minimum-weight perfect matching of all maps; of each pair the cheaper direction.

    In whole steps of the largest cost: what is equal but for rounding then is equal.

    Args:
        table: The costs.
        known: A choice that it must not be worse than.
    """
    n, cheapest = len(table), np.minimum(table, table.T)
    step = max(float(cheapest.max()) / STEPS, 1e-300)
    steps = np.round(cheapest / step).astype(np.int64)
    np.fill_diagonal(steps, 2 * STEPS)
    near = np.argsort(steps, axis=1, kind="stable")[:, : min(CLOSEST, n - 1)]
    ones = np.repeat(np.arange(n), near.shape[1] + 1)
    others = np.column_stack([near, known]).ravel()
    edges = np.unique(np.sort(np.column_stack([ones, others]), axis=1), axis=0)
    edges = edges[edges[:, 0] < edges[:, 1]]
    gains = 2 * STEPS - steps[edges[:, 0], edges[:, 1]]  # a matching of the least cost is wanted
    graph = rx.PyGraph(multigraph=False)
    graph.add_nodes_from(range(n))
    graph.add_edges_from(list(zip(*edges.T.tolist(), gains.tolist(), strict=True)))
    parents = np.arange(n)
    pairs = rx.max_weight_matching(graph, max_cardinality=True, weight_fn=int)
    for a, b in sorted(sorted(edge) for edge in pairs):
        _join(table, parents, a, b)
    return parents


def _greedy(table: Matrix, m: int, copies: int) -> Parents:
    """Cheapest edges first, as long as the rest can still be completed."""
    n = len(table)
    costs = table.copy()
    np.fill_diagonal(costs, np.inf)
    parents = np.full(n, -1)
    room = [0] * n
    intrinsic, ghosts_left = 0, n - m
    places = np.arange(n)
    order = _cheapest_edges(costs)
    for some in np.split(order, range(8 * n, len(order), 8 * n)):
        sources, ghosts = np.divmod(some, n)
        # Most edges are ruled out by those before: at once, since a loop would take seconds.
        usable = (parents[ghosts] < 0) & ((parents < 0) | (parents == places))[sources]
        for i, j in zip(sources[usable].tolist(), ghosts[usable].tolist(), strict=True):
            if not ghosts_left or parents[j] >= 0 or (parents[i] >= 0 and parents[i] != i):
                continue
            if parents[i] < 0:
                if intrinsic == m:
                    continue
                parents[i], room[i], intrinsic = i, copies, intrinsic + 1
            if room[i]:
                parents[j], room[i], ghosts_left = i, room[i] - 1, ghosts_left - 1
        if not ghosts_left or (parents >= 0).all():
            break
    for j in range(n):  # maps that are left over: intrinsic while there may be more of them
        if parents[j] < 0 and intrinsic < m:
            parents[j], room[j], intrinsic = j, copies, intrinsic + 1
    for j in range(n):
        if parents[j] < 0:
            free = np.flatnonzero(room)
            i = int(free[_first_largest(-table[free, j])])
            parents[j], room[i] = i, room[i] - 1
    return parents


def _cheapest_edges(costs: Matrix) -> Parents:
    """Edges to each map from its cheapest sources, the cheapest first, ``source * n + map``.

    Among thousands of maps nobody comes to the others: what is left over is joined in the end.
    """
    n = len(costs)
    bound = np.full(n, np.inf) if n <= SOURCES else np.partition(costs, SOURCES, axis=0)[SOURCES]
    near = np.flatnonzero((costs <= bound * (1 + NOISE)) & np.isfinite(costs))
    return near[ascending(torch.from_numpy(costs.ravel()[near])).numpy()]


def _improve(table: Matrix, parents: Parents, copies: int) -> bool:
    """One round of changes that lower the cost, in place; whether there was any."""
    changed = _swap_ghosts(table, parents)
    if copies == 1:
        changed |= _swap_partners(table, parents)
    changed |= _swap_roles(table, parents)
    if copies > 1:
        changed |= _exchange(table, parents)
    return changed


def _swap_ghosts(table: Matrix, parents: Parents) -> bool:
    """Let two ghosts change their intrinsic maps."""
    ghosts = np.flatnonzero(parents != np.arange(len(table)))

    def gains(some: Parents) -> tuple[Matrix, Matrix]:
        """What a swap of some ghosts with each one gains, and what both cost before."""
        owners, own = parents[ghosts], parents[some]
        before = table[own, some][:, None] + table[owners, ghosts]
        return before - table[owners, some[:, None]] - table[own[:, None], ghosts], before

    changed = False
    for j in _worth_a_try(gains, ghosts):
        (gain,), (before,) = gains(np.array([j]))
        best = _first_largest(gain)
        if gain[best] > NOISE * before[best]:
            other = int(ghosts[best])
            parents[j], parents[other] = parents[other], parents[j]
            changed = True
    return changed


def _swap_partners(table: Matrix, parents: Parents) -> bool:
    """For one ghost each: let pairs (a, b), (c, d) become (a, c), (b, d), roles as is cheaper."""
    cheapest, places = np.minimum(table, table.T), np.arange(len(table))

    def gains(some: Parents) -> tuple[Matrix, Matrix]:
        owners, own = parents, parents[some]
        before = table[own, some][:, None] + table[owners, places]
        gain = before - cheapest[own[:, None], owners] - cheapest[some[:, None], places]
        return np.where((owners != places) & (owners != own[:, None]), gain, -np.inf), before

    changed = False
    for j in _worth_a_try(gains, np.flatnonzero(parents != places)):
        if parents[j] == j:
            continue
        a = parents[j]
        (gain,), (before,) = gains(np.array([j]))
        best = _first_largest(gain)
        if gain[best] > NOISE * before[best]:
            _join(table, parents, a, int(parents[best]))
            _join(table, parents, j, best)
            changed = True
    return changed


def _worth_a_try(
    gains: Callable[[Parents], tuple[Matrix, Matrix]], ghosts: Parents
) -> Iterator[int]:
    """The ghosts of which a swap gains something now: at once, since a loop would take seconds."""
    for some in np.array_split(ghosts, max(1, len(ghosts) // ROWS)):
        gain, before = gains(some)
        yield from some[(gain > NOISE * before).any(1)].tolist()


def _join(table: Matrix, parents: Parents, one: int, other: int) -> None:
    turned = exceeds(table[one, other], table[other, one])
    i, j = (other, one) if turned else (one, other)
    parents[i] = parents[j] = i


def _swap_roles(table: Matrix, parents: Parents) -> bool:
    """Let a ghost take the place of its intrinsic map."""
    changed, places = False, np.arange(len(table))
    # Where a ghost is cheaper as a source of its intrinsic map alone, or has brothers, it may pay.
    alone = np.bincount(parents, minlength=len(table))[parents] == 2
    some = (parents != places) & (~alone | (table[parents, places] > table[places, parents]))
    for j in np.flatnonzero(some).tolist():
        i = int(parents[j])
        if i == j:
            continue
        family = np.flatnonzero(parents == i)
        before = table[i, family[family != i]].sum()
        after = table[j, family[family != j]].sum()
        if exceeds(before, after):
            parents[family] = j
            changed = True
    return changed


def _first_largest(values: Matrix) -> int:
    return int(first_largest(torch.from_numpy(values)))


def _exchange(table: Matrix, parents: Parents) -> bool:
    """Let a ghost of one intrinsic map take over the family of another, which takes its place."""
    n, places = len(table), np.arange(len(table))

    def gains(some: Parents) -> tuple[Matrix, Matrix]:
        """What some ghosts gain with each family, and what both cost before."""
        ghosts = np.flatnonzero(parents != places)
        ghosts = ghosts[np.argsort(parents[ghosts], kind="stable")]
        families, starts = np.unique(parents[ghosts], return_index=True)
        owners = parents[some]
        before, after = np.zeros((2, len(some), n))
        before[:, families] = np.add.reduceat(table[parents[ghosts], ghosts], starts)
        after[:, families] = np.add.reduceat(table[some][:, ghosts], starts, axis=1)
        before += table[owners, some][:, None]
        after += table[owners]
        usable = (parents == places) & (places != owners[:, None])
        return np.where(usable, before - after, -np.inf), abs(before)

    changed = False
    for j in _worth_a_try(gains, np.flatnonzero(parents != places)):
        owner = parents[j]
        if owner == j:
            continue
        (gain,), (before,) = gains(np.array([j]))
        i = _first_largest(gain)
        if gain[i] > NOISE * before[i]:
            parents[parents == i] = j
            parents[j], parents[i] = j, owner
            changed = True
    return changed
