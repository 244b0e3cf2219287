"""Lightning's trainer with the callback."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from ghostify.errors import ModelError, SettingsError

pytest.importorskip("lightning", reason="needs ghostify[lightning]")

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger

from ghostify.trainers.lightning import DistillationCallback


class Classifier(LightningModule):
    def __init__(self, network, as_dict=False):
        super().__init__()
        self.network, self.as_dict, self.losses = network, as_dict, []

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.network(batch[0]), batch[1])
        return {"loss": loss} if self.as_dict else loss

    def on_before_backward(self, loss):
        self.losses.append(float(loss))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(module, images, folder: Path, *callbacks):
    torch.manual_seed(0)
    trainer = Trainer(
        max_steps=3, accelerator="cpu", callbacks=list(callbacks), log_every_n_steps=1,
        logger=CSVLogger(folder), enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, barebones=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(images, batch_size=4))
    return trainer


def logged(trainer: Trainer) -> dict[str, list[float]]:
    with (Path(trainer.logger.log_dir) / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}


def test_the_loggers_get_features_costs_and_time(student, original, images, tmp_path):
    teacher = DistillationCallback(original, seconds=0)
    found = logged(fit(Classifier(student), images, tmp_path, teacher))
    assert len(found["ghostify/features"]) == 3
    assert all(math.isfinite(value) and value > 0 for value in found["ghostify/features"])
    assert found["ghostify/macs_fewer"] == [pytest.approx(1.92, abs=0.01)]
    assert found["ghostify/ms"][0] > 0


@pytest.mark.parametrize("as_dict", [False, True])
def test_the_loss_is_larger_by_the_weighted_difference(
    student, original, images, tmp_path, as_dict
):
    plain, taught = (Classifier(student, as_dict) for _ in range(2))
    state = {name: value.clone() for name, value in student.state_dict().items()}
    fit(plain, images, tmp_path / "plain")
    student.load_state_dict(state)
    teacher = DistillationCallback(original, weight=2.0, runtime=None)
    trainer = fit(taught, images, tmp_path / "taught", teacher)
    first = logged(trainer)["ghostify/features"][0]
    assert taught.losses[0] == pytest.approx(plain.losses[0] + 2 * first, rel=1e-3)


def test_the_module_is_left_as_it_was(student, original, images, tmp_path):
    module = Classifier(student)
    fit(module, images, tmp_path, DistillationCallback(original, runtime=None))
    assert module.training_step.__func__ is Classifier.training_step
    assert not any("teacher" in name for name in module.state_dict())


def test_a_module_that_optimizes_by_itself_is_refused(student, original, images, tmp_path):
    module = Classifier(student)
    module.automatic_optimization = False
    with pytest.raises(SettingsError, match="Classifier optimizes by itself"):
        fit(module, images, tmp_path, DistillationCallback(original))


def test_a_module_without_a_conversion_is_refused(original, images, tmp_path):
    with pytest.raises(ModelError, match="holds no converted networks"):
        fit(Classifier(original), images, tmp_path, DistillationCallback(original))
