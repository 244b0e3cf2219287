"""Accuracy, its intervals, and data that does not fit."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import ghostify
from ghostify.errors import SettingsError
from ghostify.train import DataError, Share, evaluate


class Table(nn.Module):
    """Gives the scores that are written in the images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The first row of each image."""
        return x[:, 0, 0]


SIZE = (1, 2, 8)
SCORES = torch.randn(37, 8, generator=torch.Generator().manual_seed(0))
IMAGES = SCORES[:, None, None].expand(37, 1, 2, 8).contiguous()
LABELS = torch.arange(37) % 8


def measure(data=(IMAGES, LABELS), **options):
    return evaluate(Table(), data, input_size=SIZE, mean=(0.0,), std=(1.0,), **options)


def test_top1_and_top5_count_what_is_right():
    found = measure(batch_size=10)
    places = [int((SCORES[i] > SCORES[i, LABELS[i]]).sum()) for i in range(37)]
    assert found.top1 == Share(sum(p == 0 for p in places), 37)
    assert found.top5 == Share(sum(p < 5 for p in places), 37)
    assert found.loss == pytest.approx(float(nn.functional.cross_entropy(SCORES, LABELS)))


@pytest.mark.parametrize("size", [1, 36, 37, 100])
def test_the_batch_size_changes_nothing(size):
    assert measure(batch_size=size).top1 == measure(batch_size=10).top1


def test_data_sets_and_loaders_give_the_same():
    pairs = TensorDataset(IMAGES, LABELS)
    wanted = measure().top1
    assert measure(pairs).top1 == measure(DataLoader(pairs, batch_size=8)).top1 == wanted


def test_samples_are_not_chosen_from_a_loader():
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8)
    with pytest.raises(DataError, match="20 samples can't be chosen from a loader"):
        measure(loader, samples=20)


def seen(network, batches):
    """The figures of a metric: how many samples and batches it was given, and their sum."""
    assert not network.training and not torch.is_grad_enabled()
    images = [batch["image"] if isinstance(batch, dict) else batch[0] for batch in batches]
    return {"samples": sum(map(len, images)), "batches": len(batches), "sum": float(
        sum(network(x).sum() for x in images))}  # fmt: skip


class Items(Dataset):
    """Dicts, which no accuracy is told of."""

    def __len__(self):
        return 37

    def __getitem__(self, index):
        return {"image": IMAGES[index], "name": "x"}


@pytest.mark.parametrize("data", [
    (IMAGES, LABELS), Items(), DataLoader(Items(), batch_size=10),
    DataLoader(TensorDataset(IMAGES, LABELS), batch_size=10),
], ids=["tensors", "dicts", "loader of dicts", "loader"])  # fmt: skip
def test_a_metric_of_ones_own_sees_every_sample_once(data):
    found = measure(data, metric=seen, batch_size=10)
    assert found.figures["samples"] == 37 and found.figures["batches"] == 4
    assert found.figures["sum"] == pytest.approx(float(SCORES.sum()), abs=1e-4)


def test_a_metric_of_ones_own_sees_as_many_samples_as_asked():
    figures = [measure(metric=seen, samples=20, seed=seed).figures for seed in (0, 0, 1)]
    assert [each["samples"] for each in figures] == [20, 20, 20]
    assert figures[0] == figures[1] != figures[2]


def test_figures_that_are_no_numbers_stay_valid_json():
    found = measure(metric=lambda network, batches: {"loss": float("nan"), "best": 1.0})
    assert json.loads(found.to_json())["figures"] == {"loss": None, "best": 1.0}
    assert "loss nan, best 1.0000" in str(found) and "best" in found.to_markdown()


@pytest.mark.parametrize("metric, words", [
    ("iou", "metric='iou' can't be called"),
    (lambda network, batches: None, "metric .* fails"),
    (lambda network, batches: {}, "empty dict"),
])  # fmt: skip
def test_a_metric_that_gives_nothing_is_one_sentence(metric, words):
    with pytest.raises(SettingsError, match=words):
        measure(metric=metric)


def test_samples_are_chosen_by_the_seed():
    first, again, other = (measure(samples=20, seed=seed) for seed in (0, 0, 1))
    assert first.images == 20 and first.loss == again.loss != other.loss


def test_below_six_classes_there_is_no_top5():
    few = (IMAGES[..., :5].contiguous(), LABELS % 5)
    found = evaluate(Table(), few, input_size=(1, 2, 5), mean=(0.0,), std=(1.0,))
    assert found.top5 is None and "top-5" not in str(found)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_solves_its_equation(counts):
    right, n = counts
    p, z = right / n, 1.959963984540054
    for bound in Share(right, n).interval:
        b = bound / 100
        assert (p - b) ** 2 == pytest.approx(z**2 * b * (1 - b) / n, abs=1e-9)


def test_the_interval_is_the_known_one():
    low, high = Share(90, 100).interval
    assert (round(low, 2), round(high, 2)) == (82.56, 94.48)  # Wilson (1927), as statsmodels has it


def test_a_trained_network_is_as_good_as_its_authors_say(trained_resnet20, cifar_test, accuracy):
    found = ghostify.evaluate(trained_resnet20, cifar_test)
    assert found.top1.percent / 100 == pytest.approx(accuracy(trained_resnet20))
    low, high = found.top1.interval
    assert low < 87.38 < high, "of all 10,000 test images"


def test_the_network_is_as_it_was(small_net, labelled):
    small_net.train()
    small_net.norm.eval()
    before = {k: v.clone() for k, v in small_net.state_dict().items()}
    ghostify.evaluate(small_net, labelled, input_size=(3, 16, 16))
    assert small_net.training and not small_net.norm.training and small_net.body.training
    assert all(torch.equal(v, before[k]) for k, v in small_net.state_dict().items())


@pytest.mark.parametrize("data, words", [
    (IMAGES, ("no labels",)),
    ((IMAGES, LABELS + 1), ("labels", "to 8", "8 outputs")),
    ((IMAGES, LABELS - 1), ("labels -1",)),
])  # fmt: skip
def test_data_that_does_not_fit_is_refused(data, words):
    with pytest.raises(DataError) as caught:
        measure(data)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_folders_of_other_classes_are_refused(tmp_path, write_images, small_net):
    write_images(tmp_path, {"a": 1, "b": 1})
    with pytest.raises(DataError, match=r"2 classes \(a, b.*5 outputs"):
        ghostify.evaluate(small_net, tmp_path, input_size=(3, 16, 16))


def test_the_result_is_written_as_json_and_markdown():
    found = measure()
    data = json.loads(found.to_json())
    assert data["schema"] == "ghostify.evaluate/1" and data["top1"]["right"] == found.top1.right
    assert data["top1"]["interval95"] == list(found.top1.interval)
    assert f"| top-1 | {found.top1.percent:.2f} |" in found.to_markdown()
