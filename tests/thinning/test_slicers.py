"""What slicers keep of a layer: the thin layer is the layer on the channels that are left."""

import pytest
import torch
from torch import nn

from ghostify.thinning.slicers import LayerContext, NotScalable, Widths, slicer_for

HALF = Widths(channels=8, thin=4)
ARRIVING = torch.tensor([1, 2, 5, 7])


def sliced(layer: nn.Module, widths: Widths = HALF, **context):
    slicer = slicer_for(layer)
    cut = slicer.decide(layer, LayerContext(ARRIVING, **context), widths)
    return slicer.make(layer, cut), cut


def only(x: torch.Tensor, dim: int = 1) -> torch.Tensor:
    """All channels but those that arrive, set to zero."""
    kept = torch.zeros(x.shape[dim]).index_fill(0, ARRIVING, 1)
    return x * kept.view(-1, *[1] * (x.ndim - dim - 1))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ConvTranspose2d(8, 8, 2),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 16, 3, groups=8),
    ],
    ids=["convolution", "transposed", "depth-wise", "with a multiplier"],
)
def test_a_thin_convolution_gives_some_outputs_of_the_layer_on_what_arrives(layer) -> None:
    x = torch.randn(2, 8, 6, 6)
    thin, cut = sliced(layer)
    torch.testing.assert_close(thin(x[:, ARRIVING]), layer(only(x))[:, cut.outputs])


def test_a_thin_linear_layer_gives_some_outputs_of_the_layer_on_what_arrives() -> None:
    layer, x = nn.Linear(8, 6), torch.randn(2, 8)
    thin, cut = sliced(layer)
    assert cut.outputs.tolist() == [0, 1, 2]
    torch.testing.assert_close(thin(x[:, ARRIVING]), layer(only(x))[:, cut.outputs])


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(8), nn.PReLU(8), nn.InstanceNorm2d(8)])
def test_a_norm_keeps_its_values_of_the_channels_that_arrive(norm) -> None:
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.copy_(torch.rand_like(parameter))
    x = torch.randn(2, 8, 5, 5)
    thin, _ = sliced(norm.eval())
    torch.testing.assert_close(thin(x[:, ARRIVING]), norm(x)[:, ARRIVING])


def test_a_layer_that_is_free_to_choose_keeps_the_outputs_wanted() -> None:
    wanted = torch.tensor([0, 3, 6, 7])
    _, cut = sliced(nn.Conv2d(8, 8, 1), wanted=wanted)
    assert torch.equal(cut.outputs, wanted)


def test_before_a_grouped_convolution_the_first_of_each_group_are_kept() -> None:
    widths = Widths(channels=8, thin=4, group_width=0.5)
    _, cut = sliced(nn.Conv2d(8, 8, 1), widths, next_group_width=4)
    assert cut.outputs.tolist() == [0, 1, 4, 5]


def test_unchanged_widths_keep_every_output() -> None:
    widths = Widths(channels=8, thin=4, group_width=0.5, divisor=8).unchanged
    assert [widths(width) for width in (3, 8, 20)] == [3, 8, 20]
    _, cut = sliced(nn.Conv2d(8, 8, 1), widths)
    assert cut.outputs.tolist() == list(range(8))


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.LSTM(8, 8), "a LSTM can't be made thinner"),
        (nn.LazyConv2d(8, 1), "no shape before its first forward pass"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1)), "parametrised"),
    ],
    ids=["unknown", "lazy", "parametrised"],
)
def test_layers_that_no_slicer_knows_are_refused_with_the_reason(layer, reason) -> None:
    with pytest.raises(NotScalable, match=reason):
        slicer_for(layer)


def test_a_layer_without_tensors_takes_any_width() -> None:
    assert slicer_for(nn.ReLU()) is None
