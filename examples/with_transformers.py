"""A converted network trained by the Trainer of transformers, beside its original: one callback.

    pip install 'ghostify[transformers]'
    python examples/with_transformers.py         # ResNet-20 on CIFAR-10, a minute

Weights and images as in ``examples/cifar10.py``; without them both are random, and it says so.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
import torch.nn.functional as F
from cifar10 import prepare, ready, some
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import EvalPrediction, Trainer, TrainingArguments

import ghostify
from ghostify.trainers.transformers import DistillationTrainerCallback


class Classifier(nn.Module):
    """Any network as the trainer wants it: a loss where there are labels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Class scores, and their cross-entropy with the labels."""
        logits = self.network(pixel_values)
        if labels is None:
            return {"logits": logits}
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Images(Dataset):
    """Images and labels under the names that the model takes."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.images[index], "labels": self.labels[index]}


def top1(found: EvalPrediction) -> dict[str, float]:
    """Top-1 accuracy in percent."""
    return {"accuracy": 100 * float(np.mean(found.predictions.argmax(1) == found.label_ids))}


def main() -> None:
    """Convert, train, and show what was logged."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="test images")
    parser.add_argument("--training", type=int, default=5000, help="training images")
    parser.add_argument("--steps", type=int, default=150, help="training steps")
    parser.add_argument("--logs", default="trainer_logs", help="folder of the trainer")
    arguments = parser.parse_args()
    steps = arguments.steps
    torch.manual_seed(0)
    original, training, test = prepare("resnet20-cifar", arguments.training, arguments.images)
    unlabelled = ready(original, some(training[0], 512))
    converted = ghostify.convert(original, s=2, calibration=unlabelled)
    options = TrainingArguments(
        arguments.logs, max_steps=steps, per_device_train_batch_size=64, optim="sgd",
        optim_args="momentum=0.9,nesterov=True", learning_rate=0.05, warmup_steps=10,
        lr_scheduler_type="cosine", logging_steps=min(50, steps), save_strategy="no",
        report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(
        Classifier(converted), options, compute_metrics=top1,
        train_dataset=Images(ready(original, training[0]), training[1]),
        eval_dataset=Images(ready(original, test[0]), test[1]),
    )  # fmt: skip
    trainer.add_callback(DistillationTrainerCallback(original, trainer, seconds=2))
    before = trainer.evaluate()["eval_accuracy"]
    trainer.train()
    after = trainer.evaluate()["eval_accuracy"]
    print(f"top-1 of the converted network: {before:.1f} %")
    print(f"after {steps} steps beside its original: {after:.1f} %")


if __name__ == "__main__":
    main()
