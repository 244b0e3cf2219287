"""Tuning converted networks by distillation and labels, and measuring their accuracy."""

from ghostify.train.evaluate import Evaluation, Share, evaluate
from ghostify.train.finetune import finetune
from ghostify.train.images import DataError
from ghostify.train.result import Finetuned, Row
from ghostify.train.settings import FinetuneSettings

__all__ = [
    "DataError",
    "Evaluation",
    "FinetuneSettings",
    "Finetuned",
    "Row",
    "Share",
    "evaluate",
    "finetune",
]
