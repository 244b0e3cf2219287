"""What the zoo's networks showed of rebuilding stages, on small blocks of the same form."""

import copy

import pytest
import torch
from torch import Tensor, nn

import ghostify

SIZE = {"input_size": (3, 14, 14)}


class Attention(nn.Module):
    """Attention over windows whose heads are written into the code, as in MaxViT."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.to_qkv, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.randn(9, 4))
        self.register_buffer("index", torch.arange(196 * 196).view(196, 196) % 9)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        n, length, c = tokens.shape
        q, k, v = torch.chunk(self.to_qkv(tokens), 3, dim=-1)
        q, k, v = (t.reshape(n, length, 4, 4).permute(0, 2, 1, 3) for t in (q, k, v))
        bias = self.bias[self.index.view(-1)].view(196, 196, -1).permute(2, 0, 1)[None]
        scores = torch.softmax(q @ k.transpose(-1, -2) + bias, dim=-1)
        out = self.merge((scores @ v).permute(0, 2, 1, 3).reshape(n, length, c))
        return x + out.transpose(1, 2).reshape(n, -1, h, w)


class Gates(nn.Module):
    """A layer that gives two maps and a few gates, as FocalNet's modulation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.f = nn.Conv2d(width, 2 * width + 3, 1)
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, context, gates = torch.split(self.f(x), [self.width, self.width, 3], dim=1)
        weighted = sum(context * gates[:, i : i + 1] for i in range(3))
        return x + self.proj(q * weighted)


class Upsampled(nn.Module):
    """A residual that is computed at half the resolution, as in LowFormer."""

    def __init__(self, width: int, groups: int = 1) -> None:
        super().__init__()
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(x))


class ChannelsLast(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.fc = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc(self.norm(x))


def net(block: nn.Module, width: int = 16) -> nn.Sequential:
    torch.manual_seed(0)
    blocks = nn.Sequential(*(copy.deepcopy(block) for _ in range(4)))
    return nn.Sequential(nn.Conv2d(3, width, 1), blocks, nn.Conv2d(width, 5, 1)).eval()


@pytest.mark.parametrize("kind", [Attention, Gates])
@pytest.mark.parametrize("entry", ["slice", "project"])
def test_where_widths_inside_can_not_shrink_the_thin_blocks_keep_them(
    kind: type[nn.Module], entry: str
) -> None:
    model = net(kind(16))
    plan = ghostify.plan(model, mode="g-ghost", entry=entry, **SIZE)
    assert [(stage.name, stage.thin_inside) for stage in plan.stages] == [("1", False)]
    converted = ghostify.convert(model, plan)
    x = torch.randn(2, 3, 14, 14)
    out = converted(x)
    assert out.shape == model(x).shape
    out.square().mean().backward()
    assert all(torch.isfinite(p.grad).all() for p in converted.parameters() if p.grad is not None)


def test_what_stays_wide_inside_takes_and_gives_thin_maps() -> None:
    converted = ghostify.convert(net(Attention(16)), mode="g-ghost", **SIZE)
    thin = converted.get_submodule("1").thin[0]
    assert (thin.to_qkv.in_features, thin.to_qkv.out_features) == (8, 48)
    assert (thin.merge.in_features, thin.merge.out_features) == (16, 8)


def test_a_plan_with_blocks_that_are_wide_inside_is_kept_as_data() -> None:
    plan = ghostify.plan(net(Gates(16)), mode="g-ghost", **SIZE)
    assert not plan.stages[0].thin_inside
    assert ghostify.Plan.from_dict(plan.to_dict()) == plan


@pytest.mark.parametrize("groups", [1, 16])
def test_a_transposed_convolution_keeps_the_weights_of_the_channels_that_stay(groups: int) -> None:
    model = net(Upsampled(16, groups))
    converted = ghostify.convert(model, mode="g-ghost", **SIZE)
    thin, old = converted.get_submodule("1").thin[0].up, model.get_submodule("1.1.up")
    assert (thin.in_channels, thin.out_channels) == (8, 8)
    expected = old.weight[:8, :8] if groups == 1 else old.weight[:8]
    assert torch.equal(thin.weight, expected)
    assert torch.equal(thin.bias, old.bias[:8])
    x = torch.randn(2, 3, 14, 14)
    assert converted(x).shape == model(x).shape


def test_a_grouped_transposed_convolution_leaves_its_stage() -> None:
    plan = ghostify.plan(net(Upsampled(16, 4)), mode="g-ghost", **SIZE)
    assert [kept.reason for kept in plan.kept_stages] == [
        "a grouped ConvTranspose2d can't be made thinner"
    ]


def test_a_reason_names_the_thin_shapes_instead_of_what_torch_said() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 1)
            self.grid = nn.Parameter(torch.randn(16, 2))

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) + (x.transpose(1, 3) @ self.grid).sum()

    plan = ghostify.plan(net(Odd()), mode="g-ghost", **SIZE)
    assert [kept.reason for kept in plan.kept_stages] == [
        "matmul does not work on thin maps of 1x14x14x8"
    ]


