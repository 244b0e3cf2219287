"""The choice by the clock: layers timed in each of their forms, and what that says to convert."""

from ghostify.deploy.clock.choosing import choose_within_time
from ghostify.deploy.clock.leaving import leave_what_is_slower
from ghostify.deploy.clock.stopwatch import Stopwatch
from ghostify.deploy.clock.table import LatencyTable

__all__ = ["LatencyTable", "Stopwatch", "choose_within_time", "leave_what_is_slower"]
