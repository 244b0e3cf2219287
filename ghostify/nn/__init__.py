"""Ghost modules: plain ``torch.nn`` modules that know nothing of conversion."""

from ghostify.nn.fusing import fold
from ghostify.nn.g_ghost import GGhostStage, Mix
from ghostify.nn.ghost import (
    GhostConv,
    GhostConv2d,
    GhostLayer,
    intrinsic_channels,
)
from ghostify.nn.ghost_kinds import (
    GhostConv1d,
    GhostConv3d,
    GhostConvTranspose1d,
    GhostConvTranspose2d,
    GhostConvTranspose3d,
)
from ghostify.nn.ghost_linear import GhostLinear
from ghostify.nn.module import GhostModule

__all__ = [
    "GGhostStage",
    "GhostConv",
    "GhostConv1d",
    "GhostConv2d",
    "GhostConv3d",
    "GhostConvTranspose1d",
    "GhostConvTranspose2d",
    "GhostConvTranspose3d",
    "GhostLayer",
    "GhostLinear",
    "GhostModule",
    "Mix",
    "fold",
    "intrinsic_channels",
]
