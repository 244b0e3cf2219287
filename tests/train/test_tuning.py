"""Tuning as a whole: what it learns from, what it leaves alone, that a stopped run goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ghostify
from ghostify.train import FinetuneSettings, finetune
from ghostify.train import checkpoint as checkpoints
from ghostify.train.losses import weights_at

QUICK = {"steps": 6, "batch_size": 16, "lr": 0.01, "input_size": (3, 16, 16)}


def state_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_a_converted_network_comes_closer_to_its_original(trained_resnet20, cifar_test):
    images, labels = (part[::4] for part in cifar_test)
    student = ghostify.convert(trained_resnet20, s=2)
    rows = []
    tuned = finetune(
        student, images, teacher=trained_resnet20, val=(images, labels), steps=16, batch_size=25,
        log_steps=4, seed=1, progress=rows.append,
    )  # fmt: skip
    assert tuned.losses == ("kd", "features") and len(tuned.points) == 10
    assert [row.step for row in rows] == [4, 8, 10, 12, 16], "and 10: the epoch's end"
    assert rows[-1].kd < 0.9 * rows[0].kd
    assert tuned.validation is not None and tuned.validation.images == len(images)


def test_labels_alone_teach(pair, labelled):
    student, _ = pair
    tuned = finetune(
        student, labelled, val=labelled, **{**QUICK, "steps": 60, "lr": 0.05, "ce": 1.0}
    )
    before = ghostify.evaluate(student, labelled, input_size=(3, 16, 16))
    assert tuned.losses == ("ce",)
    assert tuned.validation.loss < 0.5 * before.loss
    assert tuned.validation.top1.right > before.top1.right


def test_with_teacher_and_labels_all_three_losses_are_used(pair, labelled):
    student, teacher = pair
    rows = []
    tuned = finetune(
        student, labelled, teacher=teacher, **{**QUICK, "log_steps": 1}, progress=rows.append
    )
    assert tuned.losses == ("ce", "kd", "features")
    for row in rows:
        weights = weights_at(row.step - 1, row.steps, tuned.settings)
        weighed = (weights[name] * getattr(row, name) for name in tuned.losses)
        assert row.loss == pytest.approx(sum(weighed), rel=1e-5)


def test_another_teacher_gives_its_logits_alone_and_that_is_said(pair, labelled):
    student, _ = pair
    other = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    tuned = finetune(student, labelled, teacher=other, **QUICK)
    assert tuned.losses == ("ce", "kd") and tuned.points == ()
    assert any("features are not distilled" in line for line in tuned.describe())


def test_stages_are_distilled_at_their_ends(trained_resnet20, cifar_test):
    student = ghostify.convert(trained_resnet20, mode="g-ghost")
    images = cifar_test[0][:16]
    tuned = finetune(student, images, teacher=trained_resnet20, steps=1, batch_size=8)
    assert tuned.points == ("layer1", "layer2", "layer3")


def test_the_networks_that_are_given_stay_as_they_are(pair, labelled):
    student, teacher = pair
    student.train()
    student.norm.eval()
    before = state_of(student), state_of(teacher)
    tuned = finetune(student, labelled, teacher=teacher, ema=0.9, **QUICK)
    for network, known in zip(pair, before, strict=True):
        assert all(torch.equal(v, known[k]) for k, v in network.state_dict().items())
        assert all(p.grad is None for p in network.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert tuned.model.training and not tuned.model.norm.training
    assert torch.equal(tuned.model.norm.running_mean, student.norm.running_mean), "it was frozen"
    assert not torch.equal(tuned.model.body[1].running_mean, student.body[1].running_mean)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in tuned.model.modules())


def test_the_callers_chance_is_left_alone(pair, labelled):
    torch.manual_seed(4)
    wanted = torch.rand(3)
    torch.manual_seed(4)
    finetune(pair[0], labelled, **QUICK)
    assert torch.equal(torch.rand(3), wanted)


def test_frozen_norms_keep_their_statistics_and_learn_their_weights(pair, labelled):
    student, teacher = pair
    tuned = finetune(student, labelled, teacher=teacher, norms="frozen", **QUICK).model
    assert torch.equal(tuned.norm.running_var, student.norm.running_var)
    assert not torch.equal(tuned.norm.weight, student.norm.weight)


def test_the_seed_repeats_a_run_and_another_one_does_not(pair, labelled):
    first, again, other = (
        finetune(pair[0], labelled, teacher=pair[1], seed=seed, **QUICK).model for seed in (0, 0, 1)
    )
    assert same(first, again) and not same(first, other)


@pytest.mark.parametrize("kind", ["muon", "sgd", "adamw"])
def test_parts_of_a_batch_add_up_to_it(pair, labelled, kind):
    whole, parts = (
        finetune(
            pair[0], labelled, optimizer=kind, norms="frozen", accumulate=n, ce=1.0, clip=1.0,
            **{**QUICK, "lr": 1e-3},
        ).model
        for n in (1, 4)
    )  # fmt: skip
    for (name, one), other in zip(whole.named_parameters(), parts.parameters(), strict=True):
        # The others divide by sizes: where a gradient is nothing but rounding, it is a step.
        assert (one - other).abs().max() < (1e-5 if kind == "sgd" else 2e-3), name


@pytest.mark.parametrize("options", [
    {"precision": "bf16"}, {"channels_last": True}, {"ema": 0.99}, {"clip": 0.5},
    {"label_smoothing": 0.1}, {"optimizer": "adamw"}, {"optimizer": "sgd"}, {"warmup": 0.0},
    {"momentum": 0.0},
])  # fmt: skip
def test_each_way_of_tuning_lowers_the_loss(pair, labelled, options):
    rows = []
    finetune(
        pair[0], labelled, teacher=pair[1], ce=1.0, log_steps=5, progress=rows.append, **options,
        **{**QUICK, "steps": 40, "lr": 0.005},
    )  # fmt: skip
    assert rows[-1].loss < rows[0].loss


def test_an_epoch_has_each_image_once(small_net):
    seen = []

    class Watching(torch.utils.data.Dataset):
        def __len__(self):
            return 12

        def __getitem__(self, index):
            seen.append(index)
            return torch.zeros(3, 16, 16), index % 5

    finetune(small_net, Watching(), epochs=2, batch_size=4, input_size=(3, 16, 16))
    epochs = seen[-24:-12], seen[-12:]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12)) and epochs[0] != epochs[1]


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_loaders_batches_are_the_steps(pair, labelled, shuffle):
    loader = DataLoader(TensorDataset(*labelled), batch_size=12, shuffle=shuffle)
    tuned = finetune(pair[0], loader, epochs=2, input_size=(3, 16, 16), lr=0.01)
    assert tuned.steps == 8


class Stop(Exception):
    """What the progress of a test raises, in place of a power cut."""


@pytest.mark.parametrize("kind", ["tensors", "loader"])
@pytest.mark.parametrize("options", [
    {"ema": 0.9, "clip": 1.0}, {"optimizer": "adamw", "accumulate": 2}, {"optimizer": "sgd"},
])  # fmt: skip
def test_a_run_that_failed_goes_on_to_the_same_bits(tmp_path, pair, labelled, kind, options):
    data = labelled if kind == "tensors" else DataLoader(
        TensorDataset(*labelled), batch_size=16, shuffle=True
    )  # fmt: skip
    asked = {**QUICK, **options, "teacher": pair[1], "steps": 8}
    wanted = finetune(pair[0], data, **asked).model

    def fail(row):
        if row.step == 5:
            raise Stop

    with pytest.raises(Stop):
        finetune(
            pair[0], data, output=tmp_path / "o", progress=fail, log_steps=1, checkpoint_steps=2,
            **asked,
        )  # fmt: skip
    assert not (tmp_path / "o" / "recipe.yaml").exists()
    torch.manual_seed(123)
    tuned = finetune(pair[0], data, output=tmp_path / "o", resume=True, **asked)
    assert tuned.steps == 8 and same(tuned.model, wanted)
    rows = (tmp_path / "o" / "training" / "metrics.csv").read_text().splitlines()
    steps = [int(row.split(",")[0]) for row in rows[1:]]
    assert steps == sorted(set(steps)) and steps[-1] == 8


KILLED = """
import os, signal, sys, torch, ghostify
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(16, 5),
    )

