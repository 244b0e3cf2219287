"""Ghost modules that a network can't run with are found on its meta copy and put back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import ghostify


def kept(model: nn.Module, **options: object) -> dict[str, str]:
    plan = ghostify.plan(model, input_size=(3, 12, 12), **options)
    return {k.name: k.reason for k in plan.kept}


class Net(nn.Module):
    """Four convolutions in a row, with a use of the second that only a Conv2d stands."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 8, 3, padding=1)])
        self.convs.extend(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))

    def use(self, conv: nn.Module) -> None:
        """What the forward does with the second convolution beside calling it."""

    def forward(self, *images: Tensor) -> Tensor:
        (x,) = images
        assert int(x.shape[0]) == 1  # stops torch.fx, so that nothing is known from a graph
        for index, conv in enumerate(self.convs):
            if index == 1:
                self.use(conv)
            x = conv(x)
        return x


def test_a_module_whose_weight_is_asked_for_is_put_back() -> None:
    class Asks(Net):
        def use(self, conv: nn.Module) -> None:
            conv.weight.norm()

    reasons = kept(Asks())
    assert list(reasons) == ["convs.1"]
    assert "has no single 'weight'" in reasons["convs.1"]
    assert "test_trial.py:" in reasons["convs.1"]


def test_a_module_whose_class_is_asked_for_is_found_by_search() -> None:
    class Asks(Net):
        def use(self, conv: nn.Module) -> None:
            if not isinstance(conv, nn.Conv2d):
                raise RuntimeError("a convolution, please")

    reasons = kept(Asks())
    assert list(reasons) == ["convs.1"]
    assert "a convolution, please" in reasons["convs.1"]


def test_a_module_that_changes_the_outputs_shape_is_found_by_search() -> None:
    class Asks(Net):
        def forward(self, *images: Tensor) -> Tensor:
            out = super().forward(*images)
            return out if isinstance(self.convs[2], nn.Conv2d) else out[:, :3]

    reasons = kept(Asks())
    assert reasons == {"convs.2": "with a ghost module here the network's output has another shape"}


def test_several_modules_are_put_back() -> None:
    class Asks(Net):
        def forward(self, *images: Tensor) -> Tensor:
            scale = self.convs[0].weight.norm() + self.convs[3].weight.norm()
            return super().forward(*images) * scale

    model = Asks()
    assert list(kept(model)) == ["convs.0", "convs.3"]
    converted = ghostify.convert(model, input_size=(3, 12, 12))
    x = torch.randn(1, 3, 12, 12)
    assert converted(x).shape == model(x).shape


def test_the_search_works_where_the_pass_needs_pretended_cpu_tensors() -> None:
    class Asks(Net):
        def forward(self, *images: Tensor) -> Tensor:
            out = super().forward(*images)
            return out + self.convs[2].weight.sum() * torch.arange(12.0)

    assert list(kept(Asks())) == ["convs.2"]


def test_a_module_whose_weight_is_asked_for_its_shape_or_type_alone_is_converted() -> None:
    class Asks(Net):
        def forward(self, *images: Tensor) -> Tensor:
            weight = self.convs[2].weight
            return super().forward(*(x.to(weight.dtype) for x in images)) * weight.shape[0]

    model = Asks()
    assert kept(model) == {}
    x = torch.randn(1, 3, 12, 12)
    converted = ghostify.convert(model, input_size=(3, 12, 12))
    assert isinstance(converted.convs[2], ghostify.GhostConv2d)
    assert converted(x).shape == model(x).shape


def test_what_works_is_not_touched_by_the_trial(small_net: nn.Module) -> None:
    assert kept(small_net, linear=True) == {}
