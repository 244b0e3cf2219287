"""Stages of networks for signals ``(N, C, L)`` and volumes ``(N, C, D, H, W)``."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ghostify
from ghostify.nn import GGhostStage, Mix
from ghostify.nn.filters import CONVS, NORMS
from ghostify.nn.g_ghost import cheap_operation

SIZES = {1: (3, 24), 3: (3, 6, 6, 6)}


class Block(nn.Module):
    """A residual block; with a stride or another width it projects its shortcut."""

    def __init__(self, dims: int, arriving: int, leaving: int, stride: int = 1) -> None:
        super().__init__()
        conv, norm = CONVS[dims], NORMS[dims]
        self.conv1 = conv(arriving, leaving, 3, stride, 1, bias=False)
        self.bn1 = norm(leaving)
        self.conv2 = conv(leaving, leaving, 3, 1, 1, bias=False)
        self.bn2 = norm(leaving)
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(conv(arriving, leaving, 1, stride), norm(leaving))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (out + self.shortcut(x)).relu()


class Net(nn.Module):
    """A stem, two stages and a head."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.stem = CONVS[dims](3, 12, 3, padding=1)
        self.one = nn.Sequential(*(Block(dims, 12, 12) for _ in range(4)))
        self.two = nn.Sequential(
            Block(dims, 12, 20, 2), Block(dims, 20, 20), Block(dims, 20, 20), Block(dims, 20, 20)
        )
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(self.stem(x))).flatten(2).mean(2))


def net(dims: int) -> Net:
    """A network whose norms have seen data."""
    torch.manual_seed(0)
    model = Net(dims)
    for _ in range(20):
        model(torch.randn(16, *SIZES[dims]))
    return model.eval()


OPTIONS = [
    {}, {"cheap": 3, "mix": "mlp"}, {"entry": "project", "mix_from": "thin"}, {"tail": "thin"},
    {"cheap": "none"}, {"cheap": "identity"},
]  # fmt: skip


@pytest.mark.parametrize("dims", SIZES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_stages_of_signals_and_volumes_are_rebuilt(dims, options, tmp_path: Path) -> None:
    model, x = net(dims), torch.randn(2, *SIZES[dims])
    plan = ghostify.plan(model, mode="g-ghost", example_inputs=(x,), **options)
    assert {stage.name for stage in plan.stages} == {"one", "two"}
    assert ghostify.Plan.from_dict(plan.to_dict()) == plan
    converted = ghostify.convert(model, plan).eval()
    before, after = (ghostify.count(m, (x,)).total.macs for m in (model, converted))
    assert converted(x).shape == (2, 5) and after < before
    ghostify.save(converted, tmp_path / "saved")
    assert torch.equal(ghostify.load(tmp_path / "saved", model=net(dims))(x), converted(x))
    assert torch.allclose(ghostify.fuse(converted)(x), converted(x), atol=1e-4)


@pytest.mark.parametrize("dims", SIZES)
@pytest.mark.parametrize("options", OPTIONS[:4], ids=str)
def test_a_warm_start_of_such_stages_keeps_more(dims, options) -> None:
    model, data = net(dims), torch.randn(48, *SIZES[dims])
    fresh = torch.randn(64, *SIZES[dims], generator=torch.Generator().manual_seed(7))
    asked = {"mode": "g-ghost", "example_inputs": (data[:1],), **options}
    cold = ghostify.convert(model, **asked)
    warm = ghostify.convert(model, **asked, calibration=data)
    with torch.no_grad():
        lost = [float((m.eval()(fresh) - model(fresh)).square().mean()) for m in (warm, cold)]
    assert lost[0] < 0.6 * lost[1]


@pytest.mark.parametrize("dims", SIZES)
def test_a_stage_computes_what_the_one_for_images_does(dims: int) -> None:
    """The same weights, further dimensions of one pixel."""
    torch.manual_seed(0)

    def stage(dims: int) -> GGhostStage:
        convs = (CONVS[dims](c, c, 1) for c in (8, 4, 8))
        first, thin, last = convs
        like = torch.empty(0)
        cheap, mix = cheap_operation(4, 4, 1, like, dims), Mix(12, 4, "mlp", dims=dims)
        return GGhostStage(
            first, [thin], cheap, mix, last, channels=8, complicated=4, ghost_act=True
        ).eval()

    own, images = stage(dims), stage(2)
    for parameter in own.parameters():
        nn.init.normal_(parameter)
    state = own.state_dict()
    images.load_state_dict(
        {k: state[k].reshape(v.shape) for k, v in copy.deepcopy(images).state_dict().items()}
    )
    x = torch.randn(2, 8, *SIZES[dims][1:])
    for order in (None, torch.tensor([7, 2, 0, 5, 1, 3, 4, 6])):
        own.set_order(order), images.set_order(order)
        wanted = images(x.flatten(2).unsqueeze(-1)).view(x.shape)
        assert torch.allclose(own(x), wanted, atol=1e-5)


class Attention(nn.Module):
    """A block of a transformer: tokens ``(N, T, C)``, which no convolution sees."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(self.norm(x)).relu())


def test_blocks_of_tokens_are_no_stage_and_the_plan_says_why() -> None:
    patches = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.Flatten(2))
    blocks = nn.Sequential(*(Attention() for _ in range(4)))

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.blocks = patches, blocks

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(self.patches(x).transpose(1, 2)).mean(1)

    plan = ghostify.plan(Tokens().eval(), mode="g-ghost", input_size=(3, 16, 16))
    assert not plan.stages
    found = ghostify.find_stages(Tokens().eval(), input_size=(3, 16, 16))
    assert "tensors of 3 dimensions" in str(found)
