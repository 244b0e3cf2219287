"""What a network keeps when it gets cheaper: ghost modules, random or warm, and Torch-Pruning.

    python benchmarks/recovery.py --network resnet56-cifar --method c-ghost --s 2 --start warm
    python benchmarks/recovery.py --network resnet56-cifar --chosen --start warm
    python benchmarks/recovery.py --network resnet56-cifar --method taylor --as c-ghost --s 2
    python benchmarks/recovery.py --method auto --chosen --time 0.6 --start warm

Each measures one row and adds it to a file of rows (JSON lines), of which `recovery_page.py` makes
tables. Networks are the trained ones of ``--data``, or any with ``--model-args`` and ``--weights``.
Each row goes through four stages:

a. right after the conversion (or the pruning);
b. ghost modules warm: fitted to the calibration images, or to the weights alone (data-free); all
   others: norm statistics re-estimated on the same images;
c. the same number of small steps on these images without labels: warm ghosts by `reconstruct`, all
   others by distillation of the original's logits (and features, where there are some in common);
d. the same distillation with labels for all.

Pruning is Torch-Pruning's, to at most the MACs of the conversion that ``--as`` and ``--s`` say.
``--method original`` is the network itself, which stage d alone can change. With ``--time`` what is
compared takes at most that part of the original's time in ``--runtime`` (one image, one thread), as
measured: the choice by the clock or by MACs (``--chosen``, ``--by macs``), the least s, the least
ratio of all stages, the least pruned with widths of multiples of 8.
"""

from __future__ import annotations

import argparse
import json
import platform
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from at_time import Clock, first_in_time, largest_in_time
from peers import prune, prune_to
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import ghostify
from ghostify.data.calibration import gather
from ghostify.data.preparation import preparation_of
from ghostify.deploy.clock.forms import as_fitted

GHOSTS = ("c-ghost", "g-ghost")
CIFAR = {"preset": "cifar"}
METHODS = (*GHOSTS, "auto", "magnitude", "taylor", "original")
SIZES = (2, 3, 4, 5, 6, 8, 16)


