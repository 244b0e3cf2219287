"""What is no network, or no data, is said in one sentence where it enters."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import ghostify

SIZE = (3, 16, 16)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A classifier of five classes."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 5),
    ).eval()  # fmt: skip


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Eight images and their labels."""
    return torch.rand(8, *SIZE), torch.arange(8) % 5


def loss(model: nn.Module, batch) -> torch.Tensor:
    images, labels = batch
    return F.cross_entropy(model(images), labels)


WAYS = {
    "evaluate": lambda model, data: ghostify.evaluate(model, data, input_size=SIZE),
    "finetune": lambda model, data: ghostify.finetune(
        model, data, steps=1, batch_size=4, input_size=SIZE
    ),
    "own loss": lambda model, data: ghostify.finetune(
        model, data, loss=loss, steps=1, batch_size=4
    ),
}


def refusal(way: str, model, data) -> str:
    with pytest.raises(ghostify.GhostifyError) as caught:
        WAYS[way](model, data)
    text = str(caught.value)
    assert "\n" not in text and text.endswith("."), text
    return text


@pytest.mark.parametrize("way", WAYS)
def test_an_exported_program_is_no_network(way, network, data):
    exported = torch.export.export(network, (data[0],), strict=False)
    assert "is a ExportedProgram" in refusal(way, exported, data)


@pytest.mark.parametrize("way", WAYS)
def test_an_exported_module_that_takes_another_batch_alone_is_refused(way, network, data):
    made, fewer = torch.export.export(network, (data[0],), strict=False).module(), data[0][:6]
    try:
        copy.deepcopy(made)(fewer)
    except Exception:
        said = {"evaluate": "no train and eval mode", "finetune": "can't take", "own loss": "fails"}
        assert said[way] in refusal(way, made, (fewer, data[1][:6]))
    else:
        pytest.skip("this PyTorch's exported modules take any batch")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ["resnet20-cifar", None, 3], ids=str)
def test_what_is_no_network_is_named(way, what, data):
    assert type(what).__name__ in refusal(way, what, data)


@pytest.mark.parametrize("kind", ["script", "trace"])
def test_a_scripted_network_is_evaluated_and_taught_by_and_not_tuned(network, data, kind):
    images, _ = data
    scripted = torch.jit.script(network) if kind == "script" else torch.jit.trace(network, images)
    assert ghostify.evaluate(scripted, data, input_size=SIZE).images == 8
    for way in ("finetune", "own loss"):
        assert "can't be tuned" in refusal(way, scripted, data)
    options = {"teacher": scripted, "steps": 1, "batch_size": 4}
    assert ghostify.finetune(network, data, input_size=SIZE, **options).losses == ("ce", "kd")
    assert ghostify.finetune(network, data, loss=loss, **options).losses == ("own",)


@pytest.mark.parametrize("way", ["finetune", "own loss"])
def test_a_network_without_anything_to_tune_is_refused(way, network, data):
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean((2, 3)).repeat(1, 2)

    assert "it has no parameters" in refusal(way, Mean(), data)
    frozen = nn.Sequential(*network, nn.Identity())
    kept = [p.requires_grad for p in frozen.parameters()]
    try:
        assert "all its parameters are frozen" in refusal(way, frozen.requires_grad_(False), data)
    finally:
        for parameter, value in zip(frozen.parameters(), kept, strict=True):
            parameter.requires_grad_(value)


class Broken:
    """A data set that fails."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        raise OSError("broken disk")


class Endless(IterableDataset):
    """A data set without a length."""

    def __iter__(self):
        yield torch.rand(3, 16, 16), 1


class Short(DataLoader):
    """A loader with fewer batches than it says."""

    def __len__(self) -> int:
        return 5


DATA = {
    "number": (3, "int"),
    "none": (None, "NoneType"),
    "generator": ((i for i in range(3)), "generator"),
    "empty": ([], "holds no images"),
    "broken": (Broken(), "broken disk"),
    "broken loader": (DataLoader(Broken(), batch_size=2), "broken disk"),
    "no length": (DataLoader(Endless(), batch_size=4), "has no length"),
    "empty loader": (DataLoader([], batch_size=4), "no batches"),
    "one number": (torch.tensor(1.0), "make no sense|tensor of one number"),
    "numbers": ((torch.tensor(1.0), torch.tensor(2.0)), "make no sense|one length"),
    "words": ((torch.zeros(2, 3, 16, 16), ["a", "b"]), "tensor|collate_fn"),
    "nothing": ([None] * 4, "labels|collate_fn"),
    "no items": ([()] * 4, "labels|fails"),
    "two labels": ([(torch.zeros(3, 16, 16), torch.tensor([1, 2]))] * 4, "label|fails"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("given, words", DATA.values(), ids=DATA)
def test_what_is_no_data_is_named(way, network, given, words):
    assert any(word in refusal(way, network, given) for word in words.split("|"))


def test_a_loader_that_ends_too_early_is_named(network, data):
    loader = Short(TensorDataset(*data), batch_size=4)
    for way in WAYS:
        if way == "evaluate":
            assert "ended after 2 batches" in refusal(way, network, loader)
    for options in ({"input_size": SIZE}, {"loss": loss}):
        with pytest.raises(ghostify.GhostifyError, match="ended after 2 batches"):
            ghostify.finetune(network, loader, epochs=1, **options)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_that_fails_later_is_named_from_a_process_of_its_own_too(network, workers):
    class Late(Broken):
        def __getitem__(self, index: int):
            if index == 3:
                raise OSError("broken disk")
            return torch.zeros(3, 16, 16), 1

    with pytest.raises(ghostify.GhostifyError, match=r"Item 3 .*broken disk") as caught:
        ghostify.finetune(
            network, Late(), loss=loss, epochs=1, batch_size=2, workers=workers, lr=1e-3
        )
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("options, words", [
    ({"batch_size": "3"}, "batch_size='3'"), ({"samples": 0}, "samples=0"),
    ({"input_size": 32}, "input_size=32"), ({"input_size": "3x16x16"}, "input_size='3x16x16'"),
])  # fmt: skip
def test_settings_of_an_evaluation_are_checked(network, data, options, words):
    with pytest.raises(ghostify.GhostifyError, match=words):
        ghostify.evaluate(network, data, **{"input_size": SIZE, **options})


@pytest.mark.parametrize("options, words", [
    ({"settings": {"steps": 1}}, "FinetuneSettings"), ({"output": 3}, "output=3"),
    ({"loss": "dice"}, "loss='dice'"), ({"metric": 3}, "metric=3"),
])  # fmt: skip
def test_arguments_of_a_tuning_are_checked(network, data, options, words):
    with pytest.raises(ghostify.GhostifyError, match=words):
        ghostify.finetune(network, data, input_size=SIZE, **options)
