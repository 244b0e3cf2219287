"""The choice by the clock: layers timed in each of their forms, and what that says to convert."""

from ghostify.deploy.clock.planning import plan_by_clock
from ghostify.deploy.clock.stopwatch import Stopwatch
from ghostify.deploy.clock.table import LatencyTable

__all__ = ["LatencyTable", "Stopwatch", "plan_by_clock"]
