"""Plans: what is replaced by what, what is left and why, as data that a person can edit."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ghostify.cost.theory import speedup_ratio
from ghostify.documents import Column, Document, Printable, Table, counted, sizes, times
from ghostify.plans import rows
from ghostify.plans.times import MeasuredTimes
from ghostify.settings import Calibration, Settings, settings_from_dict
from ghostify.settings.base import check_number


@dataclass(frozen=True)
class Replacement:
    """A layer that becomes a ghost module.

    Attributes:
        name: Qualified name of the layer (its first, where it is used at several places).
        kind: Name of its class.
        s: The paper's s.
        d: Kernel size of the cheap operation; one for each dimension where they differ.
        in_channels: Input channels that one filter sees (c of Eq. 4).
        out_channels: Output channels n.
        kernel_size: Kernel of the layer.
        upsampling: Pixels that a transposed convolution makes of each one of its input; else 1.
        divisor: What the number of intrinsic maps is a multiple of, where that leaves ghosts.
    """

    name: str
    kind: str
    s: int
    d: int | tuple[int, ...]
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    upsampling: int = 1
    divisor: int = 1

    @property
    def speedup(self) -> float:
        """The theoretical speed-up, Eq. 4, which knows no divisor."""
        return speedup_ratio(self.in_channels, self.kernel_size, self.s, self.d, self.upsampling)


@dataclass(frozen=True)
class StageRebuild:
    """A stage that becomes a G-Ghost stage.

    Attributes:
        name: Name of the stage.
        place: Qualified name of the module in whose place the new stage is put.
        absorbed: Other modules of the stage, which become identities.
        blocks: For each block, the modules that it is a plain succession of.
        functions: Where a block has functions between its modules: the module whose graph holds
            it, and for each block the names of its nodes there; None elsewhere.
        in_shape: Shape of what enters, ``(N, C, H, W)``.
        out_shape: Shape of what each block gives, ``(N, C, *size)`` or ``(N, H, W, C)``.
        channels: Channels c of the stage.
        complicated: Channels r that the thin blocks make.
        ratio: The ratio lambda asked for.
        divisor: What the thin widths are a multiple of.
        thin_inside: Whether thin blocks are thin inside too, or only where they begin and end.
        channels_last: Whether what each block gives is ``(N, H, W, C)``.
        wide: Modules in each block (by their names there) that keep their own inner widths in
            blocks that are thin inside.
        from_input: Whether what enters stands for the first block's output, and all blocks become
            thin.
    """

    name: str
    place: str
    absorbed: tuple[str, ...]
    blocks: tuple[tuple[str, ...], ...]
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    channels: int
    complicated: int
    ratio: float
    divisor: int = 1
    thin_inside: bool = True
    functions: tuple[str, tuple[tuple[str, ...], ...]] | None = None
    channels_last: bool = False
    wide: tuple[str, ...] = ()
    from_input: bool = False

    @property
    def channel_dim(self) -> int:
        """The dimension of the channels in what each block gives."""
        return len(self.out_shape) - 1 if self.channels_last else 1


@dataclass(frozen=True)
class Kept:
    """A layer or stage that is left as it is, and why."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Plan(Printable):
    """All that a conversion decides.

    Attributes:
        settings: What was asked for.
        replaced: The layers that become ghost modules.
        kept: The layers that are left, with the reasons.
        stages: The stages that are rebuilt, before any layer is replaced.
        kept_stages: The stages that are left (or are none), with the reasons.
        untraced: Where tracing stopped, module by module; empty when the whole network traces.
        calibration: What the new parts are fitted to, and how; None where they are not.
        target_macs: Part of the MACs to leave at most, where that chose s or the ratios.
        target_params: Part of the parameters, likewise.
        times: The measured times that it was decided by; None where no clock was asked.
    """

    settings: Settings
    replaced: tuple[Replacement, ...]
    kept: tuple[Kept, ...] = ()
    untraced: tuple[str, ...] = ()
    stages: tuple[StageRebuild, ...] = ()
    kept_stages: tuple[Kept, ...] = ()
    calibration: Calibration | None = None
    target_macs: float | None = None
    target_params: float | None = None
    times: MeasuredTimes | None = None

    def document(self) -> Document:
        """The decisions as tables: layers, stages, and what is left and why."""
        left = Counter(kept.reason for kept in (*self.kept, *self.kept_stages))
        counts = (
            counted(len(self.stages), "stage") + " rebuilt" if self.stages else "",
            counted(len(self.replaced), "layer") + " replaced",
            f"{left.total()} left as they are",
        )
        return Document(
            title=f"Plan of {self.settings.mode}",
            tables=(Table(PLAN_STAGES, self.stages), Table(PLAN_LAYERS, self.replaced)),
            footnotes=(
                ", ".join(filter(None, counts)),
                *(f"  {number} x {reason}" for reason, number in left.most_common()),
                *(f"tracing stopped in {where}" for where in self.untraced[:1]),
                *([] if self.times is None else [self.times.describe()]),
                "what it saves: ghostify.report(network, plan=plan)",
            ),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `Plan.from_dict` turns back into an equal plan."""
        data: dict[str, Any] = {
            "settings": self.settings.to_dict(),
            "replaced": [_layer_row(r) for r in self.replaced],
            "kept": [_row(k) for k in self.kept],
            "untraced": list(self.untraced),
            "stages": [_row(stage) for stage in self.stages],
            "kept_stages": [_row(k) for k in self.kept_stages],
        }
        if self.calibration is not None:
            data["calibration"] = self.calibration.to_dict()
        for name in TARGETS:
            if getattr(self, name) is not None:
                data[name] = getattr(self, name)
        if self.times is not None:
            data["times"] = self.times.to_dict()
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """A plan from what `Plan.to_dict` gave.

        Raises:
            GhostifyError: The data is no plan, or a value in it makes no sense.
        """
        settings = settings_from_dict(rows.part_of(data, "settings"))
        rows.check_rows(data, settings)
        calibration, timed = data.get("calibration"), data.get("times")
        targets = {name: data[name] for name in TARGETS if data.get(name) is not None}
        for name, part in targets.items():
            check_number(name, part, 0, 1)
        return cls(
            settings=settings,
            replaced=tuple(Replacement(**_frozen(row)) for row in data["replaced"]),
            kept=tuple(Kept(**row) for row in data["kept"]),
            untraced=tuple(data["untraced"]),
            stages=tuple(StageRebuild(**_frozen(row)) for row in data.get("stages", ())),
            kept_stages=tuple(Kept(**row) for row in data.get("kept_stages", ())),
            calibration=None if calibration is None else Calibration.from_dict(calibration),
            times=None if timed is None else MeasuredTimes.from_dict(timed),
            **targets,
        )


TARGETS = ("target_macs", "target_params")
"""Budgets of a plan, which it has where they chose."""

PLAN_LAYERS = (
    Column("layer", lambda row: row.name),
    Column("kind", lambda row: row.kind, narrow=False),
    Column("kernel", lambda row: sizes(row.kernel_size), narrow=False),
    Column("inputs", lambda row: str(row.in_channels), narrow=False),
    Column("outputs", lambda row: str(row.out_channels)),
    Column("s", lambda row: str(row.s)),
    Column("d", lambda row: sizes(row.d)),
    Column("Eq. 4", lambda row: times(row.speedup)),
)

PLAN_STAGES = (
    Column("stage", lambda row: row.name),
    Column("blocks", lambda row: str(len(row.blocks))),
    Column("shape", lambda row: " x ".join(map(str, row.out_shape[1:])), narrow=False),
    Column("lambda", lambda row: f"{row.ratio:g}"),
    Column("thin", lambda row: f"{row.complicated}/{row.channels}"),
)


def _row(record: Any) -> dict[str, Any]:
    return {key: _plain(value) for key, value in dataclasses.asdict(record).items()}


def _layer_row(item: Replacement) -> dict[str, Any]:
    """A row without what only some layers have."""
    row = _row(item)
    return {key: row[key] for key in row if key not in _RARE or row[key] > 1}


_RARE = ("upsampling", "divisor")


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _frozen(value: Any) -> Any:
    """Lists as the tuples that they were, at any depth."""
    if isinstance(value, Mapping):
        return {key: _frozen(item) for key, item in value.items()}
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value
