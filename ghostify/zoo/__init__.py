"""Building a network from a name, and its trained weights from a file."""

from ghostify.zoo.sources import (
    build_model,
    find_object,
    list_models,
    runs_user_code,
    without_weights,
)
from ghostify.zoo.weights import load_weights

__all__ = [
    "build_model",
    "find_object",
    "list_models",
    "load_weights",
    "runs_user_code",
    "without_weights",
]
