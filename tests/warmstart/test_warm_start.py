"""The warm start as a whole: what it keeps of a network, what it leaves alone."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ghostify
from ghostify.nn.ghost import GhostConv2d
from ghostify.settings import DATA_FREE


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def disguised(n: int = 8, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    """A plain 3x3 convolution half of whose filters are multiples of the others, shuffled."""
    conv = nn.Conv2d(4, n, 3, padding=1, groups=groups, bias=bias)
    own = n // groups // 2
    with torch.no_grad():
        for g in range(groups):
            base = noise(own, 4 // groups, 3, 3, seed=g)
            scales = torch.linspace(-2, 3, own).view(-1, 1, 1, 1)
            filters = torch.cat([base, scales * base])
            mixed = torch.randperm(2 * own, generator=torch.Generator().manual_seed(g))
            conv.weight[g * 2 * own : (g + 1) * 2 * own] = filters[mixed]
        if conv.bias is not None:
            conv.bias.copy_(noise(n, seed=9))
    return conv


def outputs_are_close(one: nn.Module, other: nn.Module, x: Tensor, tolerance: float) -> bool:
    with torch.no_grad():
        a, b = one.eval()(x), other.eval()(x)
    return bool((a - b).abs().max() < tolerance * b.abs().max())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("calibration", ["images", DATA_FREE])
def test_a_ghost_module_in_disguise_is_found_out(groups: int, calibration: str) -> None:
    network = nn.Sequential(disguised(8, groups), nn.BatchNorm2d(8), nn.ReLU())
    x = noise(64, 4, 9, 9)
    given: Any = x if calibration == "images" else DATA_FREE
    found = ghostify.convert(network, d=1, input_size=(4, 9, 9), calibration=given)
    assert isinstance(found[0], GhostConv2d)
    assert found[0].order is not None
    assert outputs_are_close(found, network, noise(4, 4, 9, 9, seed=5), 2e-3)


def test_biases_come_along() -> None:
    network = nn.Sequential(disguised(8, bias=True), nn.ReLU())
    found = ghostify.convert(network, d=1, input_size=(4, 9, 9), calibration=noise(64, 4, 9, 9))
    assert outputs_are_close(found, network, noise(4, 4, 9, 9, seed=5), 2e-3)


def test_blurred_copies_are_explained_by_a_three_by_three_cheap_operation() -> None:
    # Two convolutions in a row are one with larger kernels: 5x5 filters that hold 3x3 blurs.
    base, blur = noise(3, 4, 3, 3), noise(3, 1, 3, 3, seed=1)
    conv = nn.Conv2d(4, 6, 5, padding=2, bias=False)
    with torch.no_grad():
        conv.weight[0::2] = nn.functional.pad(base, (1, 1, 1, 1))
        for i in range(3):
            turned = blur[i].flip(-1, -2).expand(4, 1, 3, 3)
            filters = nn.functional.conv2d(base[i : i + 1], turned, padding=2, groups=4)
            conv.weight[2 * i + 1] = filters[0]
    network = nn.Sequential(conv)
    found = ghostify.convert(network, input_size=(4, 20, 20), calibration=noise(32, 4, 20, 20))
    errors = [row.error for row in ghostify.report(found).replaced]
    # What is left comes of the border, where the cheap operation sees zeros.
    assert errors[0] is not None
    assert errors[0] < 0.1


class Net(nn.Module):
    """A stem, a residual block with a shortcut of its own, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv1, self.bn1 = nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.short, self.bn3 = nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.stem(x)).relu()
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return self.head((y + self.bn3(self.short(x))).relu().mean((2, 3)))