class Row:
    """One row as it comes about: accuracies on all test images, seconds of each stage."""

    def __init__(self, options: argparse.Namespace, test: Path) -> None:
        self.test = test
        self.values: dict[str, Any] = {
            "network": options.network, "model args": options.model_args,
            "method": options.method, "start": options.start, "as": options.as_,
            "s": options.s, "chosen": options.chosen, "ratio": ratio_of(options),
            "seed": options.seed, "images": options.images,
            "reconstruct steps": options.reconstruct_steps,
            "optimizer": options.optimizer,
            "time": options.time, "runtime": options.runtime, "by": options.by,
            "torch": torch.__version__, "cpu": platform.machine(),
        }  # fmt: skip

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Note the seconds that a stage takes."""
        start = time.perf_counter()
        yield
        self.values[f"{stage} seconds"] = round(time.perf_counter() - start, 1)

    def judge(self, stage: str, network: nn.Module) -> None:
        """Note the accuracy after a stage."""
        found = ghostify.evaluate(network.to(memory_format=torch.channels_last), self.test)
        self.values[stage] = found.top1.percent
        print(self.values["method"], self.values["start"], stage, found.top1.percent, flush=True)


def unpack(archive: Path, folder: Path) -> None:
    if not folder.is_dir():
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")


def convert(network: nn.Module, method: str, options: argparse.Namespace, **more: Any) -> nn.Module:
    if method == "g-ghost":
        ratio = ratio_of(options)
        return ghostify.convert(network, mode="g-ghost", preset="cifar", ratio=ratio, **more)
    return ghostify.convert(network, mode="c-ghost", s=options.s, **more)


def ratio_of(options: argparse.Namespace) -> float | dict[str, float]:
    """One ratio for all stages, or one for each: ``0.5``, ``layer1=0.75 layer2=0.5``."""
    if len(options.ratio) == 1:
        return float(options.ratio[0])
    return {stage: float(value) for stage, value in (pair.split("=") for pair in options.ratio)}


def decide(
    network: nn.Module, images: Tensor, options: argparse.Namespace, row: Row
) -> ghostify.Plan | None:
    """Where each layer or stage may have its own: the plan with as many MACs as one for all.

    With ``--time`` the plan of that time.
    """
    if not options.chosen:
        return None
    asked = {"calibration": images, "calibration_samples": len(images)}
    asked |= {"calibration_seed": options.seed, **mode_of(options)}
    with row.timed("chosen"):
        plan = _plan(network, asked, options)
    print(plan.settings, flush=True)
    if options.method == "g-ghost":
        row.values["ratio"] = plan.settings.ratio
    return plan


def mode_of(options: argparse.Namespace) -> dict[str, str]:
    preset = {} if options.method == "c-ghost" or "resnet" not in options.network else CIFAR
    return {"mode": options.method, **preset}


def _plan(network: nn.Module, asked: dict[str, Any], options: argparse.Namespace) -> ghostify.Plan:
    if options.time is None:
        macs = ghostify.report(convert(network, options.method, options))
        return ghostify.plan(network, **asked, target_macs=macs.after.macs / macs.before.macs)
    if options.by == "clock":
        asked |= {"runtime": options.runtime, "target_latency": options.time}
        return ghostify.plan(network, **asked)
    return largest_in_time(
        clock_of(network, options),
        lambda part: ghostify.plan(network, **asked, target_macs=part),
        lambda plan: as_fitted(ghostify.convert(network, replace(plan, calibration=None))),
    )


def clock_of(network: nn.Module, options: argparse.Namespace) -> Clock:
    return Clock(network, options.runtime, options.time)


def settle(network: nn.Module, options: argparse.Namespace) -> None:
    """The s or the ratio for all that is as fast as asked, in the options."""
    if options.time is None or options.chosen or options.method not in GHOSTS:
        return
    clock = clock_of(network, options)
    ready = as_fitted if options.start == "warm" else lambda made: made
    if options.method == "c-ghost":
        options.s = first_in_time(clock, SIZES, lambda s: ready(ghostify.convert(network, s=s)))
        if options.s is None:
            raise SystemExit(f"no s is as fast as {options.time} of the time")
        return
    ratio = largest_in_time(  # the more ghosts, the faster
        clock, lambda part: 1 - part,
        lambda ratio: ready(ghostify.convert(network, **mode_of(options), ratio=ratio)),
    )  # fmt: skip
    options.ratio = [str(ratio)]


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each number of steps of stage d."""
    unpack(options.data / "cifar10-jpeg.tar.gz", options.folder)
    train, test = options.folder / "train", options.folder / "test"
    weights = options.weights
    if weights is None:
        weights = options.data / f"{options.network.removesuffix('-cifar')}-cifar10.safetensors"
    network = ghostify.build(options.network, options.model_args, weights).eval()
    prepare = preparation_of(network, (3, 32, 32))
    spool = gather(train, options.images, options.seed, prepare)
    images = torch.cat(list(spool.batches(256)))
    settle(network, options)
    row = Row(options, test)
    row.judge("original", network)
    made = _start(network, options, images, row)
    _count(row, network, made)
    if options.time is not None:
        row.values["time ratio"] = round(clock_of(network, options).ratio(made), 3)
    for steps in options.steps:
        row.values["steps"] = steps
        with row.timed("distilled"):
            done = ghostify.finetune(
                made, train, teacher=network, steps=steps, seed=options.seed,
                channels_last=True, precision=options.precision, optimizer=options.optimizer,
                log_steps=50, progress=print,
            )  # fmt: skip
        row.judge("distilled", done.model)
        yield row.values


