"""Stages: runs of blocks whose outputs have one shape (Section 4.1), in any traced network."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from ghostify.graph.blocks import Anatomy, Block, calls_of, common_calls, module_of
from ghostify.graph.chains import ChainLink, find_chains
from ghostify.graph.execution import propagate
from ghostify.graph.trace import LAYERS, Region
from ghostify.nn.filters import dimensions

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

_TOLD_ONE_BY_ONE = 4
"""More places than this with one reason are told of in one line."""

_DIFFERENT = "its blocks' outputs differ in shape"

MIN_BLOCKS = 3
"""Fewer blocks than this are no stage: Eq. 13 promises little there (Section 4.3)."""


@dataclass(frozen=True)
class Stage:
    """A run of blocks with equal output shape; the first may change resolution or width.

    Attributes:
        name: Qualified name: the module that holds the blocks, or first and last of them.
        region: Qualified name of the part of the network whose graph it was found in.
        blocks: Its blocks.
        container: The module whose call is exactly this stage; None where there is none.
        from_input: Whether what enters stands for the first block's output already: a stage of one
            block of a run in which each block's output is used elsewhere too.
    """

    name: str
    region: Region
    blocks: tuple[Block, ...]
    container: str | None
    from_input: bool = False

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Shape of the tensor that enters the first block."""
        return self.blocks[0].in_shape

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what each block gives, ``(N, C, *size)``, or ``(N, H, W, C)``."""
        return self.blocks[0].out_shape

    @property
    def channel_dim(self) -> int:
        """The dimension of that shape which the channels lie along."""
        return self.blocks[0].channel_dim

    @property
    def channels(self) -> int:
        """Channels of what each block gives."""
        return self.shape[self.channel_dim]

    @property
    def channels_last(self) -> bool:
        """Whether the blocks give maps with the channels last."""
        return self.channel_dim == len(self.shape) - 1


@dataclass(frozen=True)
class NoStage:
    """Blocks that are no stage, and why."""

    name: str
    blocks: int
    reason: str


@dataclass(frozen=True)
class Finding:
    """Result of a search: stages, and candidates that are none, with the reasons.

    Attributes:
        stages: The stages.
        left: What looks like a stage and is none.
        longest: How many blocks or layers in a row give maps of one shape, at most.
    """

    stages: tuple[Stage, ...]
    left: tuple[NoStage, ...]
    longest: int = 0


def find_stages_in(
    region: Region, module: nn.Module, args: Sequence[Any], min_blocks: int = MIN_BLOCKS
) -> Finding:
    """The stages of one traced part of a network.

    Args:
        region: The part and its graph.
        module: Its module, on the meta device.
        args: What its forward takes.
        min_blocks: Runs of fewer blocks are no stages.
    """
    values = region.values
    if values is None:
        values = propagate(region.graph, module, args)
    anatomy = Anatomy(region.graph, module, values)
    search = _Search(region, anatomy, min_blocks)
    chains = find_chains(region.graph)
    search.learn_blocks(chains)
    for chain in chains:
        fresh = [s for s in chain if not search.taken.intersection(s.nodes)]
        for stretch in _neighbours(fresh):
            search.look_into(stretch, depth=0)
    order = {node: index for index, node in enumerate(region.graph.nodes)}
    stages = sorted(search.found, key=lambda stage: order[stage.blocks[0].nodes[0]])
    return Finding(tuple(stages), tuple(search.explain_the_rest()), search.longest)


def fold_equal(left: Iterable[NoStage]) -> tuple[NoStage, ...]:
    """One line for what is told of many with the same words: the first, and how many more."""
    alike: dict[str, dict[str, NoStage]] = {}
    for item in left:
        alike.setdefault(item.reason, {}).setdefault(item.name, item)
    folded: list[NoStage] = []
    for reason, items in alike.items():
        first, *others = items.values()
        if len(items) <= _TOLD_ONE_BY_ONE:
            folded += [first, *others]
        else:
            blocks = sum(item.blocks for item in items.values())
            folded.append(NoStage(f"{first.name} and {len(others)} more", blocks, reason))
    return tuple(folded)


def _neighbours(segments: Sequence[ChainLink]) -> Iterator[list[ChainLink]]:
    """Segments in stretches in which each begins where the one before ends."""
    stretch: list[ChainLink] = []
    for segment in segments:
        if stretch and stretch[-1].exit is not segment.entry:
            yield stretch
            stretch = []
        stretch.append(segment)
    if stretch:
        yield stretch


@dataclass(frozen=True)
class _Group:
    """Alike modules beside each other in one, and why they are no stage."""

    holder: str
    members: tuple[str, ...]
    reason: str


class _Search:
    """The search of one graph, from the outer modules inwards."""

    def __init__(self, region: Region, anatomy: Anatomy, min_blocks: int) -> None:
        self.region, self.anatomy, self.min_blocks = region, anatomy, min_blocks
        self.taken: set[fx.Node] = set()
        self.found: list[Stage] = []
        self.longest = 0
        self._short: dict[str, int] = {}
        self._seen: set[tuple[str, ...]] = set()
        self._block_kinds: set[type[nn.Module]] = set()

    def learn_blocks(self, chains: Sequence[Sequence[ChainLink]]) -> None:
        """Note the classes of the modules in which branches part and meet again.

        Their instances are blocks; the layers inside one are not, though there may be a run of
        them, and neither are those in an instance that happens to have no shortcut.
        """
        for segment in (segment for chain in chains for segment in chain):
            calls = common_calls(segment.nodes)
            if len(segment.nodes) > 1 and calls and self.anatomy.layers_in(segment.nodes):
                self._block_kinds.add(type(self.anatomy.module(calls[-1])))

    def look_into(self, segments: Sequence[ChainLink], depth: int) -> None:
        """Find the stages among the calls of one level; look deeper where there are none."""
        units = self.anatomy.units(segments, depth)
        in_stages: set[ChainLink] = set()
        for stretch in self.anatomy.blocks(units):
            for run in _runs(stretch):
                if run[0].layers == 1 and self._is_inside_block(run):
                    continue
                self.longest = max(self.longest, len(run))
                steps = self._steps(run)
                if steps:
                    in_stages.update(s for block in run for s in block.segments)
                    for block in steps:
                        self._add([block], from_input=True)
                elif len(run) >= self.min_blocks:
                    in_stages.update(s for block in run for s in block.segments)
                    self._add(run)
                elif len(run) > 1:
                    self._short[_holder(run[0].name)] = len(run)
        for unit in units:
            deeper = unit.call is not None and not unit.is_leaf
            if deeper and not in_stages.intersection(unit.segments):
                self.look_into(unit.segments, depth + 1)

    def _steps(self, run: Sequence[Block]) -> list[Block]:
        """The blocks of a run that become stages of their own; none where the run is one stage.

        Within a block whose parts are put together again (YOLO's C2f, CSP) what enters the run is a
        map of the same shape, and stands for the output of a first block. Where each block's output
        is put into the concat as well, none but its own may be made of it: each block becomes a
        stage from its input. The last block stays as it is.
        """
        if run[0].layers == 1:
            return []
        is_tapped = any(self._is_used_beyond(block, run) for block in run[:-1])
        if not is_tapped and (len(run) >= self.min_blocks or not self._is_held_by_block(run)):
            return []
        maps = len(run) + self.anatomy.keeps_shape(run[0])
        steps = [block for block in run[:-1] if self.anatomy.keeps_shape(block)]
        return steps if maps >= self.min_blocks else []

    def _is_used_beyond(self, block: Block, run: Sequence[Block]) -> bool:
        """Whether the output of a block is used outside the run as well."""
        inside = {node for other in run for node in other.nodes}
        users = set(block.segments[-1].exit.users) - inside
        return any(self.anatomy.shape(user) is not None for user in users)

    def _is_held_by_block(self, run: Sequence[Block]) -> bool:
        """Whether the module that holds the run is one in which branches part and meet again."""
        calls = common_calls([node for block in run for node in block.nodes])
        holders = [type(m) for m in map(self.anatomy.module, calls) if type(m) not in _CONTAINERS]
        return bool(holders) and holders[-1] in self._block_kinds

    def _is_inside_block(self, run: Sequence[Block]) -> bool:
        above = common_calls([node for block in run for node in block.nodes])
        return any(type(self.anatomy.module(call)) in self._block_kinds for call in above)

    def _add(self, run: list[Block], from_input: bool = False) -> None:
        self.taken.update(node for block in run for node in block.nodes)
        key = tuple(name for block in run for name in (*block.modules, *block.functions))
        if key in self._seen:  # a later call of the same modules
            return
        self._seen.add(key)
        container = self._container(run)
        last = f"..{run[-1].name.rpartition('.')[2]}" if len(run) > 1 else ""
        name = self.region.qualify(container or f"{run[0].name}{last}")
        self.found.append(Stage(name, self.region, tuple(run), container, from_input))

    def _container(self, run: Sequence[Block]) -> str | None:
        """The module whose call computes these blocks and nothing else."""
        nodes = [node for block in run for node in block.nodes]
        exact = [c for c in common_calls(nodes) if self.anatomy.is_all_of(c, nodes)]
        return module_of(exact[-1]) if exact else None

    def explain_the_rest(self) -> Iterator[NoStage]:
        """Say of alike modules beside each other that became no stage why not.

        Only of the outermost: what lies in a block of a stage, or in one that is told of already,
        is no news.
        """
        taken = {name for stage in self.found for block in stage.blocks for name in block.modules}
        groups = []
        for holder, members in self._alike():
            rest = [name for name in members if name not in taken]
            if len(rest) > 1 and not _lies_in(holder, taken):
                groups.append(_Group(holder, tuple(rest), self._reason(holder, rest)))
        told: set[str] = set()
        for group in groups:
            if not _lies_in(group.holder, told) and not self._only_holds(group, groups):
                told.update(group.members)
                name = group.holder or f"{group.members[0]}..{group.members[-1]}"
                yield NoStage(self.region.qualify(name), len(group.members), group.reason)

    def _only_holds(self, group: _Group, groups: Sequence[_Group]) -> bool:
        """Whether its members differ because they are not blocks but hold them: the stages."""
        inside = [other.holder for other in groups if other is not group]
        inside += [stage.blocks[0].name for stage in self.found]
        return group.reason == _DIFFERENT and any(_lies_in(i, group.members) for i in inside)

    def _alike(self) -> Iterator[tuple[str, list[str]]]:
        """Modules of one class beside each other that hold layers, and the module they are in."""
        kinds: dict[tuple[str, type], list[str]] = {}
        for call in dict.fromkeys(c for n in self.region.graph.nodes for c in calls_of(n)):
            module = self.anatomy.module(call)
            is_block = not isinstance(module, (*LAYERS, *_CONTAINERS)) and _count_layers(module) > 0
            if "@" in call or not is_block:
                continue
            # The single layers inside a block are its own affair; a dense block's blocks are not.
            if _count_layers(module) > 1 or not self._lies_in_block(call):
                kinds.setdefault((_holder(call), type(module)), []).append(call)
        for (holder, _), members in kinds.items():
            yield holder, members

    def _lies_in_block(self, call: str) -> bool:
        above = _holder(call)
        while above:
            if type(self.anatomy.module(above)) in self._block_kinds:
                return True
            above = _holder(above)
        return False

    def _reason(self, holder: str, members: Sequence[str]) -> str:
        if len(members) < self.min_blocks:
            return f"{len(members)} blocks, fewer than {self.min_blocks}"
        convs = (m for member in members for m in self.anatomy.module(member).modules())
        dims = max(map(dimensions, convs), default=0)
        unlike = _why_unlike([self._output_shape(member) for member in members], dims)
        if unlike is not None:
            return unlike
        if holder in self._short:
            return f"{self._short[holder]} blocks of one shape, fewer than {self.min_blocks}"
        if not self._follow_one_another(holder, members):
            return f"{len(members)} blocks apart from each other"
        return "more than one tensor goes from block to block"

    def _follow_one_another(self, holder: str, members: Sequence[str]) -> bool:
        """Whether no other module with layers is called between the blocks."""
        inner = [c for node in self.region.graph.nodes for c in calls_of(node)]
        beside = [c for c in dict.fromkeys(inner) if _holder(c) == holder and "@" not in c]
        blocks = [c for c in beside if _count_layers(self.anatomy.module(c))]
        first = blocks.index(members[0])
        return blocks[first : first + len(members)] == list(members)

    def _output_shape(self, call: str) -> tuple[int, ...] | None:
        last = [n for n in self.region.graph.nodes if call in calls_of(n) and n.op != "get_attr"]
        return self.anatomy.shape(last[-1]) if last else None


def _why_unlike(shapes: Sequence[tuple[int, ...] | None], conv_dims: int) -> str | None:
    """Why outputs of these shapes are not maps of one shape; None where they are.

    Args:
        shapes: Of what each block gives.
        conv_dims: Dimensions of the maps that the blocks' convolutions make.
    """
    if None in shapes:
        return "the shapes of its blocks are not known, or they give several tensors"
    if len(set(shapes)) > 1:
        return _DIFFERENT
    count = len(shapes[0] or ())
    if count != 4 and count - 2 != conv_dims:
        return f"its blocks give no maps but tensors of {count} dimensions"
    return None


def _runs(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    """Maximal runs of blocks of one kind whose outputs have the same shape."""
    run: list[Block] = []
    for block in blocks:
        alike = run and _kind(block) == _kind(run[0])
        if run and not (alike and block.gives_maps):
            yield run
            run = []
        if block.gives_maps:
            run.append(block)
    if run:
        yield run


def _kind(block: Block) -> tuple[tuple[int, ...], int, bool]:
    """Blocks of several layers and single layers make no run together."""
    return block.out_shape, block.channel_dim, block.layers == 1


def _holder(call: str) -> str:
    """The module in which another is."""
    return call.rpartition(".")[0]


def _lies_in(call: str, modules: Collection[str]) -> bool:
    """Whether a call is that of one of the modules, or of one inside."""
    while call and call not in modules:
        call = _holder(call)
    return bool(call)


def _count_layers(module: nn.Module) -> int:
    return sum(isinstance(inner, LAYERS) for inner in module.modules())
