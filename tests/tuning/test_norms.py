"""Batch norms after a fit: true statistics, the same outputs."""

import copy

import torch
from torch import Tensor, nn

import ghostify
from ghostify.tuning.norms import norms_average, norms_take_statistics


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network() -> nn.Sequential:
    """A network whose norms have statistics far from those of what they get."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3),
        nn.BatchNorm2d(8, affine=False), nn.Flatten(), nn.Linear(8 * 36, 5), nn.BatchNorm1d(5),
    )  # fmt: skip
    for norm in (net[1], net[4], net[7]):
        norm.running_mean.normal_(2.0)
        norm.running_var.uniform_(0.2, 5.0)
    return net.eval()


def settled(net: nn.Module, x: Tensor) -> nn.Module:
    made = copy.deepcopy(net)
    with norms_take_statistics(made), torch.no_grad():
        for batch in x.split(10):
            made(batch)
    return made


def test_outputs_stay_what_they_were() -> None:
    net, x = network(), noise(30, 3, 8, 8)
    assert torch.allclose(settled(net, x)(x), net(x), atol=1e-4, rtol=1e-4)


def test_statistics_are_those_of_all_that_came_in() -> None:
    x = 3 + 2 * noise(30, 3, 8, 8)
    made = settled(network(), x)
    maps = made[0](x).double()
    assert torch.allclose(made[1].running_mean.double(), maps.mean((0, 2, 3)), atol=1e-4)
    assert torch.allclose(made[1].running_var.double(), maps.var((0, 2, 3)), rtol=1e-3)


def test_norms_without_scale_or_input_stay_as_they_were() -> None:
    net = network()
    made = settled(net, noise(30, 3, 8, 8))
    assert torch.equal(made[4].running_mean, net[4].running_mean)
    with norms_take_statistics(made):
        pass
    assert torch.isfinite(made[1].weight).all()


def test_training_starts_from_what_the_fit_has_reached() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16),
    )  # fmt: skip
    x = noise(128, 3, 12, 12)
    with torch.no_grad():
        for _ in range(50):
            net(x)
    found = ghostify.convert(net.eval(), input_size=(3, 12, 12), s=4, calibration=x)
    with torch.no_grad():
        fitted, in_training = found.eval()(x), found.train()(x)
    # The original's statistics would leave the ghosts' variance, and this, far from it.
    assert (fitted - in_training).square().mean() < 1e-3 * fitted.square().mean()


def test_norms_that_average_have_the_statistics_of_all_batches_alike() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3)).train()
    unused, x = network[1], torch.randn(40, 3, 4, 4) * 3 + 1
    unused.running_mean.fill_(7)
    network[0].running_mean.fill_(100)
    with norms_average(network), torch.no_grad():
        for part in x.split(10):
            network[0](part)
    assert torch.allclose(network[0].running_mean, x.mean((0, 2, 3)), atol=1e-5)
    variances = torch.stack([part.var((0, 2, 3)) for part in x.split(10)])
    assert torch.allclose(network[0].running_var, variances.mean(0), atol=1e-4)
    assert network[0].momentum == 0.1 and bool((unused.running_mean == 7).all())