class Untraceable(nn.Module):
    """What it does depends on its data, which no trace can tell."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) if x.sum() < 1e9 else self.body(2 * x)


@pytest.fixture
def network() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net()
        with torch.no_grad():
            net.train()
            for _ in range(20):
                net(torch.randn(32, 3, 12, 12))
    return net.eval()


IMAGES = noise(64, 3, 12, 12)


def gap(one: nn.Module, other: nn.Module) -> float:
    x = noise(64, 3, 12, 12, seed=7)
    with torch.no_grad():
        a, b = one.eval()(x), other.eval()(x)
    return float((a - b).square().sum() / (b - b.mean(0)).square().sum())


def test_each_step_comes_closer_to_the_original(network: Net) -> None:
    images = noise(256, 3, 12, 12, seed=1)
    plain = ghostify.convert(network, input_size=(3, 12, 12))
    warm = ghostify.convert(network, input_size=(3, 12, 12), calibration=images)
    tuned = ghostify.convert(
        network, input_size=(3, 12, 12), calibration=images, reconstruct_minutes=0.1
    )
    assert gap(tuned, network) < gap(warm, network) < gap(plain, network)


def test_layers_of_a_network_that_does_not_trace_are_fitted_too(network: Net) -> None:
    stubborn = Untraceable(network).eval()
    made = [
        ghostify.convert(net, input_size=(3, 12, 12), calibration=IMAGES)
        for net in (network, stubborn)
    ]
    plain, stubborn_errors = (
        {row.name.removeprefix("body."): row.error for row in ghostify.report(net).replaced}
        for net in made
    )
    for name in ("stem", "conv1"):
        assert stubborn_errors[name] == pytest.approx(plain[name], rel=1e-3)


def test_the_same_seed_gives_the_same_network_bit_for_bit(network: Net) -> None:
    def state() -> dict[str, Tensor]:
        from ghostify.settings import Calibration
        from ghostify.warmstart import warm_start_

        made = ghostify.convert(network, input_size=(3, 12, 12))
        chosen = Calibration(IMAGES, 32, seed=4, minutes=None, block_steps=5, network_steps=5)
        warm_start_(made, network, chosen, input_size=(3, 12, 12))
        return made.state_dict()

    one, other = state(), state()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_callers_network_and_random_state_stay_as_they_are(network: Net) -> None:
    network.train()
    before, drawn = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    made = ghostify.convert(network, input_size=(3, 12, 12), calibration=IMAGES)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert torch.equal(drawn, torch.get_rng_state())
    assert network.training
    assert made.training


def test_in_place_gives_the_same_as_on_a_copy(network: Net) -> None:
    options: dict[str, Any] = {"input_size": (3, 12, 12), "calibration": IMAGES}
    copied = ghostify.convert(network, **options)
    ghostify.convert_(network, **options)
    assert gap(network, copied) == 0


def test_saved_and_loaded_the_order_of_outputs_is_the_same(network: Net, tmp_path: Path) -> None:
    warm = ghostify.convert(network, input_size=(3, 12, 12), calibration=IMAGES)
    ghostify.save(warm, tmp_path / "out")
    loaded = ghostify.load(tmp_path / "out", network)
    assert torch.equal(loaded(IMAGES), warm(IMAGES))


def test_a_state_dict_brings_its_order_along(network: Net) -> None:
    warm = ghostify.convert(network, input_size=(3, 12, 12), calibration=IMAGES)
    plain = ghostify.convert(network, input_size=(3, 12, 12))
    plain.load_state_dict(warm.state_dict())
    assert torch.equal(plain(IMAGES), warm(IMAGES))


def test_the_report_shows_each_layers_error_and_warns(network: Net) -> None:
    report = ghostify.report(
        ghostify.convert(network, s=4, input_size=(3, 12, 12), calibration=IMAGES)
    )
    errors = [row.error for row in report.replaced]
    assert all(error is not None and 0 <= error < 1.5 for error in errors)
    assert any("64 images, no labels" in note for note in report.notes)
    worst = max(report.replaced, key=lambda row: row.error or 0)
    assert any(worst.name in note and "keep them" in note for note in report.notes)
    assert "error" in report.to_markdown()


def test_data_free_says_so(network: Net) -> None:
    made = ghostify.convert(network, input_size=(3, 12, 12), calibration=DATA_FREE)
    assert any("data-free" in note for note in ghostify.report(made).notes)


def test_an_interrupt_keeps_what_is_done_and_says_so(network: Net) -> None:
    def stop(said: str) -> None:
        if said == "fitted stem":
            raise KeyboardInterrupt

    made = ghostify.convert(network, input_size=(3, 12, 12), calibration=IMAGES, progress=stop)
    assert any("interrupted: 1 of 3 layers" in note for note in ghostify.report(made).notes)
    assert torch.isfinite(made(IMAGES)).all()


@pytest.mark.parametrize(
    "options",
    [
        {"calibration": IMAGES, "calibration_samples": 0},
        {"calibration": IMAGES, "reconstruct_minutes": -1},
        {"calibration_samples": 4},
    ],
)
def test_options_that_make_no_sense_are_refused(network: Net, options: dict[str, Any]) -> None:
    with pytest.raises(ghostify.GhostifyError, match=r"calibration|reconstruct_minutes"):
        ghostify.convert(network, input_size=(3, 12, 12), **options)


@pytest.mark.slow
def test_a_trained_network_keeps_most_of_what_it_learned(
    data_dir: Path, cifar_test: tuple[Tensor, Tensor], accuracy: Callable[[nn.Module], float]
) -> None:
    trained = ghostify.build("resnet20-cifar", weights=data_dir / "resnet20-cifar10.safetensors")
    images = cifar_test[0][::4]
    warm = ghostify.convert(trained, calibration=images, calibration_samples=250)
    assert accuracy(warm) > accuracy(ghostify.convert(trained)) + 0.4


def test_errors_and_notes_go_along_with_a_saved_network(network: Net, tmp_path: Path) -> None:
    made = ghostify.convert(network, input_size=(3, 16, 16), calibration=noise(16, 3, 16, 16))
    loaded = ghostify.load(ghostify.save(made, tmp_path / "out"), network)
    told, again = ghostify.report(made), ghostify.report(loaded)
    for row, other in zip(told.rows, again.rows, strict=True):
        assert row.error == pytest.approx(other.error, abs=1e-5)
    assert any(row.error is not None for row in again.rows)
    assert any("warm start from 16 images" in note for note in again.notes)


def test_a_layer_that_was_left_makes_up_for_ghosts_before_it() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 8, 3, padding=1),
    ).eval()  # fmt: skip
    x = noise(64, 3, 12, 12)
    found = ghostify.convert(network, keep=["0", "4"], input_size=(3, 12, 12), calibration=x)
    assert torch.equal(found[0].weight, network[0].weight)  # nothing before it has changed
    assert type(found[4]) is nn.Conv2d
    as_it_was = copy.deepcopy(found)
    as_it_was[4].load_state_dict(network[4].state_dict())
    new = noise(16, 3, 12, 12, seed=5)
    with torch.no_grad():
        wanted = network(new)
        errors = [float((net(new) - wanted).square().mean()) for net in (found, as_it_was)]
    assert errors[0] < 0.8 * errors[1]


def test_a_weight_that_two_layers_share_is_not_refitted() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(),
                            nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))  # fmt: skip
    network[4].weight = network[2].weight
    found = ghostify.convert(
        network.eval(), input_size=(3, 12, 12), calibration=noise(16, 3, 12, 12)
    )
    assert isinstance(found[0], GhostConv2d)
    assert torch.equal(found[2].weight, network[2].weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("mode", ["c-ghost", "g-ghost"])
def test_networks_of_other_types_are_fitted_in_their_own(mode: str, dtype: torch.dtype) -> None:
    network = ghostify.build("resnet20-cifar").to(dtype)
    found = ghostify.convert(network, mode=mode, calibration=noise(8, 3, 32, 32))
    assert {p.dtype for p in found.parameters()} == {dtype}
    assert torch.isfinite(found.eval()(noise(2, 3, 32, 32).to(dtype))).all()


@pytest.mark.parametrize("calibration", ["images", DATA_FREE])
def test_a_weight_that_a_hook_computed_is_no_hindrance(calibration: str) -> None:
    # Once it has run, its weight is no leaf, and PyTorch's own deepcopy refuses the network.
    normed = torch.nn.utils.weight_norm(nn.Conv2d(8, 8, 3, padding=1))
    network = nn.Sequential(disguised(8), normed)
    x = noise(16, 4, 9, 9)
    network(x)
    given: Any = x if calibration == "images" else DATA_FREE
    for convert in (ghostify.convert, ghostify.convert_):
        found = convert(network, input_size=(4, 9, 9), calibration=given)
        assert isinstance(found[0], GhostConv2d) and torch.isfinite(found(x)).all()
