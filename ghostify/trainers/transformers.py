"""A callback for transformers' trainer: distillation at converted parts, costs, times logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ghostify.errors import ModelError, SettingsError
from ghostify.trainers.teaching import PREFIX, Teaching


class DistillationTrainerCallback(TrainerCallback):
    """Adds the distillation of `ghostify.finetune` to what a ``Trainer`` trains its model for.

    The model is a converted network, or holds one. In each training step its original runs on the
    same input, and the difference of both at the converted parts is added to the loss that the
    model returns. The trainer logs ``ghostify/features`` (that difference) with the rest, the costs
    when the training begins, and the time in a runtime at its end.

    Args:
        teacher: The trained original; it is not changed, nor saved with the model.
        trainer: The trainer, which logs.
        weight: Of the features' loss at first; it falls to zero by the end.
        runtime: What the time is measured in at the end (see `ghostify.benchmark`); None: it isn't.
        seconds: Most time for that.

    Raises:
        SettingsError: A value makes no sense, or the trainer takes no loss from the model.
        ModelError: The model holds no converted network, or the teacher is not its original.

    Example:
        >>> trainer = Trainer(model, arguments)  # doctest: +SKIP
        >>> trainer.add_callback(DistillationTrainerCallback(original, trainer))  # doctest: +SKIP
    """

    def __init__(
        self,
        teacher: nn.Module,
        trainer: Trainer,
        *,
        weight: float = 30.0,
        runtime: str | None = "eager",
        seconds: float = 5.0,
    ) -> None:
        self._trainer, self._runtime, self._seconds = trainer, runtime, seconds
        if trainer.compute_loss_func is not None or trainer.args.label_smoothing_factor:
            raise SettingsError(
                "The trainer computes the loss itself (compute_loss_func, label_smoothing_factor), "
                "so that nothing can be added to the model's: let the model compute it."
            )
        self._teaching = Teaching(trainer.model, teacher, weight)
        self._hook: RemovableHandle | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Watch the student from now on."""
        teaching = self._teaching
        teaching.attach()

        def add(model: nn.Module, given: Any, kwargs: Any, output: Any) -> Any:
            extra = teaching.loss(state.global_step, state.max_steps)
            return output if extra is None else _add(output, extra * _part(kwargs))

        # After the student's own hook, which may be this very model's.
        self._hook = self._trainer.model.register_forward_hook(add, with_kwargs=True)
        self._trainer.log(teaching.costs())

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Log the difference whenever the trainer logs the loss."""
        if self._teaching.last is not None and "loss" in (logs or {}):
            self._trainer.log({f"{PREFIX}/features": self._teaching.last})

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Leave the model as it was, and measure it."""
        self._teaching.detach()
        if self._hook is not None:
            self._hook.remove()
        if state.is_world_process_zero:
            times = self._teaching.times(self._runtime, self._seconds)
            if times:
                self._trainer.log(dict(times))


def _part(kwargs: dict[str, Any]) -> float:
    """The part of a step that a call is, where the trainer leaves it to the model to divide."""
    whole, labels = kwargs.get("num_items_in_batch"), kwargs.get("labels")
    return 1.0 if whole is None or labels is None else labels.numel() / float(whole)


def _add(output: Any, extra: Tensor) -> Any:
    """What a model returned, with a larger loss."""
    is_named = isinstance(output, dict)
    loss = output.get("loss") if is_named else output[0] if isinstance(output, tuple) else None
    if loss is None or loss.ndim:
        raise ModelError(
            "The model returns no loss that the features' could be added to: give it labels."
        )
    if not is_named:
        return (loss + extra, *output[1:])
    output["loss"] = loss + extra
    return output
