"""From a network to a plan, and from a plan to a rewritten network."""

from ghostify.passes.c_ghost import plan_c_ghost
from ghostify.passes.fx_pass import CGhostPass
from ghostify.passes.surgery import rewrite, rewrite_

__all__ = ["CGhostPass", "plan_c_ghost", "rewrite", "rewrite_"]