def _start(network: nn.Module, options: argparse.Namespace, images: Tensor, row: Row) -> nn.Module:
    """Stages a to c."""
    if options.method == "original":
        score = row.values["original"]
        row.values |= {"converted": score, "fitted": score, "reconstructed": score}
        return network
    if options.start == "warm":
        return _start_warm(network, options, images, row)
    if options.method in GHOSTS:
        made = convert(network, options.method, options)
        if options.start == "random":
            _draw_new_parts(made, options.seed)
    else:
        with row.timed("converted"):
            made = _pruned(network, options, images)
    row.judge("converted", made)
    with row.timed("fitted"):
        if options.start == "data-free":
            made = convert(network, options.method, options, calibration="data-free")
        else:
            update_bn(images.split(256), made)
    row.judge("fitted", made)
    with row.timed("reconstructed"):
        done = ghostify.finetune(
            made, images, teacher=network, steps=options.reconstruct_steps, batch_size=32,
            optimizer=options.optimizer, lr=0.02, seed=options.seed, channels_last=True,
        )  # fmt: skip
    row.judge("reconstructed", done.model)
    return done.model


def _pruned(network: nn.Module, options: argparse.Namespace, images: Tensor) -> nn.Module:
    if options.time is None:
        limit = ghostify.report(convert(network, options.as_, options)).after.macs
        return prune_to(network, options.method, limit, images)
    return largest_in_time(
        clock_of(network, options),
        lambda part: prune(network, options.method, 1 - part, images, round_to=8),
        lambda pruned: pruned,
    )


def _start_warm(
    network: nn.Module, options: argparse.Namespace, images: Tensor, row: Row
) -> nn.Module:
    from ghostify.settings import Calibration
    from ghostify.warmstart import warm_start_

    plan = decide(network, images, options, row)

    def begin() -> nn.Module:
        if plan is not None:
            return ghostify.convert(network, replace(plan, calibration=None))
        return convert(network, options.method, options)

    row.judge("converted", begin())
    for stage, steps in (("fitted", 0), ("reconstructed", options.reconstruct_steps)):
        made = begin()
        chosen = Calibration(
            images, samples=options.images, minutes=None if steps else 0.0, network_steps=steps,
            block_steps=options.block_steps, seed=options.seed,
        )  # fmt: skip
        with row.timed(stage):
            done = warm_start_(made, network, chosen, input_size=(3, 32, 32))
        row.values["steps taken"] = [done.block_steps, done.network_steps]
        row.judge(stage, made)
    return made


def _draw_new_parts(network: nn.Module, seed: int) -> None:
    """Random values for what the original has no weights for: cheap operations and mixes."""
    torch.manual_seed(seed)
    for name, module in network.named_modules():
        is_new = {"cheap", "mix"} & set(name.split("."))
        if is_new and hasattr(module, "reset_parameters"):
            module.reset_parameters()


def _count(row: Row, network: nn.Module, made: nn.Module) -> None:
    for name, counted in (("before", network), ("after", made)):
        total = ghostify.count(counted, input_size=(3, 32, 32)).total
        row.values[f"macs {name}"], row.values[f"params {name}"] = total.macs, total.params


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, default=Path("cifar10"), help="unpacked here")
    parser.add_argument("--network", default="resnet20-cifar")
    parser.add_argument("--model-args", type=json.loads, metavar="JSON")
    parser.add_argument("--weights", type=Path, help="of the network, where --data has none")
    parser.add_argument("--method", choices=METHODS, default="c-ghost")
    parser.add_argument("--as", dest="as_", choices=GHOSTS, default="c-ghost")
    parser.add_argument("--start", choices=("warm", "data-free", "random", "-"), default="-")
    parser.add_argument("--s", type=int, default=2)
    parser.add_argument("--ratio", nargs="+", default=["0.5"], metavar="X|STAGE=X")
    parser.add_argument("--chosen", action="store_true", help="s or ratio chosen for each")
    parser.add_argument("--time", type=float, help="part of the original's, in place of MACs")
    parser.add_argument("--runtime", default="onnxruntime", help="of --time")
    parser.add_argument("--by", choices=("clock", "macs"), default="clock", help="with --time")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--reconstruct-steps", type=int, default=800)
    parser.add_argument("--block-steps", type=int, default=20)
    parser.add_argument("--steps", type=int, nargs="+", default=[300], help="of stage d")
    parser.add_argument("--optimizer", default="muon", help="of all but ghosts' reconstruction")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path, default=Path("benchmarks/recovery.jsonl"))
    options = parser.parse_args()
    for row in measure(options):
        with options.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
