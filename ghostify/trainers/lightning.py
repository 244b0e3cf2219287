"""A callback for Lightning's trainer: distillation at converted parts, costs and times logged."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from ghostify.errors import SettingsError
from ghostify.trainers.teaching import PREFIX, Teaching


class DistillationCallback(Callback):
    """Adds the distillation of `ghostify.finetune` to whatever a `LightningModule` is trained for.

    The module holds one converted network. In each training step its original runs on the same
    input, and the difference of both at the converted parts is added to the loss that
    ``training_step`` returns. The trainer's loggers get ``ghostify/features`` (that difference),
    the costs when the training begins, and the time in a runtime at its end.

    Args:
        teacher: The trained original; it is not changed, nor saved with the module.
        weight: Of the features' loss at first; it falls to zero by the end.
        runtime: What the time is measured in at the end (see `ghostify.benchmark`); None: it isn't.
        seconds: Most time for that.

    Raises:
        SettingsError: A value makes no sense, or the module optimizes by itself.
        ModelError: The module holds no converted network, or the teacher is not its original.

    Example:
        >>> trainer = Trainer(callbacks=[DistillationCallback(original)])  # doctest: +SKIP
    """

    def __init__(
        self,
        teacher: nn.Module,
        *,
        weight: float = 30.0,
        runtime: str | None = "eager",
        seconds: float = 5.0,
    ) -> None:
        self._teacher, self._weight = teacher, weight
        self._runtime, self._seconds = runtime, seconds
        self._teaching: Teaching | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the student from now on."""
        if not pl_module.automatic_optimization:
            raise SettingsError(
                f"{type(pl_module).__name__} optimizes by itself, so that nothing can be added to "
                "its loss: set automatic_optimization=True."
            )
        teaching = self._teaching = Teaching(pl_module, self._teacher, self._weight)
        teaching.attach()
        step = pl_module.training_step

        @functools.wraps(step)
        def with_teacher(*args: Any, **kwargs: Any) -> Any:
            output = step(*args, **kwargs)
            extra = teaching.loss(trainer.global_step, int(trainer.estimated_stepping_batches))
            if extra is None or output is None:  # Lightning skips a step without a loss
                return output
            pl_module.log(f"{PREFIX}/features", teaching.last or 0.0)
            return _add(output, extra)

        pl_module.training_step = with_teacher
        self._log(trainer, teaching.costs())

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the module as it was, and measure it."""
        teaching = self._teaching
        self._leave(pl_module)
        if teaching is not None and trainer.is_global_zero:
            self._log(trainer, teaching.times(self._runtime, self._seconds))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Leave the module as it was."""
        self._leave(pl_module)

    def _leave(self, pl_module: LightningModule) -> None:
        if self._teaching is not None:
            self._teaching.detach()
            pl_module.__dict__.pop("training_step", None)
            self._teaching = None

    def _log(self, trainer: Trainer, figures: Mapping[str, float]) -> None:
        if figures:
            for logger in trainer.loggers:
                logger.log_metrics(dict(figures), step=trainer.global_step)


def _add(output: Tensor | Mapping[str, Any], extra: Tensor) -> Any:
    """What a training step returned, with a larger loss."""
    if isinstance(output, Mapping):
        return {**output, "loss": output["loss"] + extra}
    return output + extra
