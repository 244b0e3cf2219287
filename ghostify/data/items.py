"""Images and labels of the items of data sets and of the batches of loaders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ghostify.data.image_files import DataError


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
        return item[0] if item else None, item[1] if len(item) > 1 else None
    return item, None


def read_item(items: Any, index: int) -> Any:
    """An item of a data set.

    Raises:
        DataError: The data set fails.
    """
    try:
        return items[index]
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"Item {index} of the data can't be read ({type(error).__name__}: {error}): "
            "leave it out."
        ) from error


def describe_item(value: Any) -> str:
    """A value's kind in a few words, for a message."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"
