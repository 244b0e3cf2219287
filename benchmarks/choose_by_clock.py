"""The choice by the clock beside one s for all layers, at the time as measured.

    python benchmarks/choose_by_clock.py --network resnet50 --target 0.6
    python benchmarks/choose_by_clock.py --network resnet56-cifar --weights W --calibration images/
    python benchmarks/choose_by_clock.py --mode auto --never-slower mobilenet_v2 yolo11n.yaml

Each line is JSON. With ``--target``: the loss that is predicted of the choice and of the least s
for all layers that is as fast, their measured times, how far the layers' times are from the
network's, and how long measuring took, with an empty cache and with a full one. With
``--never-slower``: what ``runtime`` alone comes to, as a table of ``--write`` too. One thread: CPU
time.

Needs ``pip install -e '.[bench,onnx]'``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from measure import machine, one_core
from packages import yolo
from tables import Table, write_between

import ghostify
from ghostify.api import decide
from ghostify.passes.c_ghost import plan_c_ghost
from ghostify.passes.survey import survey
from ghostify.settings import CGhost
from ghostify.warmstart.allocation.layers import CHOICES, losses_without_data

YOLO_SIZE = (3, 320, 320)


def timed(network: Any, **options: Any) -> tuple[Any, float]:
    """The plan by the clock, and the CPU seconds that it took."""
    start = time.process_time()
    plan = decide(network, **options).plan
    return plan, time.process_time() - start


def told(plan: Any) -> dict[str, Any]:
    """What a plan's times say."""
    times = plan.times
    if times is None:
        return {}
    part = {"ratio": times.ratio, "low": times.low, "high": times.high}
    return {**part, "layers added up": times.predicted, "replaced": len(plan.replaced)}


def uniform(network: Any, ratio: float, options: argparse.Namespace) -> dict[str, Any]:
    """The least s for all layers that is as fast as the choice."""
    for s in CHOICES:
        converted = ghostify.convert(network, s=s)
        row = ghostify.benchmark(
            network, converted, runtime=options.runtime, threads=options.threads,
            batch=options.batch, seconds=options.seconds,
        ).rows[1]  # fmt: skip
        if row.ratio <= ratio + 0.01:
            return {"s": s, "ratio": row.ratio, "low": row.low, "high": row.high}
    return {"s": None}


def predicted_loss(network: Any, plan: Any, s: int | None) -> dict[str, float]:
    """What the weights alone say that ghosts lose: of the choice, and of one s for all."""
    seen = survey(network)
    plans = {size: plan_c_ghost(seen, replace(CGhost(), s=size)) for size in CHOICES}
    items = {item.name: item.s for item in plan.replaced}
    most = max([*items.values(), s or 2])
    plans = {size: own for size, own in plans.items() if size <= most}
    names = [item.name for item in plans[2][0].replaced]
    losses = losses_without_data(network, plans, names, lambda _: None)
    found = {"choice": sum(losses[name][size] for name, size in items.items())}
    if s is not None:
        found["one s"] = sum(own[s] for own in losses.values() if s in own)
    return found


def choose(options: argparse.Namespace) -> dict[str, Any]:
    network = ghostify.build(options.network, weights=options.weights).eval()
    asked = {
        "runtime": options.runtime, "threads": options.threads, "batch": options.batch,
        "target_latency": options.target, "calibration": options.calibration,
    }  # fmt: skip
    plan, first = timed(network, **asked)
    _, again = timed(network, **asked)
    found = told(plan) | {"seconds": first, "seconds with the cache": again}
    one = uniform(network, plan.times.ratio, options)
    return found | {"one s for all": one, "loss": predicted_loss(network, plan, one["s"])}


def never_slower(name: str, options: argparse.Namespace) -> dict[str, Any]:
    is_yolo = name.endswith(".yaml")
    network = (yolo(name)() if is_yolo else ghostify.build(name)).eval()
    asked = {"runtime": options.runtime, "threads": options.threads, "batch": options.batch}
    asked |= {"mode": options.mode} | ({"input_size": YOLO_SIZE} if is_yolo else {})
    plan, seconds = timed(network, **asked)
    same = {"ratio": 1.0, "low": 1.0, "high": 1.0, "layers added up": 1.0, "replaced": 0}
    stages = {"stages": len(plan.stages), "kept": len(plan.kept)}
    return same | told(plan) | stages | {"seconds": seconds}


def tabulate(found: Sequence[dict[str, Any]], options: argparse.Namespace) -> Table:
    """The table of what ``runtime`` alone comes to."""
    rows = [
        (
            row["network"], f"{row['replaced']}", f"{row['stages']}", f"{row['kept']}",
            f"{row['layers added up']:.2f}", f"{row['ratio']:.2f}",
            f"{row['low']:.2f} to {row['high']:.2f}", f"{row['seconds']:.0f} s",
        )
        for row in found
    ]  # fmt: skip
    columns = (
        "network", "layers replaced", "stages rebuilt", "left", "layers added up", "measured",
        "interval", "to measure and choose",
    )  # fmt: skip
    title = f"What the clock alone chooses for {options.runtime}, mode {options.mode}"
    note = (
        f"Time beside the original's, batch {options.batch}, {options.threads} thread, CPU time, "
        f"random weights. {machine('torch', options.runtime)}."
    )
    return Table(title, columns, tuple(rows), note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--weights")
    parser.add_argument("--calibration", help="a folder of images; else by the weights")
    parser.add_argument("--target", default="0.6", help="part of the time, or 20ms")
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=15.0, help="most, for each ratio")
    parser.add_argument("--never-slower", nargs="+", metavar="NETWORK", default=[])
    parser.add_argument("--mode", default="c-ghost", help="of --never-slower")
    parser.add_argument("--write", type=Path, help="page to put the table of it into")
    options = parser.parse_args()
    one_core()
    print(json.dumps({"machine": machine("torch", "onnxruntime")}), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GHOSTIFY_CACHE"] = folder
        found = []
        for name in options.never_slower:
            found.append({"network": name, **never_slower(name, options)})
            print(json.dumps(found[-1]), flush=True)
        if not options.never_slower:
            print(json.dumps({"network": options.network, **choose(options)}), flush=True)
    if options.write:
        name = f"never-slower-{options.runtime}"
        write_between(options.write, name, [tabulate(found, options).to_markdown()])


if __name__ == "__main__":
    main()
