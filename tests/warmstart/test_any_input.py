"""Calibration takes what the network takes, and fits to whatever it gives."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import ghostify
from ghostify.saving.history import history_of


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def body() -> nn.Sequential:
    """Two convolutions whose filters are easy for ghosts: half of them are multiples."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()
        )
    with torch.no_grad():
        for conv in (net[0], net[2]):
            conv.weight[8:] = conv.weight[:8] * torch.linspace(0.5, 2, 8).view(-1, 1, 1, 1)
    return net


X = noise(24, 3, 12, 12)
FRESH = noise(4, 3, 12, 12, seed=1)


class Net(nn.Module):
    """A body, and any forward around it."""

    def __init__(self, forward: Callable[..., Any] | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body, self.head = body(), nn.Conv2d(16, 4, 1)


def convert(net: nn.Module, calibration: Any, **options: Any) -> nn.Module:
    return ghostify.convert(net.eval(), calibration=calibration, keep=["*head*"], **options)


def errors(made: nn.Module) -> dict[str, float]:
    start = history_of(made).start
    assert start is not None
    return dict(start.errors)


def assert_fitted(made: nn.Module) -> None:
    found = errors(made)
    assert set(found) >= {"body.0", "body.2"}
    assert max(found.values()) < 0.1


@dataclass
class Boxes:
    maps: Tensor
    names: str = "two"


class Two(Net):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.body(a) - self.body(b))


class Optional(Net):
    def forward(self, x: Tensor, flag: bool = True, mask: Tensor | None = None) -> Tensor:
        x = self.head(self.body(x))
        if mask is not None:
            x = x.masked_fill(mask[:, None] < 0, 0.0)
        return x if flag else -x


class FromDict(Net):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.head(self.body(batch["image"])) * batch["scale"].view(-1, 1, 1, 1)


class Keywords(Net):
    def forward(self, *, pixels: Tensor, scale: Tensor) -> Tensor:
        return self.head(self.body(pixels)) * scale.view(-1, 1, 1, 1)


class OfList(Net):
    """As torchvision's detection networks: a list of images of any size; a dict for each."""

    def forward(self, images: list[Tensor], targets: Any = None) -> list[dict[str, Tensor]]:
        if not isinstance(images, list | tuple):
            raise TypeError("give a list")
        return [{"map": self.head(self.body(image[None]))[0]} for image in images]


