"""What each stage's ghosts do to the output, on the scale on which layers' ghosts are judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghostify.cost.figures import Cost, Count, add_costs
from ghostify.data.calibration import batch_size
from ghostify.data.spool import Spool
from ghostify.distributed import sum_over_processes
from ghostify.graph.calls import call
from ghostify.graph.meta_copy import copy_network
from ghostify.nn.modes import to_single
from ghostify.numerics.nested import tensors_in
from ghostify.passes.surgery import rewrite
from ghostify.passes.survey import Survey
from ghostify.plans import Plan, StageRebuild
from ghostify.progress import Progress
from ghostify.saving.history import History, remember
from ghostify.settings import Calibration, GGhost
from ghostify.warmstart.allocation.stages import halves
from ghostify.warmstart.start import warm_start_


def losses_of_stages(
    network: nn.Module,
    settings: GGhost,
    stages: Sequence[StageRebuild],
    images: Spool,
    seed: int,
    progress: Progress,
) -> dict[str, dict[float, float]]:
    """What ghosts of each ratio do to the output, stage by stage, all else as it was.

    Each is fitted on some images, and judged on others.

    Args:
        network: The trained network; it is not changed.
        settings: How stages are rebuilt.
        stages: Each stage with each ratio to judge.
        images: Calibration images.
        seed: Of the fits.
        progress: Told what is done now.
    """
    if not stages:
        return {}
    original = to_single(copy_network(network).eval())
    fitted, judged = halves(images)
    found: dict[str, dict[float, float]] = {}
    for stage in stages:
        progress(f"judging ghosts of {stage.name}, ratio {stage.ratio:g}")
        plan = Plan(settings, (), stages=(stage,))
        made = rewrite(original, plan)
        remember(made, History(plans=(plan,)))
        warm_start_(made, original, Calibration(fitted, seed=seed))
        found.setdefault(stage.name, {})[stage.ratio] = _felt(made, original, judged)
    return found


@torch.no_grad()
def _felt(made: nn.Module, original: nn.Module, images: Spool) -> float:
    size = batch_size(images.take([0]), 128)
    parts = [felt_difference(call(made, x), call(original, x)) for x in images.batches(size)]
    total = torch.stack([torch.stack(parts).sum(), torch.tensor(float(len(images)))]).double()
    sum_over_processes(total)  # all must choose the same
    return float(total[0] / total[1])


def felt_difference(made: Any, wanted: Any) -> Tensor:
    """What the error of an output comes to, summed over images.

    Of class scores ``(N, classes)`` twice the divergence, which is to second order what Fisher's
    matrix makes of an error; of any other output the squared error.

    Example:
        >>> felt_difference(torch.zeros(2, 4, 4, 4), torch.ones(2, 4, 4, 4))
        tensor(128.)
    """
    if isinstance(wanted, Tensor) and wanted.ndim == 2 and wanted.shape[1] > 1:
        scores = made.float().log_softmax(1), wanted.float().log_softmax(1)
        return 2 * F.kl_div(*scores, reduction="sum", log_target=True)
    pairs = zip(tensors_in(made), tensors_in(wanted), strict=True)
    errors = [(a.float() - b.float()).square().sum() for a, b in pairs if b.is_floating_point()]
    return torch.stack(errors).sum() if errors else torch.zeros(())


def losses_of_stages_without_data(
    survey: Survey, plans: Mapping[float, tuple[Plan, Count]], stages: Sequence[StageRebuild]
) -> dict[str, dict[float, float]]:
    """The part of the weights that each ratio drops, once for each convolution of a stage.

    For white inputs what a thin block's filters lack is unexplained, as it is with what a layer's
    ghosts lack: the two can be added.

    Args:
        survey: Of the network.
        plans: For each ratio a plan with it for all stages, and what that costs.
        stages: Each stage with each ratio to judge.
    """
    before = survey.count.by_module()
    after = {ratio: count.by_module() for ratio, (_, count) in plans.items()}
    found: dict[str, dict[float, float]] = {}
    for stage in stages:
        modules = [survey.meta.get_submodule(name) for block in stage.blocks for name in block]
        layers = sum(isinstance(m, _ConvNd) for module in modules for m in module.modules())
        own = add_costs(before.get(name, Cost()) for block in stage.blocks for name in block)
        new = after[stage.ratio].get(stage.place, Cost())
        part = 1 - new.params / max(own.params, 1)
        found.setdefault(stage.name, {})[stage.ratio] = layers * max(part, 0.0)
    return found
