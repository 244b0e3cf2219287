"""Stages within one block: runs of bottlenecks whose every output goes into a concat (C2f)."""

import pytest
import torch
from torch import Tensor, nn

import ghostify
from ghostify import GGhostStage

SIZE = {"input_size": (3, 12, 12)}


class Bottleneck(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1 = nn.Conv2d(width, width, 3, padding=1)
        self.cv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x).relu())


class C2f(nn.Module):
    """A chunk, bottlenecks one after the other, and a concat of all that they give."""

    def __init__(self, width: int, bottlenecks: int) -> None:
        super().__init__()
        self.cv1 = nn.Conv2d(width, width, 1)
        self.m = nn.ModuleList(Bottleneck(width // 2) for _ in range(bottlenecks))
        self.cv2 = nn.Conv2d((2 + bottlenecks) * width // 2, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class C3(nn.Module):
    """A run of bottlenecks in one of two branches (CSP)."""

    def __init__(self, width: int, bottlenecks: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = (nn.Conv2d(width, width // 2, 1) for _ in range(2))
        self.m = nn.Sequential(*(Bottleneck(width // 2) for _ in range(bottlenecks)))
        self.cv3 = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))


def net(block: nn.Module, width: int = 16) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), block, nn.Conv2d(width, 5, 1)).eval()


def stages(model: nn.Module, **options: int) -> dict[str, int]:
    table = ghostify.find_stages(model, **SIZE, **options)
    return {stage.name: len(stage.blocks) for stage in table.stages}


@pytest.mark.parametrize("bottlenecks", [2, 3, 4])
def test_each_bottleneck_but_the_last_of_a_c2f_becomes_a_stage(bottlenecks: int) -> None:
    torch.manual_seed(0)
    model = net(C2f(16, bottlenecks))
    wanted = {f"1.m.{index}": 1 for index in range(bottlenecks - 1)}
    assert stages(model) == wanted
    converted = ghostify.convert(model, mode="g-ghost", **SIZE)
    inner = converted.get_submodule("1.m")
    assert [isinstance(m, GGhostStage) for m in inner] == [True] * (bottlenecks - 1) + [False]
    x = torch.randn(2, 3, 12, 12)
    out = converted(x)
    assert out.shape == model(x).shape
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in converted.parameters())
    before, after = (ghostify.count(m, **SIZE).total.macs for m in (model, converted))
    assert after < before


def test_every_output_of_a_c2f_stays_one_of_its_own() -> None:
    """What goes into the concat is what each bottleneck gave, in its complicated channels exactly.

    With untouched thin weights of bottlenecks that read and write the first channels alone.
    """
    torch.manual_seed(0)
    block = C2f(16, 3)
    for m in block.m:
        with torch.no_grad():
            for conv in (m.cv1, m.cv2):
                conv.weight[4:] = 0
                conv.weight[:, 4:] = 0
                conv.bias[4:] = 0
    model = net(block)
    converted = ghostify.convert(model, mode="g-ghost", **SIZE)
    x = torch.randn(2, 3, 12, 12)
    assert torch.allclose(converted(x), model(x), atol=1e-4)


def test_a_short_run_in_a_branch_of_a_block_begins_with_what_enters_it() -> None:
    assert stages(net(C3(16, 2))) == {"1.m.0": 1}
    assert stages(net(C3(16, 3))) == {"1.m": 3}
    assert stages(net(C3(16, 1))) == {}
    assert stages(net(C3(16, 2)), min_blocks=4) == {}


def test_a_plan_with_stages_from_their_input_is_kept_as_data_and_saved(tmp_path) -> None:
    torch.manual_seed(0)
    model = net(C2f(16, 3))
    plan = ghostify.plan(model, mode="g-ghost", **SIZE)
    assert all(stage.from_input for stage in plan.stages)
    assert ghostify.Plan.from_dict(plan.to_dict()) == plan
    converted = ghostify.convert(model, plan)
    ghostify.save(converted, tmp_path / "out")
    x = torch.randn(1, 3, 12, 12)
    assert torch.equal(ghostify.load(tmp_path / "out", net(C2f(16, 3)))(x), converted(x))


def test_the_report_tells_what_the_equations_promise_of_a_stage_from_its_input() -> None:
    report = ghostify.report(ghostify.convert(net(C2f(16, 2)), mode="g-ghost", mix="none", **SIZE))
    (row,) = [row for row in report.stages if row.blocks]
    assert row.blocks == 1
    # Of the one block (1 - lambda) of the MACs by Eq. 13, a quarter in fact, and the cheap part.
    assert 1.5 < row.eq13 < 2 < row.before.macs / row.after.macs


def test_stages_inside_a_block_are_warm_started() -> None:
    torch.manual_seed(0)
    model = net(C2f(16, 3))
    images = torch.randn(32, 3, 12, 12)
    plain = ghostify.convert(model, mode="g-ghost", **SIZE)
    warm = ghostify.convert(
        model, mode="g-ghost", calibration=images, calibration_samples=32, **SIZE
    )
    x = torch.randn(8, 3, 12, 12)
    with torch.no_grad():
        gaps = [float((m(x) - model(x)).square().mean()) for m in (warm, plain)]
    assert gaps[0] < 0.75 * gaps[1]
