"""Images and labels of the items of data sets and of the batches of loaders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def split_item(item: Any) -> tuple[Any, Any]:
    """Image and label of an item, or images and labels of a batch; None where there are none.

    Example:
        >>> split_item({"image": "pixels", "label": 3}), split_item(["pixels"])
        (('pixels', 3), ('pixels', None))
    """
    if isinstance(item, Mapping):
        image = next((item[k] for k in ("image", "images", "pixel_values") if k in item), None)
        return image, next((item[k] for k in ("label", "labels") if k in item), None)
    if isinstance(item, tuple | list):
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def describe_item(value: Any) -> str:
    """A value's kind in a few words, for a message."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
