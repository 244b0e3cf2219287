"""Cheap operation and mix fitted at once, and a block's convolutions one after the other."""

import copy

import pytest
import torch
from torch import Tensor, nn

from ghostify.data.spool import Spool
from ghostify.graph.trace import BlockTracer
from ghostify.nn.g_ghost import GGhostStage, Mix, cheap_operation
from ghostify.warmstart.fit.sampling import PairedInputs
from ghostify.warmstart.g_ghost.mixing import StageBatches, fit_ghosts, write_mix
from ghostify.warmstart.g_ghost.refit import BlockPair, find_sums, refit


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def spool(x: Tensor) -> Spool:
    kept = Spool()
    kept.append(x)
    return kept


def stage(kind: str, kernel: int) -> GGhostStage:
    parts = nn.Conv2d(3, 6, 1), [nn.Conv2d(6, 2, 1)]
    cheap = cheap_operation(6, 4, kernel, torch.zeros(1))
    return GGhostStage(
        *parts, cheap, Mix(8, 4, kind), None, channels=6, complicated=2, entry="project"
    ).eval()


@pytest.mark.parametrize("kind", ["fc", "mlp"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_ghosts_that_are_linear_in_windows_and_means_are_fitted(kind: str, kernel: int) -> None:
    made = stage(kind, kernel)
    made.set_order(torch.tensor([5, 0, 1, 2, 3, 4]))
    y1, thin = noise(96, 6, 6, 6), noise(96, 2, 6, 6, seed=1)
    # Means that differ from image to image: what a mix is for.
    y1, thin = y1 + noise(96, 6, 1, 1, seed=2), thin + noise(96, 2, 1, 1, seed=3)
    pooled = torch.cat([y1.mean((2, 3)), thin.mean((2, 3))], 1)
    conv = nn.Conv2d(6, 6, kernel, padding=kernel // 2)
    target = (conv(y1) + (pooled @ noise(8, 6, seed=4))[:, :, None, None]).detach()
    inputs = PairedInputs(spool(y1), spool(y1), 20, 0, 24)
    views = StageBatches(
        spool(y1), (spool(y1.mean((2, 3))), spool(thin.mean((2, 3)))), spool(target), inputs
    )
    error, held_out = fit_ghosts(made, views)
    assert error < 1e-3 and held_out < 1e-3
    with torch.no_grad():
        out = made.join(thin, y1, [y1, thin])
    ghosts = made.chosen()[2:]
    gap = (
        (out - target)[:, ghosts].square().sum() / target[:, ghosts].var() / out[:, ghosts].numel()
    )
    assert gap < 0.02  # a hidden unit of an mlp is cut off beyond three standard deviations


def test_an_mlp_mix_is_the_linear_map_within_three_standard_deviations() -> None:
    mix, weight, offset = Mix(5, 3, "mlp").eval(), noise(3, 5), noise(3, seed=1)
    x = noise(400, 5, seed=2).clamp(-1, 1)
    mean, covariance = x.mean(0).double(), torch.cov(x.T.double())
    with torch.no_grad():
        write_mix(mix, weight.double(), offset.double(), mean, covariance)
        out = mix([x[:, :, None, None]]).flatten(1)
    torch.testing.assert_close(out, x @ weight.T + offset, atol=1e-4, rtol=1e-4)


def test_features_that_say_nothing_are_not_fitted_to_few_images() -> None:
    made, images = stage("fc", 1), 24
    y1, features = noise(images, 6, 4, 4), noise(images, 8, seed=1)
    target = noise(images, 6, 1, 1, seed=2).expand(-1, -1, 4, 4).contiguous()
    inputs = PairedInputs(spool(y1), spool(y1), 8, 0, 6)
    fit_ghosts(made, StageBatches(spool(y1), (spool(features),), spool(target), inputs))
    assert float(made.mix.fc.weight.abs().max()) < 0.3


class Residual(nn.Module):
    """Two convolutions and a projected shortcut."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 6, 3, padding=1, bias=bias)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 4, 3, padding=1, groups=2, bias=bias)
        self.bn2 = nn.BatchNorm2d(4)
        self.side = nn.Conv2d(4, 4, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        out += self.side(x)
        return torch.relu(out)


def pair_of(block: nn.Module, made: nn.Module) -> BlockPair:
    graph = BlockTracer().trace(block)
    return BlockPair(block, graph, made, graph, {}, {})


def test_what_is_added_is_fitted_last_and_after_what_it_is_made_of() -> None:
    pair = pair_of(Residual(True), Residual(True))
    found = [(item.node, [term.end for term in item.terms]) for item in find_sums(pair)]
    # Their groups differ, so the two that are added are not fitted at once.
    assert found == [("bn1", ["bn1"]), ("bn2", ["bn2"]), ("add", ["side"])]


@pytest.mark.parametrize("bias", [True, False])
def test_a_block_that_was_disturbed_comes_back(bias: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = Residual(bias).eval()
        for norm in (block.bn1, block.bn2):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
    made, x = copy.deepcopy(block), noise(64, 4, 8, 8)
    for index, parameter in enumerate(made.parameters()):
        if parameter.ndim == 4:
            parameter.data += 0.3 * noise(*parameter.shape, seed=index)
    made.bn2.running_mean += 1
    made.bn1.running_mean -= 1
    made.bn2.weight.data[1] = 0  # a channel that is switched off is switched on again
    fresh = noise(16, 4, 8, 8, seed=9)

    def gap() -> float:
        return float((made(fresh) - block(fresh)).square().mean() / block(fresh).square().mean())

    with torch.no_grad():
        before = gap()
        assert refit(pair_of(block, made), PairedInputs(spool(x), spool(x), 20, 0)) >= 2
        assert gap() < 1e-2 * before
