"""Ghost modules: plain ``torch.nn`` modules that know nothing of conversion."""

from ghostify.nn.g_ghost import GGhostStage, Mix
from ghostify.nn.ghost import GhostConv2d, GhostLinear, intrinsic_channels
from ghostify.nn.module import GhostModule

__all__ = ["GGhostStage", "GhostConv2d", "GhostLinear", "GhostModule", "Mix", "intrinsic_channels"]
