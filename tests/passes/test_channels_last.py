"""Stages whose maps have the channels last, ``(N, H, W, C)``."""

import copy

import pytest
import torch
from torch import Tensor, nn

import ghostify
from ghostify.nn import GGhostStage
from ghostify.thinning.channel_propagation import Maps, Wanted, propagate_channels
from ghostify.thinning.slicers import Widths
from ghostify.thinning.thin import build_thin

SIZE = {"input_size": (3, 12, 12)}


class Tokens(nn.Module):
    """LayerNorm and two linear layers, on channels last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


class Mixed(nn.Module):
    """A depth-wise convolution between permutations, as MambaOut and TinyViT have it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.inner = Tokens(width)

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        y = self.conv(x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        return self.inner(y).view(n, h, w, c)


class Inverted(nn.Module):
    """ConvNeXt's block: channels last inside alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return x + self.down(self.up(y).relu()).permute(0, 3, 1, 2)


class Net(nn.Module):
    """Channels last from the stem to the head."""

    def __init__(self, block: nn.Module, blocks: int = 4, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(copy.deepcopy(block) for _ in range(blocks)))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x).permute(0, 2, 3, 1)).mean((1, 2)))


def net(kind: type[nn.Module], **options: int) -> Net:
    torch.manual_seed(0)
    return Net(kind(16), **options).eval()


@pytest.mark.parametrize(
    ("kind", "entry"), [(Tokens, "slice"), (Tokens, "project"), (Mixed, "slice")]
)
@pytest.mark.parametrize("tail", ["full", "thin"])
def test_a_stage_with_channels_last_is_rebuilt_in_its_layout(
    kind: type[nn.Module], entry: str, tail: str
) -> None:
    model = net(kind)
    plan = ghostify.plan(model, mode="g-ghost", entry=entry, tail=tail, **SIZE)
    (stage,) = plan.stages
    assert (stage.channels_last, stage.channels, stage.complicated) == (True, 16, 8)
    assert stage.out_shape == (1, 12, 12, 16)
    assert ghostify.Plan.from_dict(plan.to_dict()) == plan
    converted = ghostify.convert(model, plan)
    x = torch.randn(2, 3, 12, 9)
    out = converted(x)
    assert out.shape == model(x).shape
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in converted.parameters())
    before, after = (ghostify.count(m, **SIZE).total.macs for m in (model, converted))
    assert after < before


def test_a_stage_with_channels_last_computes_what_one_with_channels_first_does() -> None:
    """The same weights: linear layers are 1x1 convolutions, and the layout is a matter of views."""
    torch.manual_seed(0)
    linear = [nn.Linear(c, c) for c in (8, 4, 8)]
    convs = [nn.Conv2d(c, c, 1) for c in (8, 4, 8)]
    for a, b in zip(linear, convs, strict=True):
        b.weight.data, b.bias.data = a.weight.data[:, :, None, None], a.bias.data
    parts = {"channels": 8, "complicated": 4, "ghost_act": True}
    cheap = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1))
    mix = ghostify.nn.Mix(12, 4)
    nn.init.normal_(mix.fc.weight)
    last, first = (
        GGhostStage(b[0], [b[1]], cheap, mix, b[2], channels_last=is_last, **parts)
        for b, is_last in ((linear, True), (convs, False))
    )
    x = torch.randn(2, 8, 5, 6)
    for order in (None, torch.tensor([7, 2, 0, 5, 1, 3, 4, 6])):
        last.set_order(order), first.set_order(order)
        assert torch.allclose(last(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), first(x), atol=1e-6)


@pytest.mark.parametrize(("kind", "dim"), [(Tokens, 3), (Mixed, 3), (Inverted, 1)])
def test_chosen_channels_are_followed_through_every_layout(kind: type[nn.Module], dim: int) -> None:
    """A block whose other channels do nothing gives on the chosen ones what the whole one does."""
    block = kind(8).eval()
    chosen, others = torch.tensor([1, 2, 6, 7]), torch.tensor([0, 3, 4, 5])
    body = block.inner if isinstance(block, Mixed) else block
    # A LayerNorm mixes all channels.
    body.norm = PerChannel(8)
    nn.init.normal_(body.norm.weight)
    with torch.no_grad():
        body.up.weight[:, others] = 0
        body.up.weight[8:] = 0
        body.up.bias[8:] = 0
    x = torch.randn(2, 5, 5, 8) if dim == 3 else torch.randn(2, 8, 5, 5)
    given = Maps(x.to("meta"), chosen, dim)
    meta = copy.deepcopy(block).to("meta")
    recipe = propagate_channels(meta, given, Widths(8, 4), wanted=Wanted(chosen))
    assert torch.equal(recipe.out_ids, chosen)
    thin = build_thin(block, recipe)
    assert torch.allclose(
        thin(x.index_select(dim, chosen)), block(x).index_select(dim, chosen), atol=1e-6
    )


class PerChannel(nn.LayerNorm):
    """The scale and shift of a LayerNorm without its mean: each channel by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


def test_a_saved_network_with_channels_last_loads_with_equal_outputs(tmp_path) -> None:
    converted = ghostify.convert(net(Mixed), mode="g-ghost", **SIZE)
    ghostify.save(converted, tmp_path / "out")
    loaded = ghostify.load(tmp_path / "out", model=net(Mixed))
    x = torch.randn(1, 3, 12, 12)
    assert torch.equal(loaded(x), converted(x))


def test_a_plan_from_before_has_its_channels_first() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 1), *(Inverted(16) for _ in range(3)))
    plan = ghostify.plan(model, mode="g-ghost", **SIZE)
    data = plan.to_dict()
    for row in data["stages"]:
        assert row.pop("channels_last") is False
    assert ghostify.Plan.from_dict(data) == plan


def test_a_plan_whose_channels_are_in_another_dimension_is_refused() -> None:
    data = ghostify.plan(net(Tokens), mode="g-ghost", **SIZE).to_dict()
    data["stages"][0]["channels_last"] = False
    with pytest.raises(ghostify.GhostifyError, match="no 16 channels"):
        ghostify.Plan.from_dict(data)
