"""Feature maps of student and teacher at the points where both can be compared.

They are read by hooks: the networks run as they always do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from ghostify.data.image_files import DataError
from ghostify.errors import GhostifyError, ModelError, first_line
from ghostify.numerics.finite import non_finite

Side = Literal["input", "output"]

Compute = Callable[[nn.Module, Any], Any]
"""What is computed with a network, of an input or of a batch."""


class Observed(nn.Module):
    """What is computed with a network, and what the network computes at some places meanwhile.

    Several processes and mixed precision wrap this module: whatever is computed, they see one
    forward pass.

    Args:
        network: Any network.
        places: Names of its modules, and whether what they are given or what they give is wanted.
        compute: What to compute with it: its class scores, where nothing else is asked for.

    Shape:
        - Input: what ``compute`` takes beside the network.
        - Output: ``(computed, features)``: what it gives, and a tensor for each call of each place.
    """

    def __init__(
        self,
        network: nn.Module,
        places: Sequence[tuple[str, Side]] = (),
        compute: Compute | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self._compute: Compute = compute or _scores
        self._seen: list[list[Tensor]] = [[] for _ in places]
        self._handles = []
        for number, (name, side) in enumerate(places):
            module = network.get_submodule(name)
            if side == "output":
                handle = module.register_forward_hook(
                    lambda _, args, out, n=number: self._note(n, out)
                )
            else:
                handle = module.register_forward_pre_hook(
                    lambda _, args, n=number: self._note(n, args[0] if args else None)
                )
            self._handles.append(handle)

    def _note(self, number: int, value: Any) -> None:
        if isinstance(value, Tensor):
            self._seen[number].append(value)

    def watch(self, inputs: Any) -> tuple[Any, list[list[Tensor]]]:
        """What is computed, and for each place what was seen at each of its calls."""
        self._forget()  # checkpointed activations are computed, and seen, once more going back
        computed = self._compute(self.network, inputs)
        return computed, self.collect()

    def collect(self) -> list[list[Tensor]]:
        """For each place what was seen at each of its calls since this was asked for last."""
        seen = self._seen
        self._forget()
        return seen

    def forward(self, inputs: Any) -> tuple[Any, tuple[Tensor, ...]]:
        """What is computed, and what was seen on the way."""
        computed, seen = self.watch(inputs)
        return computed, tuple(tensor for calls in seen for tensor in calls)

    def _forget(self) -> None:
        self._seen = [[] for _ in self._seen]

    def release(self) -> nn.Module:
        """The network, as it was."""
        for handle in self._handles:
            handle.remove()
        return self.network


def check_alike(made: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    """Raise where features of student and teacher can't be compared.

    Raises:
        ModelError: They have other shapes, or the networks were called more or less often.
    """
    ours, theirs = ([tuple(tensor.shape) for tensor in side] for side in (made, wanted))
    if ours != theirs:
        odd = next((pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]), None)
        what = f"{odd[0]} and {odd[1]}" if odd else f"{len(ours)} and {len(theirs)} of them"
        raise ModelError(
            f"Features of student and teacher no longer fit ({what}), though those of the first "
            "batch did: give features=0 (--features 0)."
        )


def _scores(network: nn.Module, images: Tensor) -> Tensor:
    return logits_of(network(images))


def logits_of(output: Any) -> Tensor:
    """The class scores in a network's output: itself, its first tensor, or its ``logits``.

    Raises:
        ModelError: There are none.
    """
    found = output
    if isinstance(found, dict):
        found = found.get("logits", found.get("out"))
    elif isinstance(found, tuple | list) and found:
        found = found[0]
    elif not isinstance(found, Tensor):
        found = getattr(found, "logits", None)
    if not isinstance(found, Tensor) or found.ndim != 2:
        what = tuple(found.shape) if isinstance(found, Tensor) else type(output).__name__
        raise ModelError(
            f"The network gives {what}, and no class scores (N, classes): "
            "give a network that classifies images."
        )
    return found


def scores_of(
    network: nn.Module,
    x: Tensor,
    name: str = "network",
    way_out: str = "images as its forward takes them, or input_size",
    error: type[GhostifyError] = DataError,
) -> Tensor:
    """A network's class scores ``(N, classes)`` for images.

    Args:
        network: In eval mode.
        x: The images, ``(N, C, H, W)``.
        name: What errors call the network.
        way_out: What to give where it can't take the images.
        error: What is raised.

    Raises:
        GhostifyError: It can't take the images, or its scores are not finite.
    """
    try:
        scores = logits_of(network(x)).float()
    except GhostifyError:
        raise
    except Exception as reason:  # exported programs fail an assertion
        size = "x".join(map(str, x.shape[1:]))
        raise error(
            f"The {name} can't take images of {size} ({first_line(reason).rstrip('.')}): give "
            f"{way_out}."
        ) from reason
    if non_finite([("scores", scores)]):
        bad = non_finite(network.state_dict().items())
        why = f"its {bad[0]!r} holds values that are not finite" if bad else "they overflow"
        raise error(f"The {name}'s class scores are not finite ({why}): give a trained network.")
    return scores
