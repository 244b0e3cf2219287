"""A caller's loader, read so that its batches depend on a seed, an epoch and their place alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ghostify.data.image_files import DataError
from ghostify.graph.failure import describe_error
from ghostify.numerics.chance import derive
from ghostify.numerics.random_state import keep_random_state

_END = object()


def check_length(loader: Any) -> None:
    """Raise where a loader does not tell how many batches it has, or has none.

    Raises:
        DataError: It does not, or has none.
    """
    try:
        count = len(loader)
    except TypeError as error:
        raise DataError(
            f"The {type(loader).__name__} has no length, and an epoch needs one: give a loader of "
            "a data set with a length."
        ) from error
    if not count:
        raise DataError("The loader has no batches: give at least one.")


@contextmanager
def _failures_told(place: int) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"Batch {place} of the loader can't be read ({describe_error(error)}): mend the loader "
            "or its data set."
        ) from error


class Stream:
    """Batches of a loader by epoch and place; those before an epoch's first one are passed over.

    Args:
        loader: Can be iterated over again and again.
        key: The seed.
    """

    def __init__(self, loader: Any, key: int) -> None:
        self._loader, self._key = loader, key
        self._epoch: int | None = -1
        self._place = -1
        self._batches: Iterator[Any] = iter(())
        self._last: Any = None

    def take(self, epoch: int | None, place: int) -> Any:
        """The batch at a place of an epoch; None is the epoch of an evaluation.

        Raises:
            DataError: The loader ends before, or fails.
        """
        seed = (self._key, -1 if epoch is None else epoch)
        if epoch != self._epoch or self._place < 0 or place < self._place:
            self._epoch, self._place = epoch, -1
            with keep_random_state(derive(*seed)), _failures_told(0):
                self._batches = iter(self._loader)
        while self._place < place:
            self._place += 1
            with keep_random_state(derive(*seed, self._place)), _failures_told(self._place):
                self._last = next(self._batches, _END)
            if self._last is _END:
                raise DataError(
                    f"The loader ended after {self._place} batches, before the length that it "
                    "tells: give one whose length is right."
                )
        return self._last