def go(output, resume, kill_at=None):
    teacher = make()
    student = ghostify.convert(teacher, s=2, input_size=(3, 16, 16))
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (40, 3, 16, 16), generator=generator, dtype=torch.uint8)
    def told(row):
        if row.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
    return ghostify.finetune(
        student, (images, torch.arange(40) % 5), teacher=teacher, output=output, resume=resume,
        epochs=3, batch_size=8, ema=0.9, checkpoint_steps=4, log_steps=1, progress=told,
    )
"""


def test_a_killed_process_goes_on_to_the_same_bits(tmp_path: Path):
    space: dict = {}
    exec(KILLED, space)
    # Another number of threads sums in another order.
    alike = f"import torch; torch.set_num_threads({torch.get_num_threads()})\n"
    code = alike + KILLED + f"go({str(tmp_path / 'out')!r}, False, kill_at=11)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert checkpoints.read_checkpoint(checkpoints.path_in(tmp_path / "out"))["step"] == 10, (
        "an epoch's end"
    )
    wanted = space["go"](tmp_path / "whole", False)
    resumed = space["go"](tmp_path / "out", True)
    assert resumed.steps == 15 and same(resumed.model, wanted.model)
    loaded = [ghostify.load(tmp_path / n, space["make"]()) for n in ("out", "whole")]
    assert same(loaded[0], wanted.model) and same(loaded[1], wanted.model)


def test_ctrl_c_ends_with_a_checkpoint_and_the_run_goes_on_from_there(tmp_path, pair, labelled):
    asked = {**QUICK, "teacher": pair[1]}
    wanted = finetune(pair[0], labelled, **asked).model

    def interrupt(row):
        if row.step == 3:
            signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    first = finetune(
        pair[0], labelled, output=tmp_path / "o", progress=interrupt, log_steps=1, **asked
    )
    assert first.interrupted and first.steps == 3 and not same(first.model, wanted)
    assert signal.getsignal(signal.SIGINT) is handler
    second = finetune(pair[0], labelled, output=tmp_path / "o", resume=True, **asked)
    assert not second.interrupted and same(second.model, wanted)


def test_a_finished_run_can_be_resumed_and_stays(tmp_path, pair, labelled):
    first = finetune(pair[0], labelled, output=tmp_path / "o", **QUICK)
    again = finetune(pair[0], labelled, output=tmp_path / "o", resume=True, **QUICK)
    assert again.steps == 6 and same(first.model, again.model)


@pytest.fixture
def unfinished(tmp_path, pair, labelled):
    """The folder of a run that ended early."""

    def interrupt(row):
        if row.step == 2:
            signal.raise_signal(signal.SIGINT)

    finetune(
        pair[0], labelled, output=tmp_path / "o", progress=interrupt, log_steps=1,
        teacher=pair[1], **QUICK,
    )  # fmt: skip
    return tmp_path / "o"


def test_a_run_is_not_begun_over_one_that_is_not_finished(unfinished, pair, labelled):
    with pytest.raises(ghostify.GhostifyError, match=r"step 2 of 6.*--resume"):
        finetune(pair[0], labelled, output=unfinished, teacher=pair[1], **QUICK)


@pytest.mark.parametrize("change, words", [
    ({"lr": 0.02}, ("lr=0.01", "0.02")),
    ({"steps": 7}, ("steps=6", "7")),
    ({"data": 1}, ("data checksum",)),
    ({"teacher": None, "ce": 0.1}, ("teacher checksum",)),
])  # fmt: skip
def test_a_run_goes_on_with_its_own_settings_data_and_teacher_only(
    unfinished, pair, labelled, change, words
):
    change = dict(change)
    images = labelled[0] + change.pop("data", 0)
    asked = {"teacher": pair[1], **QUICK, **change}
    with pytest.raises(ghostify.GhostifyError) as caught:
        finetune(pair[0], (images, labelled[1]), output=unfinished, resume=True, **asked)
    assert all(word in str(caught.value) for word in (*words, "another folder")), caught.value


def test_how_often_to_save_may_change_when_a_run_goes_on(unfinished, pair, labelled):
    tuned = finetune(
        pair[0], labelled, output=unfinished, resume=True, teacher=pair[1], log_steps=2,
        checkpoint_steps=1, **QUICK,
    )  # fmt: skip
    assert tuned.steps == 6


def test_another_network_does_not_go_on(unfinished, pair, labelled):
    other = ghostify.convert(pair[1], s=4, input_size=(3, 16, 16))
    with pytest.raises(ghostify.GhostifyError, match="another network"):
        finetune(other, labelled, output=unfinished, resume=True, teacher=pair[1], **QUICK)


def test_a_damaged_checkpoint_is_named(unfinished, pair, labelled):
    checkpoints.path_in(unfinished).write_bytes(b"none")
    with pytest.raises(ghostify.GhostifyError, match=r"checkpoint\.pt can't be read"):
        finetune(pair[0], labelled, output=unfinished, resume=True, **QUICK)


def test_the_tuned_network_is_saved_with_its_history_and_metrics(tmp_path, trained_resnet20):
    student = ghostify.convert(trained_resnet20, s=2)
    data = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8)
    tuned = finetune(student, data, teacher=trained_resnet20, steps=2, batch_size=4,
                     output=tmp_path / "o", log_steps=1)  # fmt: skip
    loaded = ghostify.load(tmp_path / "o")
    assert same(loaded, tuned.model) and ghostify.report(loaded).ratios.macs > 1.9
    names = {path.name.split(".")[0] for path in (tmp_path / "o" / "training").iterdir()}
    assert {"checkpoint", "metrics"} <= names
    head, *rows = (tmp_path / "o" / "training" / "metrics.csv").read_text().splitlines()
    assert head.startswith("step,epoch,lr,loss,ce,kd,features") and len(rows) == 2
    assert ghostify.save(loaded, tmp_path / "o"), "a folder with training/ is saved to again"


@pytest.mark.parametrize("change, words", [
    ({"data": "images"}, ("no labels", "no teacher", "nothing to learn")),
    ({"ce": 0.0}, ("weights of all losses",)),
    ({"batch_size": 64}, ("48 images", "batch_size=64")),
    ({"tempreature": 2.0}, ("'tempreature'", "temperature")),
    ({"resume": True}, ("give output",)),
    ({"lr": 1e9, "steps": 20}, ("not finite", "smaller lr")),
    ({"accelerator": "cuda"}, ("accelerator='cuda'",)),
    ({"settings": FinetuneSettings()}, ("beside settings",)),
    ({"teacher": nn.Sequential(nn.Flatten(), nn.Linear(768, 7))}, ("7 classes", "5")),
    ({"teacher": nn.Conv2d(4, 5, 1)}, ("teacher can't take", "3x16x16")),
    ({"val": torch.zeros(4, 3, 16, 16)}, ("validation images have no labels",)),
    ({"data": "wrong"}, ("labels 0 to 9", "5 outputs")),
])  # fmt: skip
def test_what_makes_no_sense_is_one_sentence(pair, labelled, change, words):
    change = dict(change)
    if change.get("accelerator") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    kind = change.pop("data", None)
    data = {None: labelled, "images": labelled[0], "wrong": (labelled[0], 9 * labelled[1] // 4)}
    with pytest.raises(ghostify.GhostifyError) as caught:
        finetune(pair[0], data[kind], **{**QUICK, **change})
    text = str(caught.value)
    assert all(word in text for word in words) and "\n" not in text, text


def test_without_the_engine_the_rest_works_and_the_way_out_is_said():
    code = textwrap.dedent("""
        import sys
        class Hide:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "lightning_fabric":
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Hide())
        import importlib.util
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *a: None if "fabric" in name else find(name, *a)
        import ghostify, torch
        net = ghostify.convert("resnet20-cifar")
        try:
            ghostify.finetune(net, (torch.zeros(4, 3, 32, 32), torch.zeros(4).long()), steps=1)
        except ghostify.GhostifyError as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'ghostify[train]'" in done.stdout


def test_settings_go_in_as_data_too(pair, labelled):
    chosen = FinetuneSettings(**{k: v for k, v in QUICK.items() if k != "input_size"})
    one = finetune(pair[0], labelled, chosen, input_size=(3, 16, 16))
    other = finetune(pair[0], labelled, **QUICK)
    assert same(one.model, other.model) and one.settings == replace(chosen, ce=1.0)