SCALE = torch.linspace(0.5, 2, 24)
CASES: dict[str, tuple[nn.Module, Any, Any]] = {
    "two tensors": (Two(), (X, X.flip(0)), (X, X)),
    "two tensors of a loader": (Two(), DataLoader(list(zip(X, X.flip(0), strict=True)), 5), (X, X)),
    "two tensors and a label": (Two(), [((a, a.flip(1)), 1) for a in X], (X, X)),
    "one tensor and its label": (Optional(), [(a, 3) for a in X], (X,)),
    "a tensor and a label in a pair": (Optional(), DataLoader([(a, 3) for a in X], 5), (X,)),
    "dict as one argument": (
        FromDict(),
        {"image": X, "scale": SCALE},
        ({"image": X, "scale": SCALE},),
    ),
    "dicts of a data set": (
        FromDict(),
        [{"image": a, "scale": b} for a, b in zip(X, SCALE, strict=True)],
        ({"image": X, "scale": SCALE},),
    ),
    "keywords": (Keywords(), {"pixels": X, "scale": SCALE}, {"pixels": X, "scale": SCALE}),
    "keywords beside labels": (
        Keywords(),
        DataLoader(
            [{"pixels": a, "scale": b, "labels": 2} for a, b in zip(X, SCALE, strict=True)], 7
        ),
        {"pixels": X, "scale": SCALE},
    ),
    "a list of images": (
        OfList(),
        [noise(3, 8 + i % 3, 9, seed=i) for i in range(24)],
        ([noise(3, 8, 9), noise(3, 7, 9)],),
    ),
    "a loader of lists of images": (
        OfList(),
        [
            ([noise(3, 8 + i % 3, 9, seed=i + j) for j in range(3)], [{}] * 3)
            for i in range(0, 24, 3)
        ],
        ([noise(3, 8, 9), noise(3, 7, 9)],),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("minutes", [0.0, 1.0])
def test_inputs_of_any_kind_are_taken(case: str, minutes: float) -> None:
    net, data, example = CASES[case]
    if case == "a loader of lists of images":
        data = iter(data)
    calibration = ghostify.Calibration(data, minutes=minutes, block_steps=2, network_steps=2)
    made = convert(net, calibration, example_inputs=example)
    assert_fitted(made)


def test_a_function_says_what_of_a_batch_is_the_input() -> None:
    loader = DataLoader([(1, {"deep": [a, a.flip(1)]}) for a in X], 5)
    made = convert(
        Two(), loader, inputs=lambda batch: tuple(batch[1]["deep"]), example_inputs=(X[:1], X[:1])
    )
    assert_fitted(made)
    calibration = ghostify.plan(Two(), s=2, keep=["*head*"], example_inputs=(X[:1], X[:1]))
    assert calibration.calibration is None
    assert "inputs" not in ghostify.Calibration(loader, inputs=len).to_dict()
    with pytest.raises(ghostify.GhostifyError, match="inputs=3 is no function"):
        convert(Two(), loader, inputs=3)


class Gives(Net):
    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.wrap = wrap
        with torch.no_grad():  # so that there is something to reconstruct
            self.body[2].weight += noise(16, 16, 3, 3, seed=4) / 12

    def forward(self, x: Tensor) -> Any:
        x = self.body(x)
        return self.wrap(x, self.head(x))


OUTPUTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda a, b: (a, b),
    "dict": lambda a, b: OrderedDict(features=a, out=b),
    "data class": lambda a, b: Boxes(b),
    "list of dicts": lambda a, b: [
        {"map": m, "size": m.shape, "index": i} for i, m in enumerate(b)
    ],
    "whole numbers beside": lambda a, b: (b.argmax(1), b, None, "text"),
    "a loss": lambda a, b: {"loss": b.square().mean(), "logits": b.mean((2, 3))},
}


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("target", [None, 0.7])
def test_outputs_of_any_kind_are_reconstructed(kind: str, target: float | None) -> None:
    calibration = ghostify.Calibration(X, minutes=1.0, block_steps=20, network_steps=20)
    made = convert(Gives(OUTPUTS[kind]), calibration, input_size=(3, 12, 12), target_macs=target)
    assert max(errors(made).values(), default=1.0) < 1
    start = history_of(made).start
    assert start is not None and any("reconstruction" in note for note in start.notes)


def test_frozen_norms_of_torchvision_are_no_hindrance() -> None:
    from torchvision.ops import FrozenBatchNorm2d

    net = nn.Sequential(body()[0], FrozenBatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1))
    net[1].running_mean.copy_(noise(16, seed=3))
    made = ghostify.convert(net, calibration=X, keep=["3"])
    assert errors(made)["0"] < 0.01
    assert not [name for name in vars(net) if "constant" in name]
    with torch.no_grad():
        assert (made(FRESH) - net(FRESH)).abs().max() < 0.05


class Scaled(nn.Module):
    """What it multiplies by is worked out anew in each pass, of no input."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * torch.arange(1.0, 4.0).sum()


def test_tensors_that_a_forward_makes_itself_are_no_hindrance() -> None:
    net = Scaled()
    assert_fitted(ghostify.convert(net, calibration=X))
    assert not [name for name in vars(net) if "constant" in name]


@pytest.mark.parametrize(
    "changes",
    [
        {"dilation": (2, 2), "padding": (2, 2)},
        {"padding": (0, 0)},
        {"padding": (0, 2)},
        {"padding": "same", "dilation": (3, 3)},
        {"padding": "valid"},
        {"stride": (2, 1)},
    ],
)
def test_convolutions_that_were_changed_after_they_were_made_are_fitted_as_they_are(
    changes: dict[str, Any],
) -> None:
    net = Net(None).body
    for name, value in changes.items():
        setattr(net[2], name, value)
    made = ghostify.convert(net, calibration=noise(32, 3, 16, 16), d=1)
    assert max(errors(made).values()) < 0.01
    with torch.no_grad():
        x = noise(4, 3, 16, 16, seed=1)
        wanted = net(x)
        assert (made(x) - wanted).square().mean() < 0.01 * wanted.var()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("minutes", [0.0, 1.0])
@pytest.mark.parametrize("target", [None, 0.7])
def test_networks_of_other_precisions_are_fitted(
    dtype: torch.dtype, minutes: float, target: float | None
) -> None:
    net = nn.Sequential(body(), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)).to(dtype).eval()
    calibration = ghostify.Calibration(X, minutes=minutes, block_steps=2, network_steps=2)
    made = ghostify.convert(net, calibration=calibration, keep=["2"], target_macs=target)
    assert {p.dtype for p in made.parameters()} == {dtype} == {p.dtype for p in net.parameters()}
    assert max(errors(made).values()) < 0.5
    free = ghostify.convert(net, calibration="data-free", keep=["2"])
    assert {p.dtype for p in free.parameters()} == {dtype}


def test_a_network_of_two_precisions_keeps_both() -> None:
    net = nn.Sequential(body(), nn.BatchNorm2d(16)).half()
    net[1].float()
    made = ghostify.convert(net, calibration=X)
    assert made[0][2].primary.weight.dtype == torch.float16
    assert made[1].weight.dtype == torch.float32


def test_what_is_not_fitted_of_a_double_network_stays_bit_for_bit() -> None:
    net = nn.Sequential(body(), nn.PReLU(16)).double()
    nn.init.normal_(net[1].weight)
    made = ghostify.convert(net, calibration=X)
    assert torch.equal(made[1].weight, net[1].weight)


class Caching(Net):
    """Keeps what it computed, deep inside something else."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        self.cache = {"last": [(Boxes(x), x)]}
        return self.head(x)


