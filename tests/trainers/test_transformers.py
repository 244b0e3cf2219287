"""The Trainer of transformers with the callback."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ghostify.errors import ModelError, SettingsError

pytest.importorskip("transformers", reason="needs ghostify[transformers]")

from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

import ghostify
from ghostify.trainers.transformers import DistillationTrainerCallback


class Classifier(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network, self.losses = network, []

    def forward(self, pixels, labels=None):
        logits = self.network(pixels)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits} if loss is not None else {"logits": logits}


def collate(items):
    images, labels = zip(*items, strict=True)
    return {"pixels": torch.stack(images), "labels": torch.tensor(labels)}


def make_trainer(model, images, folder, **options) -> Trainer:
    arguments = TrainingArguments(
        str(folder), max_steps=3, per_device_train_batch_size=4, logging_steps=1, report_to=[],
        use_cpu=True, save_strategy="no", disable_tqdm=True, remove_unused_columns=False, **options,
    )  # fmt: skip
    return Trainer(model, arguments, data_collator=collate, train_dataset=images)


def logged(trainer: Trainer, name: str) -> list[float]:
    return [row[name] for row in trainer.state.log_history if name in row]


def test_the_trainer_logs_features_costs_and_time(student, original, images, tmp_path):
    trainer = make_trainer(Classifier(student), images, tmp_path)
    trainer.add_callback(DistillationTrainerCallback(original, trainer, seconds=0))
    trainer.train()
    features = logged(trainer, "ghostify/features")
    assert len(features) == 3
    assert all(math.isfinite(value) and value > 0 for value in features)
    assert logged(trainer, "ghostify/macs_fewer") == [pytest.approx(1.92, abs=0.01)]
    assert logged(trainer, "ghostify/ms")[0] > 0


def test_the_loss_is_larger_by_the_weighted_difference(student, original, images, tmp_path):
    model = Classifier(student)
    state = {name: value.clone() for name, value in student.state_dict().items()}
    plain = make_trainer(model, images, tmp_path)
    plain.train()
    student.load_state_dict(state)
    taught = make_trainer(model, images, tmp_path)
    taught.add_callback(DistillationTrainerCallback(original, taught, weight=2.0, runtime=None))
    taught.train()
    extra = 2 * logged(taught, "ghostify/features")[0]
    assert logged(taught, "loss")[0] == pytest.approx(logged(plain, "loss")[0] + extra, rel=1e-2)
    assert not model._forward_hooks


def test_a_model_of_transformers_is_its_own_student(images, tmp_path):
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=10
    )
    original = ResNetForImageClassification(config)
    student = ghostify.convert(original, s=2, input_size=(3, 32, 32))
    trainer = make_trainer(student, images, tmp_path)
    trainer.data_collator = lambda items: {
        ("pixel_values" if name == "pixels" else name): value
        for name, value in collate(items).items()
    }
    trainer.add_callback(DistillationTrainerCallback(original, trainer, runtime=None))
    trainer.train()
    assert len(logged(trainer, "ghostify/features")) == 3


def test_a_loss_that_the_trainer_computes_is_refused(student, original, images, tmp_path):
    trainer = make_trainer(Classifier(student), images, tmp_path)
    trainer.compute_loss_func = F.cross_entropy
    with pytest.raises(SettingsError, match="computes the loss itself"):
        DistillationTrainerCallback(original, trainer)


def test_a_model_without_a_conversion_is_refused(original, images, tmp_path):
    trainer = make_trainer(Classifier(original), images, tmp_path)
    with pytest.raises(ModelError, match="holds no converted networks"):
        DistillationTrainerCallback(original, trainer)
