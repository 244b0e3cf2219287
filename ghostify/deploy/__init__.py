"""From a network to what runs: its inference form, files for runtimes, measured time."""

from ghostify.deploy.benchmark import benchmark
from ghostify.deploy.exporting import Exported, export, export_program
from ghostify.deploy.formats import FORMATS
from ghostify.deploy.fusing import fuse, fuse_
from ghostify.deploy.runtimes import RUNTIMES
from ghostify.deploy.times import Benchmark, NetworkTime, PartTime

__all__ = [
    "FORMATS",
    "RUNTIMES",
    "Benchmark",
    "Exported",
    "NetworkTime",
    "PartTime",
    "benchmark",
    "export",
    "export_program",
    "fuse",
    "fuse_",
]
