"""Ghost modules: plain ``torch.nn`` modules that know nothing of conversion."""

from ghostify.nn.g_ghost import GGhostStage, Mix
from ghostify.nn.ghost import GhostConv2d, GhostLinear, intrinsic_channels

__all__ = ["GGhostStage", "GhostConv2d", "GhostLinear", "Mix", "intrinsic_channels"]