@pytest.mark.parametrize("calibration", [None, "data-free", X])
def test_a_network_that_keeps_what_it_computed_is_copied(calibration: Any) -> None:
    net = Caching()
    net(FRESH)
    assert net.cache["last"][0][0].maps.grad_fn is not None
    made = convert(net, calibration, input_size=(3, 12, 12))
    assert isinstance(made.body[2], ghostify.GhostConv2d)
    ghostify.convert_(net, keep=["*head*"], input_size=(3, 12, 12))


class Audio(nn.Module):
    """``(N, T)``, framed inside."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1)
        self.last = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.conv(x.unflatten(1, (-1, 16))[:, None]).relu()).mean((2, 3))


class Tokens(nn.Module):
    """``(N, H, W)`` of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.conv = nn.Conv2d(8, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.embedding(x).movedim(-1, 1))


def test_sound_and_tokens_are_taken() -> None:
    made = ghostify.convert(Audio(), calibration=noise(24, 160), input_size=(160,))
    assert set(errors(made)) == {"last"}
    tokens = torch.randint(0, 10, (32, 8, 8), generator=torch.Generator().manual_seed(0))
    made = ghostify.convert(Tokens(), calibration=tokens, example_inputs=tokens[:1])
    assert set(errors(made)) == {"conv"}
    as_images = torch.randint(0, 255, (24, 3, 12, 12)).to(torch.uint8)
    assert_fitted(convert(Optional(), as_images))


class Masked(Net):
    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.head(self.body(x)) * (mask[:, None] + 1).exp()


@pytest.mark.parametrize("low", [-torch.inf, torch.finfo(torch.float32).min])
def test_masks_may_hold_minus_infinity_and_images_may_not(low: float) -> None:
    mask = torch.zeros(24, 12, 12).masked_fill(noise(24, 12, 12) > 0, low)
    assert_fitted(convert(Masked(), (X, mask), example_inputs=(X[:1], mask[:1])))
    bad = X.masked_fill(X > 3, low)
    with pytest.raises(ghostify.GhostifyError, match="must be finite"):
        convert(Masked(), (bad, mask), example_inputs=(X[:1], mask[:1]))
    mask[3, 0, 0] = torch.nan
    with pytest.raises(ghostify.GhostifyError, match=r"Image 3 .* holds nan"):
        convert(Masked(), (X, mask), example_inputs=(X[:1], mask[:1]))


def test_data_that_the_network_takes_in_no_form_is_refused_in_a_sentence() -> None:
    with pytest.raises(ghostify.GhostifyError, match=r"can't take calibration data of .* inputs="):
        convert(Two(), {"c": X}, example_inputs=(X[:1], X[:1]))
    with pytest.raises(ghostify.GhostifyError, match=r"begins with a str.* inputs="):
        convert(Two(), ["a", "b"], example_inputs=(X[:1], X[:1]))


@pytest.mark.parametrize("case", ["two tensors", "dict as one argument", "keywords"])
def test_the_data_says_what_the_network_takes_where_nothing_else_does(
    case: str, tmp_path: Path
) -> None:
    net, data, _ = CASES[case]
    made = convert(net, data)
    assert_fitted(made)
    told = ghostify.report(made)
    assert told.before.macs is not None and told.how == "shapes"
    ghostify.save(made, tmp_path / "saved")
    again = ghostify.report(ghostify.load(tmp_path / "saved", net))
    assert (again.before, again.after, again.inputs) == (told.before, told.after, told.inputs)
    assert again.after.macs is not None
