"""Every CNN of torchvision and timm, converted by ghostify and pruned by Torch-Pruning.

    python benchmarks/zoo.py --only 'resnet*'               # some of them
    python benchmarks/zoo.py                                # all: about an hour of one core
    python benchmarks/zoo.py --write docs/zoo.md            # and make the page of what there is

Networks: all classification and segmentation models of torchvision; of each file of timm the model
with the shortest (then alphabetically first) name. Each is built in a process of its own, each
trial runs in a fork of that. What is done stands in ``--results`` line by line; the next run goes
on where one stopped.

Needs ``pip install -e '.[bench]'``.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import measure
import torch
import zoo_page
from forked import in_child
from zoo_trial import (
    TRIALS,
    build_regnet,
    conv_share,
    convert_regnet,
    count_params,
    prepare,
)

import ghostify
from ghostify.files import write_text

MAX_PARAMS = 400_000_000
"""Larger networks are left out: a step of training takes several times their weights' memory."""
BUILD_SECONDS, TRIAL_SECONDS = 120, 60
MEMORY = 12 * 2**30
PAGE = "zoo"


def names() -> list[str]:
    """The networks to try."""
    import torchvision

    models = torchvision.models
    kinds = (models, models.segmentation)
    found = [name for kind in kinds for name in models.list_models(module=kind)]
    return [*found, *(f"timm/{name}" for name in first_of_each_file())]


def first_of_each_file() -> list[str]:
    """Of each of timm's files the model with the shortest, then alphabetically first name."""
    import timm

    files = {}
    for module in timm.list_modules():
        members = timm.list_models(module=module)
        if members:
            files[module] = min(members, key=lambda name: (len(name), name))
    return list(files.values())


def try_network(name: str, wanted: list[str], results: Path) -> dict[str, Any]:
    """Build a network and make the trials that are wanted; each is noted as soon as it is done."""
    warnings.simplefilter("ignore")
    facts = facts_of(name)
    if facts["params"] > MAX_PARAMS:
        return {"status": "skipped", "reason": f"more than {MAX_PARAMS / 1e6:.0f} M parameters"}
    if name.startswith("timm/") and facts["share"] < zoo_page.CNN_SHARE:
        return {"status": "no CNN", "reason": f"{facts['share']:.0%} of its layers are Conv2d"}
    torch.manual_seed(0)
    subject = prepare(name, ghostify.build(name))
    for mode in wanted:
        record = in_child(partial(TRIALS[mode], subject), TRIAL_SECONDS, MEMORY)
        note(results, {"model": name, "mode": mode, **facts, **record})
    return {"status": "built", "reason": "", **facts}


def facts_of(name: str) -> dict[str, Any]:
    """Size of a network and share of convolutions, without data where it can be built so."""
    try:
        with torch.device("meta"):
            model = ghostify.build(name)
    except ghostify.GhostifyError:
        model = ghostify.build(name)
    return {"share": conv_share(model), "params": count_params(model)}


def note(results: Path, record: dict[str, Any]) -> None:
    with results.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(record) + "\n")
    shown = {k: record.get(k) for k in ("status", "works", "reason", "stages", "ratios", "seconds")}
    print(record["model"], record["mode"], json.dumps(shown), flush=True)


def records(results: Path) -> list[dict[str, Any]]:
    """All that was noted; of what was tried twice, the later."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    latest = {(r["model"], r["mode"]): r for r in map(json.loads, lines)}
    return list(latest.values())


def pending(only: str, modes: list[str], results: Path) -> Iterator[tuple[str, list[str]]]:
    """Networks and the trials that they still need."""
    done: dict[str, set[str]] = {}
    for record in records(results):
        done.setdefault(record["model"], set()).add(record["mode"])
    for name in names():
        if fnmatch.fnmatchcase(name, only) and "build" not in done.get(name, set()):
            yield name, [mode for mode in modes if mode not in done.get(name, set())]


def main() -> None:
    options = _options()
    measure.one_core()
    modes = options.modes.split(",")
    for name, wanted in pending(options.only, modes, options.results):
        if not wanted:
            continue
        limit = BUILD_SECONDS + len(wanted) * (TRIAL_SECONDS + 30)
        work = partial(try_network, name, wanted, options.results)
        record = in_child(work, limit, 3 * MEMORY)
        if record["status"] != "built":
            note(options.results, {"model": name, "mode": "build", **record})
    if options.write:
        machine = measure.machine("torch", "torchvision", "timm", "torch-pruning")
        page = zoo_page.render(
            records(options.results), names(), machine, time_regnet(), options.note
        )
        write_text(options.write, page)
        print(f"wrote {options.write}")


def time_regnet() -> list[str]:
    """What converting RegNetX-3.2GF takes beyond building it, the first time in a process."""
    lines = []
    for mode, preset in (("g-ghost", "regnet"), ("c-ghost", None)):
        work = partial(convert_regnet, mode=mode, preset=preset)
        times = [measure.in_fresh_process(measure.first_seconds, build_regnet, work) for _ in "123"]
        shown = ", ".join(f"{seconds:.2f}" for seconds in sorted(times))
        asked = f"--mode {mode}" + (f" --preset {preset}" if preset else "")
        lines.append(
            f"- `ghostify convert regnet_x_3_2gf {asked}`: the conversion takes {shown} s of CPU "
            "time (three fresh processes, building not counted)."
        )
    return lines


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(sys.modules[__name__].__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--only", default="*", help="a glob pattern of names")
    parser.add_argument("--modes", default=",".join(TRIALS), help="trials, parted by commas")
    parser.add_argument("--results", type=Path, default=Path("zoo.jsonl"), help="JSON lines")
    parser.add_argument("--write", type=Path, help="the Markdown page to make")
    parser.add_argument("--note", default="", help="what a reader must know of this run")
    return parser.parse_args()


if __name__ == "__main__":
    main()
