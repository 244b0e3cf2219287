"""A converted network trained by Lightning, beside its original: one callback.

    pip install 'ghostify[lightning]'
    python examples/with_lightning.py            # ResNet-20 on CIFAR-10, a minute

Weights and images as in ``examples/cifar10.py``; without them both are random, and it says so.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from cifar10 import Images, prepare, ready, some
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ghostify
from ghostify.trainers.lightning import DistillationCallback


class Classifier(LightningModule):
    """A module as anyone writes it: nothing in it knows of ghostify."""

    def __init__(self, network: nn.Module, steps: int) -> None:
        super().__init__()
        self.network, self.steps = network, steps

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy with the labels."""
        loss = F.cross_entropy(self.network(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Top-1 accuracy."""
        right = self.network(batch[0]).argmax(1) == batch[1]
        self.log("accuracy", 100 * right.float().mean())

    def configure_optimizers(self) -> dict[str, object]:
        """Momentum and one cycle."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, nesterov=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def main() -> None:
    """Convert, train, and show what was logged."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="test images")
    parser.add_argument("--training", type=int, default=5000, help="training images")
    parser.add_argument("--steps", type=int, default=150, help="training steps")
    parser.add_argument("--logs", default="lightning_logs", help="folder for the metrics")
    arguments = parser.parse_args()
    seed_everything(0, verbose=False)
    original, training, test = prepare("resnet20-cifar", arguments.training, arguments.images)

    def loader(images: Images, **options: bool) -> DataLoader:
        data = TensorDataset(ready(original, images[0]), images[1])
        return DataLoader(data, batch_size=64, **options)

    unlabelled = ready(original, some(training[0], 512))
    converted = ghostify.convert(original, s=2, calibration=unlabelled)
    logger = CSVLogger(arguments.logs)
    trainer = Trainer(
        max_steps=arguments.steps, logger=logger, log_every_n_steps=min(10, arguments.steps),
        accelerator="cpu", enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[DistillationCallback(original, seconds=2)],
    )  # fmt: skip
    module = Classifier(converted, arguments.steps)
    (before,) = trainer.validate(module, loader(test), verbose=False)
    trainer.fit(module, loader(training, shuffle=True))
    (after,) = trainer.validate(module, loader(test), verbose=False)
    print(f"top-1 of the converted network: {before['accuracy']:.1f} %")
    print(f"after {arguments.steps} steps beside its original: {after['accuracy']:.1f} %")
    print(f"logged: {logger.log_dir}/metrics.csv")


if __name__ == "__main__":
    main()