def test_edited_code_reads_the_buffers_of_the_real_block() -> None:
    converted = ghostify.convert(net(Attention(16)), mode="g-ghost", entry="project", **SIZE)
    thin = converted.get_submodule("1").thin[0]
    assert isinstance(thin, torch.fx.GraphModule)
    assert any(node.target == "index" for node in thin.graph.nodes)
    assert torch.equal(thin.index, torch.arange(196 * 196).view(196, 196) % 9)


@pytest.mark.parametrize("entry", ["slice", "project"])
def test_a_tensor_that_a_trace_would_freeze_never_breaks_a_conversion(entry: str) -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(16, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.conv(x) * torch.tensor([0.5])

    model = net(Weighted())
    converted = ghostify.convert(model, mode="g-ghost", entry=entry, **SIZE)
    x = torch.randn(2, 3, 14, 14)
    assert converted(x).shape == model(x).shape


class Narrow(nn.Module):
    """Attention beside convolutions, and a gate of one channel from attention to places."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)
        self.attention = Attention(width)
        self.one, self.qkv = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x + self.down(self.up(x).relu()))
        places = self.one(x.mean(1, keepdim=True)).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(places).unbind(-1)
        gate = (q[:, :, None] * k[:, None]).softmax(-1) @ v[:, :, None]
        return x * gate.transpose(1, 2).reshape(x.shape[0], 1, 14, 14)


def test_only_the_module_whose_widths_can_not_shrink_keeps_them() -> None:
    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 16, 1)
            self.attention = Attention(16)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x + self.down(self.up(x).relu()))

    model = net(Beside())
    plan = ghostify.plan(model, mode="g-ghost", **SIZE)
    (stage,) = plan.stages
    assert (stage.thin_inside, stage.wide) == (True, ("attention",))
    assert ghostify.Plan.from_dict(plan.to_dict()) == plan
    converted = ghostify.convert(model, plan)
    thin = converted.get_submodule("1").thin[0]
    assert (thin.up.out_channels, thin.attention.to_qkv.out_features) == (16, 48)
    assert (thin.attention.to_qkv.in_features, thin.attention.merge.out_features) == (8, 8)
    x = torch.randn(2, 3, 14, 14)
    assert converted(x).shape == model(x).shape


def test_a_layer_whose_channels_are_taken_apart_keeps_them() -> None:
    model = net(Narrow(16))
    (stage,) = ghostify.plan(model, mode="g-ghost", **SIZE).stages
    assert not stage.thin_inside
    converted = ghostify.convert(model, mode="g-ghost", **SIZE)
    assert converted.get_submodule("1").thin[0].qkv.out_features == 3
    x = torch.randn(2, 3, 14, 14)
    assert converted(x).shape == model(x).shape
