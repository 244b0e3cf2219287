"""Networks that do what no fit was made for: a conversion with images ends, and says what it left.

The second argument of each is what `ghostify.convert` is asked beside the images.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghostify
from ghostify.errors import GhostifyWarning, ModelError
from ghostify.nn import GhostLinear
from ghostify.warmstart import warm_start_

IMAGES = torch.randn(32, 3, 10, 10, generator=torch.Generator().manual_seed(0))


class Two(nn.Module):
    """Two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3)


class Clips(nn.Module):
    """A network for each frame, a recurrent one over them."""

    def __init__(self) -> None:
        super().__init__()
        self.frame = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.over, self.head = nn.GRU(32, 16, batch_first=True), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, t = x.shape[:2]
        return self.head(self.over(self.frame(x.flatten(0, 1)).view(n, t, -1))[0][:, -1])


class Spread(nn.Module):
    """A convolution of a parameter, added to every image's maps."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.randn(1, 16, 10, 10))
        self.a, self.b = (nn.Conv2d(c, 16, 3, padding=1) for c in (3, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(self.p)


class Experts(nn.Module):
    """Each image's maps go to one of two experts."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.gate = nn.Conv2d(3, 16, 3), nn.Linear(16, 2)
        self.experts = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        chosen = self.gate(50 * x.mean((2, 3))).argmax(1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            if (chosen == number).any():
                out[chosen == number] = expert(x[chosen == number])
        return out


class OneByOne(Two):
    """Images without a dimension for the samples."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.b(self.a(image).relu()).mean((1, 2)) for image in x])


class Mapped(Two):
    """The same by vmap."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.func.vmap(lambda image: self.b(self.a(image).relu()).mean((1, 2)))(x)


class FrozenStem(Two):
    """No gradient goes through its first layer."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.a(x).relu()
        return self.b(x)


class Spectrum(Two):
    """Its output is complex."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft2(self.b(self.a(x).relu()))


class InPlace(Two):
    """Changes what a gradient would need."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).sigmoid()
        z = self.b(y * y)
        y.mul_(0.5)
        return z.mean((2, 3)) + y.mean()


class Energy(Two):
    """Its output is a gradient."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            return torch.autograd.grad(self.b(F.softplus(self.a(x))).sum(), x)[0]


def scripted() -> nn.Module:
    inner = torch.jit.script(nn.Conv2d(16, 16, 3))
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), inner, nn.ReLU(), nn.Conv2d(16, 32, 3))


def distance(one: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        gap = one(x) - other(x)
    return float(gap.abs().square().sum())


@pytest.mark.parametrize("kind", [
    Clips, Spread, Experts, OneByOne, Mapped, FrozenStem, Spectrum, InPlace, Energy, scripted,
])  # fmt: skip
@pytest.mark.parametrize("options", [{"s": 2}, {"target_macs": 0.95}], ids=str)
@pytest.mark.filterwarnings("ignore::ghostify.errors.GhostifyWarning")
@pytest.mark.usefixtures("lenient_fits")
def test_a_conversion_with_images_ends_and_is_no_worse(kind, options) -> None:
    torch.manual_seed(0)
    network = kind().eval()
    images = torch.randn(32, 3, 3, 8, 8) if kind is Clips else IMAGES
    before = {name: value.clone() for name, value in network.state_dict().items()}
    converted = ghostify.convert(network, **options, calibration=images)
    assert converted(images[:2]).shape == network(images[:2]).shape
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    plan = ghostify.report(converted)
    assert plan.after.macs is None or plan.after.macs < plan.before.macs
    cold = ghostify.convert(network, s=2, example_inputs=images[:2])
    if options == {"s": 2}:
        assert distance(converted, network, images) <= 1.3 * distance(cold, network, images)


def test_recurrent_networks_over_frames_are_fitted_whole() -> None:
    torch.manual_seed(0)
    network, clips = Clips().eval(), torch.randn(32, 3, 3, 8, 8)
    warm = ghostify.convert(network, s=2, calibration=clips)
    cold = ghostify.convert(network, s=2, example_inputs=clips[:2])
    assert distance(warm, network, clips) < 0.2 * distance(cold, network, clips)
    assert not any("not fitted" in note for note in ghostify.report(warm).notes)


def test_a_layer_of_what_samples_share_is_fitted_beside_one_of_each_sample() -> None:
    torch.manual_seed(0)
    network = Spread().eval()
    notes = ghostify.report(ghostify.convert(network, s=2, calibration=IMAGES)).notes
    assert any("2 layers" in note for note in notes) and not any("not fitted" in n for n in notes)


@pytest.mark.usefixtures("lenient_fits")
def test_what_can_not_be_fitted_is_named_with_the_reason() -> None:
    torch.manual_seed(0)
    notes = ghostify.report(ghostify.convert(Mapped().eval(), s=2, calibration=IMAGES)).notes
    said = next(note for note in notes if note.startswith("not fitted"))
    assert "because their fit fails (" in said and said.endswith(": a, b (2 in all)")


@pytest.mark.usefixtures("lenient_fits")
def test_layers_are_judged_by_their_own_errors_where_no_gradient_comes() -> None:
    with pytest.warns(GhostifyWarning, match="judged by each layer's own errors"):
        ghostify.convert(FrozenStem().eval(), target_macs=0.8, calibration=IMAGES)


@pytest.mark.parametrize("context", [
    lambda: torch.autocast("cpu", torch.bfloat16), torch.inference_mode, torch.no_grad,
])  # fmt: skip
def test_a_callers_contexts_change_nothing(context) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(),
    ).eval()  # fmt: skip
    wanted = ghostify.convert(network, s=2, calibration=IMAGES)
    with context():
        found = ghostify.convert(network, s=2, calibration=IMAGES)
        fused = ghostify.fuse(found)
    assert torch.equal(found(IMAGES), wanted(IMAGES))
    assert torch.allclose(fused(IMAGES), found(IMAGES), atol=1e-4)
    found.train()(IMAGES).sum().backward()


