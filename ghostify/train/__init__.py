"""Tuning converted networks by distillation and labels, and measuring their accuracy."""

from ghostify.data.image_files import DataError
from ghostify.train.accuracy import Evaluation, Share
from ghostify.train.evaluation import evaluate
from ghostify.train.measured import Measured
from ghostify.train.result import Finetuned, LogRow
from ghostify.train.settings import FinetuneSettings
from ghostify.train.tuning import finetune

__all__ = [
    "DataError",
    "Evaluation",
    "FinetuneSettings",
    "Finetuned",
    "LogRow",
    "Measured",
    "Share",
    "evaluate",
    "finetune",
]
