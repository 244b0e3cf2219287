"""The weights of a saved network: from the network to a file, and back into it."""

from __future__ import annotations

from collections.abc import Mapping

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ghostify.errors import SavedFolderError, first_line
from ghostify.files import reading
from ghostify.nn.order import make_room_for_order
from ghostify.saving.layouts import laid_out, usual
from ghostify.saving.recipe import SavedFolder
from ghostify.saving.sealed import AGAIN


def state_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state of a network, as safetensors takes it: contiguous, each with memory of its own."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in model.state_dict().items():
        if not isinstance(value, Tensor) or is_lazy(value) or value.is_meta:
            raise SavedFolderError(
                f"{key!r} of this network is no tensor with data, and only those can be saved: "
                "leave it out of its state_dict."
            )
        if value.is_quantized:
            raise SavedFolderError(
                f"{key!r} of this network is quantised ({value.dtype}), which safetensors can't "
                "hold: save it before it is quantised."
            )
        tensor = value.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        tensors[key] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return tensors


def read_weights(folder: SavedFolder) -> dict[str, Tensor]:
    """Read a saved network's weights, and check them against the recipe's checksum.

    Raises:
        SavedFolderError: They are damaged or missing.
    """
    path = folder.weights.path
    try:
        with reading(path, AGAIN, SavedFolderError):
            state = load_file(path)
    except (RuntimeError, SafetensorError) as error:  # torch's own reader: RuntimeError
        raise SavedFolderError(f"{path} can't be read ({first_line(error)}): {AGAIN}.") from error
    folder.weights.check()
    return state


def fill(network: nn.Module, state: Mapping[str, Tensor], folder: SavedFolder) -> None:
    """Copy the saved state into a network of the same structure, types included."""
    make_room_for_order(network, state)
    own = _own_tensors(network)
    if any(is_lazy(tensor) for tensor in own.values()):
        network.load_state_dict(dict(state), strict=False)  # which gives them their shapes
        own = _own_tensors(network)
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    odd = [key for key in own.keys() & state.keys() if not _fits(state[key], own[key])]
    wrong = [*missing, *unexpected, *odd]
    if wrong:
        raise SavedFolderError(
            f"{folder.directory} doesn't fit this network: {len(wrong)} keys are missing, too many "
            f"or of another shape or kind ({', '.join(wrong[:3])}): "
            "give the original it was made from."
        )
    for key, tensor in own.items():
        # Through .data: a tied parameter stays one, and takes the type that was saved.
        saved = _as_it_lay(state[key].to(tensor.device), key, folder)
        strides = tensor.stride() if folder.strides is None else saved.stride()
        if tensor.dtype == saved.dtype and tensor.stride() == strides:
            tensor.data.copy_(saved)
        else:
            tensor.data = saved


def _own_tensors(network: nn.Module) -> dict[str, Tensor]:
    """A network's parameters and buffers themselves, by the names that its state has for them."""
    try:
        return network.state_dict(keep_vars=True)
    except TypeError:  # a state_dict of its own, without arguments
        return network.state_dict()


def _fits(saved: Tensor, own: Tensor) -> bool:
    """Whether a saved tensor has the shape, and the kind of numbers, of the network's own."""
    is_real = saved.is_floating_point() and own.is_floating_point()
    return saved.shape == own.shape and (is_real or saved.dtype == own.dtype)


def _as_it_lay(tensor: Tensor, key: str, folder: SavedFolder) -> Tensor:
    """A tensor with the strides that it was saved with."""
    if folder.strides is None:
        return tensor
    return laid_out(tensor, folder.strides.get(key) or usual(tensor.shape, folder.channels_last))