@pytest.mark.parametrize("make, words", [
    (lambda: nn.Sequential(nn.LazyConv2d(16, 3), nn.LazyConv2d(32, 3)), "has no shape yet"),
    (lambda: Two().to("meta"), "meta device"),
])  # fmt: skip
def test_a_network_without_weights_is_refused_in_a_sentence(make, words: str) -> None:
    network = make()
    if isinstance(network, Two):
        network = nn.Sequential(network.a, network.b)
    with pytest.raises(ModelError, match=words):
        ghostify.convert(network, s=2, calibration=IMAGES)


def test_a_single_convolution_is_fitted() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 64, 3)
    warm = ghostify.convert(conv, s=2, calibration=IMAGES)
    cold = ghostify.convert(conv, s=2, example_inputs=IMAGES[:2])
    assert distance(warm, conv, IMAGES) < 0.9 * distance(cold, conv, IMAGES)
    assert "error" in str(ghostify.report(warm))


class Branches(nn.Module):
    """A block whose output joins two layers', as Inception's and ShuffleNet's do."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = nn.Conv2d(32, 16, 1), nn.Conv2d(32, 16, 3, padding=1)
        self.b = nn.Conv2d(32, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.a(x), self.c(self.b(x).relu())], 1).relu()


@pytest.mark.parametrize("mode", ["g-ghost", "cg-ghost"])
def test_stages_of_blocks_that_join_branches_are_fitted(mode: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 32, 3), *(Branches() for _ in range(4))).eval()
    warm = ghostify.convert(network, mode=mode, ratio=0.5, calibration=IMAGES)
    cold = ghostify.convert(network, mode=mode, ratio=0.5, example_inputs=IMAGES[:2])
    assert distance(warm, network, IMAGES) < 0.6 * distance(cold, network, IMAGES)


class Tokens(nn.Module):
    """Linear layers on every place of the maps, and one on what is left of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.wide, self.narrow = nn.Linear(16, 48), nn.Linear(48, 16, bias=False)
        self.out = nn.Linear(16, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).movedim(1, -1)
        x = x + self.narrow(self.wide(x).relu())
        return self.out(x.mean((1, 2)))


class Halved(nn.Linear):
    """A linear layer whose weight is no filter."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


def pooled(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), *layers
    )


WITH_LINEAR = (
    pooled(nn.Linear(64, 32), nn.Linear(32, 18)),
    pooled(Halved(64, 32), nn.Linear(32, 18)),
    pooled(nn.Linear(64, 31, bias=False), nn.BatchNorm1d(31), nn.ReLU(), nn.Linear(31, 18)),
    Tokens(),
)


@pytest.mark.parametrize("network", WITH_LINEAR)
@pytest.mark.parametrize("images", [IMAGES, "data-free"])
def test_ghosts_of_linear_layers_are_fitted(network: nn.Module, images: Any) -> None:
    convs = [name for name, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    cold = ghostify.convert(network.eval(), s=2, linear=True, keep=convs, example_inputs=IMAGES[:2])
    warm = copy.deepcopy(cold)
    fits = warm_start_(warm, network, ghostify.Calibration(images)).layers
    linear = {name for name, m in warm.named_modules() if isinstance(m, GhostLinear)}
    assert linear and {fit.name for fit in fits} == linear
    if images is IMAGES:
        assert distance(warm, network, IMAGES) < 0.5 * distance(cold, network, IMAGES)


def test_a_linear_layer_of_ghosts_that_are_multiples_is_found_again() -> None:
    own = nn.Linear(20, 12)
    with torch.no_grad():  # rows 1, 3, 5, ... are multiples of others, in a drawn order
        mixed = torch.randperm(12, generator=torch.Generator().manual_seed(1))
        own.weight[mixed[1::2]] = 3 * own.weight[mixed[::2]]
    network = nn.Sequential(own)
    made = ghostify.convert(network, s=2, linear=True, example_inputs=torch.randn(4, 20))
    x = torch.randn(256, 20)
    warm_start_(made, network, ghostify.Calibration(x))
    assert torch.allclose(made(x), network(x), atol=1e-3)
