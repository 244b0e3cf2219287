"""The warm start of G-Ghost stages."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ghostify
from ghostify.settings import DATA_FREE, Calibration
from ghostify.warmstart import warm_start_

SIZE = (3, 16, 16)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


IMAGES = noise(48, *SIZE)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = ghostify.build("resnet20-cifar")
        net.train()
        with torch.no_grad():
            for _ in range(10):
                net(torch.randn(32, *SIZE))
    return net.eval()


def stage_gap(made: nn.Module, network: nn.Module) -> float:
    """How far the first rebuilt stage is from the original's, on images not used before."""
    x, outputs = noise(32, *SIZE, seed=3), []
    for net in (made, network):
        handle = net.get_submodule("layer1").register_forward_hook(
            lambda _, args, out: outputs.append(out)
        )
        with torch.no_grad():
            net(x)
        handle.remove()
    one, other = outputs
    return float((one - other).square().sum() / other.square().sum())


@pytest.mark.parametrize("preset", ["resnet", "cifar", "regnet"])
def test_a_fitted_stage_is_nearer_to_the_original(network: nn.Module, preset: str) -> None:
    options: dict[str, Any] = {"mode": "g-ghost", "preset": preset, "input_size": SIZE}
    plain = ghostify.convert(network, **options)
    warm = ghostify.convert(network, calibration=IMAGES, **options)
    assert stage_gap(warm, network) < stage_gap(plain, network)


def test_the_report_tells_of_each_stage(network: nn.Module) -> None:
    warm = ghostify.convert(network, mode="g-ghost", input_size=SIZE, calibration=IMAGES)
    notes = ghostify.report(warm).notes
    assert any("3 stages" in note for note in notes)
    assert sum("unexplained" in note for note in notes) == 3


def test_stages_are_not_fitted_without_data(network: nn.Module) -> None:
    with pytest.raises(ghostify.GhostifyError, match="give images"):
        ghostify.convert(network, mode="g-ghost", input_size=SIZE, calibration=DATA_FREE)


def test_reconstruction_comes_nearer_still(network: nn.Module) -> None:
    made = ghostify.convert(network, mode="g-ghost", input_size=SIZE)
    tuned, warm = made, copy.deepcopy(made)
    for steps, net in ((0, warm), (60, tuned)):
        chosen = Calibration(IMAGES, minutes=None, block_steps=steps, network_steps=steps)
        warm_start_(net, network, chosen, input_size=SIZE)
    with torch.no_grad():
        gaps = [(net(IMAGES) - network(IMAGES)).square().sum() for net in (tuned, warm)]
    assert gaps[0] < gaps[1]
