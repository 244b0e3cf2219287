"""Windows of every kind of convolution: patches times filters is what it computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ghostify.nn.filters import filters_of, weight_of
from ghostify.warmstart.fit.sampling import Window, pick, sample_places

KINDS: list[tuple[type[_ConvNd], dict[str, Any]]] = [
    (nn.Conv1d, {"stride": 2, "padding": 3, "dilation": 2}),
    (nn.Conv1d, {"padding": "same", "padding_mode": "reflect"}),
    (nn.Conv2d, {"kernel_size": (4, 3), "padding": "same", "dilation": (1, 2)}),
    (nn.Conv2d, {"padding": "valid"}),
    (nn.Conv3d, {"kernel_size": (3, 2, 1), "stride": (1, 2, 1), "padding": (1, 0, 2)}),
    (nn.ConvTranspose1d, {"stride": 3, "padding": 1, "output_padding": 2}),
    (nn.ConvTranspose2d, {"kernel_size": (2, 4), "stride": (2, 1), "dilation": (1, 2)}),
    (nn.ConvTranspose2d, {"stride": 2, "padding": 1, "dilation": 2, "output_padding": 1}),
    (nn.ConvTranspose3d, {"stride": (2, 1, 2), "padding": (0, 1, 1)}),
]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("kind", "given"), KINDS)
def test_patches_times_filters_is_the_convolution(
    kind: type[_ConvNd], given: dict[str, Any], groups: int
) -> None:
    conv = kind(4, 6, groups=groups, bias=False, **{"kernel_size": 3, **given})  # type: ignore[call-arg]
    x = torch.randn(2, 4, *(7, 6, 5)[: len(conv.kernel_size)])
    out = conv(x)
    places = sample_places(out.shape[2:], 20, torch.Generator().manual_seed(0))
    seen = Window.of(conv).patches(x, *places).unflatten(0, (groups, -1))
    filters = filters_of(conv).flatten(2).unflatten(0, (groups, -1))
    made = torch.einsum("gcrk,gock->rgo", seen, filters).flatten(1).unflatten(0, (2, -1))
    torch.testing.assert_close(made, pick(out, *places), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pick(out, *places), out[(..., *places)].transpose(1, 2))


@pytest.mark.parametrize(("kind", "given"), KINDS)
def test_filters_are_those_of_a_convolution_with_one_output(
    kind: type[_ConvNd], given: dict[str, Any]
) -> None:
    conv = kind(4, 6, groups=2, bias=False, **{"kernel_size": 3, **given})  # type: ignore[call-arg]
    filters = filters_of(conv)
    assert torch.equal(weight_of(conv, filters), conv.weight)
    x = torch.randn(2, 4, *(7, 6, 5)[: len(conv.kernel_size)])
    for output in range(6):
        one = kind(2, 1, bias=False, **{"kernel_size": 3, **given})  # type: ignore[call-arg]
        with torch.no_grad():
            one.weight.copy_(filters[output].reshape(one.weight.shape))
        own = x[:, :2] if output < 3 else x[:, 2:]
        torch.testing.assert_close(one(own)[:, 0], conv(x)[:, output])


def test_what_a_layer_reads_counts_and_not_what_it_was_made_with() -> None:
    conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    conv.padding = conv.dilation = (2, 2)
    x = torch.randn(1, 3, 9, 8)
    places = sample_places((9, 8), 72, torch.Generator())
    seen = Window.of(conv).patches(x, *places)
    made = torch.einsum("crk,ock->or", seen, conv.weight.flatten(2))
    torch.testing.assert_close(made, conv(x)[0].flatten(1))
